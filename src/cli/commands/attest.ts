/** `vram attest NAME`: has a service measure a shard with a nonce, and sign a statement about it. */
import { canonicalJson, printable } from "../../bytes.ts";
import type { StatementReply } from "../../client.ts";
import { type ErrorDetails, systemFix, systemReason, VramError } from "../../errors.ts";
import { isSystemError, tryNew, writeNew } from "../../files.ts";
import { EXIT } from "../exit.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";
import { type ServiceOptions, warnOfBackend, withService } from "../service-address.ts";

export interface AttestOptions extends ServiceOptions {
  readonly nonce?: string;
  readonly out?: string;
}

const EVIDENCE_SUFFIX = ".evidence.json";

function unwritten(path: string, cause: unknown, details: ErrorDetails = {}): VramError {
  const isThere = isSystemError(cause, "EEXIST");
  const message = `${path}: ${isThere ? "is there already" : (systemReason(cause) ?? String(cause))}`;
  const fix = isThere ? "name a file that is new" : (systemFix(cause) ?? "name another file");
  return new VramError("INVALID_ARGUMENT", message, { cause, fix, details: { argument: "--out", ...details } });
}

/** Refuses what could not be written before anything is measured and put on record. */
async function requireRoom(path: string): Promise<void> {
  for (const name of [path, `${path}${EVIDENCE_SUFFIX}`]) {
    await tryNew([name]).catch((cause: unknown) => {
      throw unwritten(name, cause);
    });
  }
}

const fileOf = (content: object): string => `${canonicalJson(content)}\n`;

/** Writes the files. A statement was put on record: one that cannot be written is printed, or in the error with `--json`. */
async function write(
  host: Host,
  { envelope, evidence }: StatementReply,
  path: string,
  json: boolean,
): Promise<string[]> {
  const files: [path: string, content: string][] = [[path, fileOf(envelope)]];
  if (evidence !== undefined) files.push([`${path}${EVIDENCE_SUFFIX}`, fileOf(evidence)]);
  await writeNew(files).catch((cause: unknown) => {
    if (!json) host.out(fileOf(envelope));
    throw unwritten(path, cause, { envelope, ...(evidence === undefined ? {} : { evidence }) });
  });
  return files.map(([name]) => name);
}

/** A word as a shell reads it. */
const shellWord = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

/** What somebody does with it next; on the talk output. */
function tell(host: Host, { statementId, record, evidence }: StatementReply, { nonce, out }: AttestOptions): void {
  const { name, digest, backend, shardIndex, totalShards } = record;
  const accepted = backend === "cuda" ? "" : ` --accept-backend ${backend}`;
  const asked = nonce === undefined ? "" : ` --nonce ${nonce}`;
  const part = totalShards === 1 ? "" : ` --part ${shardIndex + 1}/${totalShards}`;
  warnOfBackend(host, backend);
  host.err(`${printable(`${statementId}: ${name} was measured as fsverity:${digest}`)}\n`);
  if (nonce === undefined)
    host.err("without --nonce nothing shows when it was made: whoever checks should choose one\n");
  if (evidence !== undefined && out === undefined) host.err("the GPU's own evidence comes with --out or --json\n");
  const command = `vram attest check ${shellWord(out ?? "FILE")} --pub DIR/statement.pub.pem --model MODEL`;
  host.err(`check it with: ${printable(`${command}${part}${asked}${accepted}`)}\n`);
  host.err("where DIR is that of `vram attest keys --out DIR`\n");
}

/** Runs the command. */
export async function runAttest(host: Host, [name = ""]: readonly string[], options: AttestOptions): Promise<number> {
  const { nonce, out } = options;
  if (out !== undefined) await requireRoom(out);
  const request = { shard: name, ...(nonce === undefined ? {} : { nonce }) };
  const reply = await withService(host, options, (client) => client.attest(request, { signal: host.signal }));
  const files = out === undefined ? [] : await write(host, reply, out, options.json === true);
  if (options.json === true) {
    printJson(host, "attest-issue", { ok: true, ...reply, files });
    return EXIT.ok;
  }
  if (out === undefined) host.out(fileOf(reply.envelope));
  tell(host, reply, options);
  return EXIT.ok;
}
