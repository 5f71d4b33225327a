/** `vram audit keys`: the public half of the log's keys, and the escrow key of a log that is to come. Never a secret. */
import { existsSync, promises } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { wipeEpochKey } from "../../audit/epochs.ts";
import {
  AUDIT_FOLDER,
  auditFolder,
  EPOCH_KEY_FILE,
  escrowEpochKey,
  readEpochFile,
  readSigningKey,
  SIGNING_KEY_FILE,
} from "../../audit/key-files.ts";
import { encodeVkey, noteKeyOf } from "../../audit/note.ts";
import { readFoundKey, VKEY_FILE } from "../../audit/stored-checkpoints.ts";
import { printable } from "../../bytes.ts";
import { systemFix, systemReason, VramError } from "../../errors.ts";
import { EXIT } from "../exit.ts";
import { colorsFor, type Host } from "../host.ts";
import { printJson } from "../json.ts";
import { listNames, type StateOptions, stateDirOf, stateHasLog } from "../state-dir.ts";

export interface AuditKeysOptions extends StateOptions {
  readonly json?: true;
  readonly escrow?: string;
}

/** What is known of the keys of a state, without their secrets. */
interface Keys {
  readonly origin: string | undefined;
  readonly logKey: string | undefined;
  /** Of the key that is kept: the epoch that runs, or ran last; 0 before the first start. */
  readonly epoch: number | undefined;
  readonly files: readonly { readonly file: string; readonly present: boolean }[];
  /** Whether the key that signs is the one that `log.vkey` names; undefined if one of both is missing. */
  readonly signsWithLogKey: boolean | undefined;
}

async function readKeys(stateDir: string): Promise<Keys> {
  const folder = auditFolder(stateDir);
  // What this user may not look into is not empty.
  for (const looked of [stateDir, folder]) await listNames(looked);
  const found = await readFoundKey(folder);
  const logKey = found === undefined ? undefined : encodeVkey(found);
  const epochKey = await readEpochFile(join(stateDir, EPOCH_KEY_FILE));
  if (epochKey !== undefined) wipeEpochKey(epochKey);
  const signer = found === undefined ? undefined : await readSigningKey(stateDir, found.name);
  const signs = signer === undefined ? undefined : encodeVkey(noteKeyOf(signer)) === logKey;
  const names = [EPOCH_KEY_FILE, SIGNING_KEY_FILE, join(AUDIT_FOLDER, VKEY_FILE)];
  const files = names.map((file) => ({ file, present: existsSync(join(stateDir, file)) }));
  return { origin: found?.name, logKey, epoch: epochKey?.epoch, files, signsWithLogKey: signs };
}

/** What each key file is for. */
const PURPOSES: Readonly<Record<string, string>> = {
  [EPOCH_KEY_FILE]: "secret: makes and checks the macs of this epoch and later ones",
  [SIGNING_KEY_FILE]: "secret: signs log checkpoints",
  [join(AUDIT_FOLDER, VKEY_FILE)]: "public: checks log checkpoints; give it to auditors",
};

function printKeys(host: Host, stateDir: string, keys: Keys): void {
  const colors = colorsFor(host, host.outIsTerminal);
  const { origin, logKey, epoch, files, signsWithLogKey } = keys;
  const lines = [
    `log      ${origin ?? "none yet; it gets its name at the first start"}`,
    `log key  ${logKey ?? "none yet; it is made at the first start"}`,
    `epoch    ${epoch ?? "unknown: there is no epoch key"}`,
    ...files.map(
      ({ file, present }) =>
        `${present ? "✓" : "·"} ${join(stateDir, file)}${present ? "" : " (missing)"}: ${PURPOSES[file] ?? ""}`,
    ),
  ].map(printable);
  if (signsWithLogKey === false) {
    lines.push(`${colors.red("✗")} ${join(AUDIT_FOLDER, VKEY_FILE)} is not the public half of ${SIGNING_KEY_FILE}`);
  }
  host.out(`${lines.join("\n")}\n`);
}

async function show(host: Host, stateDir: string, json: boolean): Promise<number> {
  const keys = await readKeys(stateDir);
  if (keys.files.every(({ present }) => !present)) {
    throw new VramError("STATE_INVALID", `${stateDir}: there are no keys of an audit log in this state directory`, {
      fix: "name another one with --state-dir; `vram try --state-dir DIR FILE` writes a log",
    });
  }
  const isSound = keys.signsWithLogKey !== false;
  if (json) printJson(host, "audit-keys", { ok: isSound, stateDir, ...keys });
  else printKeys(host, stateDir, keys);
  return isSound ? EXIT.ok : EXIT.mismatch;
}

/** The folders on the way to `path` that do not exist, the innermost first. */
function missingFolders(path: string): readonly string[] {
  const missing: string[] = [];
  for (let at = resolve(path); !existsSync(at); at = dirname(at)) missing.push(at);
  return missing;
}

/** Makes K(0) and its copy. If that fails, what was made for it is gone again. */
async function escrow(stateDir: string, file: string): Promise<void> {
  // Loaded here: the rest of this command needs nothing that is native.
  const { requirePrivateDirectory } = await import("../../residency/state.ts");
  const missing = missingFolders(stateDir);
  try {
    await requirePrivateDirectory(stateDir);
    await escrowEpochKey(stateDir, file);
  } catch (cause) {
    // One that somebody has put something into meanwhile is not empty, and stays.
    for (const folder of missing) await promises.rmdir(folder).catch(() => undefined);
    if (cause instanceof VramError) throw cause;
    const fix = systemFix(cause) ?? "name a new file in a folder that exists and that this user may write to";
    const message = `${file}: the escrow file cannot be made: ${systemReason(cause) ?? String(cause)}`;
    throw new VramError("STATE_INVALID", message, { cause, fix });
  }
}

async function makeEscrow(host: Host, stateDir: string, file: string, json: boolean): Promise<number> {
  if (await stateHasLog(stateDir)) {
    throw new VramError("STATE_INVALID", `${stateDir}: this state has an audit log, whose K(0) is gone`, {
      fix: "escrow belongs before the first start: use a new state directory",
    });
  }
  await escrow(stateDir, file);
  if (json) {
    printJson(host, "audit-keys", { ok: true, stateDir, escrow: file, epoch: 0 });
    return EXIT.ok;
  }
  const lines = [
    `${file}: K(0) of the audit log that ${stateDir} will have`,
    "  Whoever has it can check every mac of that log, and can forge every one of them.",
    "  Take it off this machine now: keep it offline, where those who run the machine cannot read it.",
    "  It cannot be had a second time. An auditor uses it with `vram audit verify --epoch-key FILE`.",
  ];
  host.out(`${lines.map(printable).join("\n")}\n`);
  return EXIT.ok;
}

/** Runs the command. */
export async function runAuditKeys(host: Host, _words: readonly string[], options: AuditKeysOptions): Promise<number> {
  const stateDir = stateDirOf(options, host.env);
  const json = options.json === true;
  return options.escrow === undefined ? show(host, stateDir, json) : makeEscrow(host, stateDir, options.escrow, json);
}
