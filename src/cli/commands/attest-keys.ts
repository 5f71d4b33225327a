/** `vram attest keys`: the public keys that statements are checked with; never a secret. */
import { promises } from "node:fs";
import { join } from "node:path";
import { printable } from "../../bytes.ts";
import type { StatementKeysReply } from "../../client.ts";
import { systemFix, systemReason, toVramError, VramError } from "../../errors.ts";
import { isSystemError, makeFolder, tryNew, writeNew } from "../../files.ts";
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

type KeyFile = readonly [path: string, text: string];

/** Those of the files that are not there yet, in a folder that is. */
async function missingOf(
  folder: string,
  files: readonly (readonly [path: string, text?: string])[],
): Promise<string[]> {
  const missing = [];
  for (const [path, text] of files) if (await isMissing(path, text)) missing.push(path);
  await makeFolder(folder).catch((cause: unknown) => {
    throw unwritten(folder, cause);
  });
  return missing;
}

const filesOf = ({ publicKey, logKey }: StatementKeysReply, folder: string): readonly [pub: KeyFile, log: KeyFile] => [
  [join(folder, PUBLIC_KEY_FILE), publicKey],
  [join(folder, LOG_KEY_FILE), `${logKey}\n`],
];

/** Refuses a folder in which a key that is yet to be made would find no place. */
async function requireRoom(folder: string, before: StatementKeysReply): Promise<void> {
  const [[path], log] = filesOf(before, folder);
  const missing = await missingOf(folder, [[path], log]);
  await tryNew(missing).catch((cause: unknown) => {
    throw unwritten(folder, cause);
  });
}

/** Writes both keys, or none. */
async function writeKeys(keys: StatementKeysReply, folder: string): Promise<readonly string[]> {
  const files = filesOf(keys, folder);
  const missing = await missingOf(folder, files);
  await writeNew(files.filter(([path]) => missing.includes(path))).catch((cause: unknown) => {
    throw unwritten(folder, cause);
  });
  return files.map(([path]) => path);
}

/** What is shown: the names of keys, where they were written, and the public key itself if it was not. */
function textOf(keys: StatementKeysReply, files: readonly string[]): string {
  const lines = [
    `statement key  ${keys.keyId}`,
    `log            ${keys.origin}`,
    `log key        ${keys.logKey}`,
    ...(files.length === 0 ? [] : [`written        ${files.join(", ")}`]),
  ].map(printable);
  return `${lines.join("\n")}\n${files.length === 0 ? keys.publicKey : ""}`;
}

/** The key signs already, whatever became of its files: it is printed, or in the error with `--json`. */
function rotatedUnwritten(host: Host, keys: StatementKeysReply, thrown: unknown, json: boolean): VramError {
  if (!json) host.out(textOf(keys, []));
  const { message, fix, details } = toVramError(thrown);
  return new VramError("INVALID_ARGUMENT", `the key was rotated, and could not be written: ${message}`, {
    cause: thrown,
    fix: `${fix}; \`vram attest keys --out DIR\` writes the new key again`,
    details: { ...details, ...keys },
  });
}

/** Runs the command. */
export async function runAttestKeys(
  host: Host,
  _words: readonly string[],
  options: AttestKeysOptions,
): Promise<number> {
  const { out, rotate } = options;
  const json = options.json === true;
  const call = { signal: host.signal };
  const keys = await withService(host, options, async (client) => {
    if (rotate === undefined) return client.statementKeys(call);
    if (out !== undefined) await requireRoom(out, await client.statementKeys(call));
    return client.rotateStatementKey({ reason: rotate }, call);
  });
  const write = async (): Promise<readonly string[]> => (out === undefined ? [] : writeKeys(keys, out));
  const files = await write().catch((thrown: unknown) => {
    throw rotate === undefined ? thrown : rotatedUnwritten(host, keys, thrown, json);
  });
  if (json) printJson(host, "attest-keys", { ok: true, ...keys, files });
  else host.out(textOf(keys, files));
  if (!json && rotate !== undefined)
    host.err("a new key signs from now on: hand its public half to whoever checks statements\n");
  return EXIT.ok;
}
