/** `vram attest NAME`: has a service measure a shard with a nonce, and sign a statement about it. */
import { promises } from "node:fs";
import { canonicalJson, printable } from "../../bytes.ts";
import type { StatementReply } from "../../client.ts";
import { systemFix, systemReason, VramError } from "../../errors.ts";
import { isSystemError } from "../../files.ts";
import { EXIT } from "../exit.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";
import { type ServiceOptions, warnOfBackend, withService } from "../service-address.ts";

export interface AttestOptions extends ServiceOptions {
  readonly nonce?: string;
  readonly out?: string;
}

const EVIDENCE_SUFFIX = ".evidence.json";

/** Writes a file that is new: a statement is not replaced by another. */
async function writeNew(path: string, content: string): Promise<void> {
  await promises.writeFile(path, content, { flag: "wx" }).catch((cause: unknown) => {
    const isThere = isSystemError(cause, "EEXIST");
    const message = `${path}: ${isThere ? "is there already" : (systemReason(cause) ?? String(cause))}`;
    const fix = isThere ? "name a file that is new" : (systemFix(cause) ?? "name another file");
    throw new VramError("INVALID_ARGUMENT", message, { cause, fix, details: { argument: "--out" } });
  });
}

/** Refuses what could not be written before anything is measured and put on record. */
async function requireNew(path: string): Promise<void> {
  const names = [path, `${path}${EVIDENCE_SUFFIX}`];
  for (const name of names) {
    const there = await promises.lstat(name).catch(() => undefined);
    if (there !== undefined) {
      const details = { argument: "--out" };
      throw new VramError("INVALID_ARGUMENT", `${name}: is there already`, { fix: "name a file that is new", details });
    }
  }
}

async function write({ envelope, evidence }: StatementReply, path: string): Promise<readonly string[]> {
  await writeNew(path, `${canonicalJson(envelope)}\n`);
  if (evidence === undefined) return [path];
  await writeNew(`${path}${EVIDENCE_SUFFIX}`, `${canonicalJson(evidence)}\n`);
  return [path, `${path}${EVIDENCE_SUFFIX}`];
}

/** What somebody does with it next; on the talk output. */
function tell(host: Host, { statementId, record, evidence }: StatementReply, { nonce, out }: AttestOptions): void {
  const { name, digest, backend } = record;
  const file = out ?? "FILE";
  const accepted = backend === "cuda" ? "" : ` --accept-backend ${backend}`;
  const asked = nonce === undefined ? "" : ` --nonce ${nonce}`;
  warnOfBackend(host, backend);
  host.err(`${printable(`${statementId}: ${name} was measured as fsverity:${digest}`)}\n`);
  if (nonce === undefined)
    host.err("without --nonce nothing shows when it was made: whoever checks should choose one\n");
  if (evidence !== undefined && out === undefined) host.err("the GPU's own evidence comes with --out or --json\n");
  const command = `vram attest check ${file} --pub statement.pub.pem --model MODEL${asked}${accepted}`;
  host.err(`check it with: ${printable(command)}\n`);
}

/** Runs the command. */
export async function runAttest(host: Host, [name = ""]: readonly string[], options: AttestOptions): Promise<number> {
  const { nonce, out } = options;
  if (out !== undefined) await requireNew(out);
  const request = { shard: name, ...(nonce === undefined ? {} : { nonce }) };
  const reply = await withService(host, options, (client) => client.attest(request, { signal: host.signal }));
  const files = out === undefined ? [] : await write(reply, out);
  if (options.json === true) {
    printJson(host, "attest", { ok: true, ...reply, files });
    return EXIT.ok;
  }
  if (out === undefined) host.out(`${canonicalJson(reply.envelope)}\n`);
  tell(host, reply, options);
  return EXIT.ok;
}
