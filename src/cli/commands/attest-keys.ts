/** `vram attest keys`: the public keys that statements are checked with; never a secret. */
import { promises } from "node:fs";
import { join } from "node:path";
import { printable } from "../../bytes.ts";
import type { StatementKeysReply } from "../../client.ts";
import { systemFix, systemReason, VramError } from "../../errors.ts";
import { isSystemError } from "../../files.ts";
import { EXIT } from "../exit.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";
import { type ServiceOptions, withService } from "../service-address.ts";

export interface AttestKeysOptions extends ServiceOptions {
  readonly out?: string;
  readonly rotate?: string;
}

const PUBLIC_KEY_FILE = "statement.pub.pem";
const LOG_KEY_FILE = "log.vkey";

const unwritten = (path: string, cause: unknown): VramError =>
  new VramError("INVALID_ARGUMENT", `${path}: ${systemReason(cause) ?? String(cause)}`, {
    cause,
    fix: systemFix(cause) ?? "name another folder",
    details: { argument: "--out" },
  });

/** Whether there is no such file yet. One that has something else in it is not replaced: somebody may rely on it. */
async function isMissing(path: string, text?: string): Promise<boolean> {
  const there = await promises.readFile(path, "utf8").catch((cause: unknown) => {
    if (isSystemError(cause, "ENOENT")) return undefined;
    throw unwritten(path, cause);
  });
  if (there === undefined || there === text) return there === undefined;
  throw new VramError("INVALID_ARGUMENT", `${path}: is there, and is another key`, {
    fix: "if the key was rotated, name a new folder: statements from before need the old one",
    details: { argument: "--out" },
  });
}

const logKeyText = ({ logKey }: StatementKeysReply): string => `${logKey}\n`;

/** Refuses a folder in which a key that is yet to be made would find no place. */
async function requireRoom(folder: string, before: StatementKeysReply): Promise<void> {
  await isMissing(join(folder, PUBLIC_KEY_FILE));
  await isMissing(join(folder, LOG_KEY_FILE), logKeyText(before));
}

/** Writes both keys, or none. */
async function writeKeys(keys: StatementKeysReply, folder: string): Promise<readonly string[]> {
  const files = [
    [join(folder, PUBLIC_KEY_FILE), keys.publicKey],
    [join(folder, LOG_KEY_FILE), logKeyText(keys)],
  ] as const;
  const missing = [];
  for (const file of files) if (await isMissing(...file)) missing.push(file);
  await promises.mkdir(folder, { recursive: true }).catch((cause: unknown) => {
    throw unwritten(folder, cause);
  });
  for (const [path, text] of missing) {
    await promises.writeFile(path, text, { flag: "wx" }).catch((cause: unknown) => {
      throw unwritten(path, cause);
    });
  }
  return files.map(([path]) => path);
}

/** Runs the command. */
export async function runAttestKeys(
  host: Host,
  _words: readonly string[],
  options: AttestKeysOptions,
): Promise<number> {
  const { out, rotate } = options;
  const call = { signal: host.signal };
  const keys = await withService(host, options, async (client) => {
    if (rotate === undefined) return client.statementKeys(call);
    if (out !== undefined) await requireRoom(out, await client.statementKeys(call));
    return client.rotateStatementKey({ reason: rotate }, call);
  });
  const files = out === undefined ? [] : await writeKeys(keys, out);
  if (options.json === true) {
    printJson(host, "attest-keys", { ok: true, ...keys, files });
    return EXIT.ok;
  }
  const lines = [
    `statement key  ${keys.keyId}`,
    `log            ${keys.origin}`,
    `log key        ${keys.logKey}`,
    ...(files.length === 0 ? [] : [`written        ${files.join(", ")}`]),
  ].map(printable);
  host.out(`${lines.join("\n")}\n${out === undefined ? keys.publicKey : ""}`);
  if (rotate !== undefined)
    host.err("a new key signs from now on: hand its public half to whoever checks statements\n");
  return EXIT.ok;
}
