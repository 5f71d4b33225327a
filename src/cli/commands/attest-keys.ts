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

/** Writes a key. One that is there and another is not replaced: somebody may rely on it. */
async function writeKey(path: string, text: string): Promise<void> {
  const there = await promises.readFile(path, "utf8").catch((cause: unknown) => {
    if (isSystemError(cause, "ENOENT")) return undefined;
    throw unwritten(path, cause);
  });
  if (there === text) return;
  if (there !== undefined) {
    throw new VramError("INVALID_ARGUMENT", `${path}: is there, and is another key`, {
      fix: "if the key was rotated, name a new folder: statements from before need the old one",
      details: { argument: "--out" },
    });
  }
  await promises.writeFile(path, text, { flag: "wx" }).catch((cause: unknown) => {
    throw unwritten(path, cause);
  });
}

async function writeKeys({ publicKey, logKey }: StatementKeysReply, folder: string): Promise<readonly string[]> {
  await promises.mkdir(folder, { recursive: true }).catch((cause: unknown) => {
    throw unwritten(folder, cause);
  });
  const files = [join(folder, PUBLIC_KEY_FILE), join(folder, LOG_KEY_FILE)] as const;
  await writeKey(files[0], publicKey);
  await writeKey(files[1], `${logKey}\n`);
  return files;
}

/** Runs the command. */
export async function runAttestKeys(
  host: Host,
  _words: readonly string[],
  options: AttestKeysOptions,
): Promise<number> {
  const { out, rotate } = options;
  const call = { signal: host.signal };
  const keys = await withService(host, options, (client) =>
    rotate === undefined ? client.statementKeys(call) : client.rotateStatementKey({ reason: rotate }, call),
  );
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
