/** `vram audit prove`: makes the proof that an entry is in the log, as a file for others. Checking is in audit-check.ts. */
import { encodeVkey } from "../../audit/note.ts";
import { type Proved, proveLine } from "../../audit/prove-line.ts";
import { encodeProofFile } from "../../audit/tlog-proof.ts";
import { toHex } from "../../bytes.ts";
import { VramError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import { EXIT } from "../exit.ts";
import { type Host, printError } from "../host.ts";
import { printJson } from "../json.ts";
import { parseSeq } from "../numbers.ts";
import { readSmallFile } from "../read-file.ts";
import { type LogOptions, logFolderOf } from "../state-dir.ts";
import { runAuditCheck } from "./audit-check.ts";

export interface AuditProveOptions extends LogOptions {
  readonly json?: true;
  readonly since?: string;
  readonly check?: string;
  readonly line?: string;
  readonly logKey?: string;
}

const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString("utf8");

/** What `--json` prints of a proof. */
function documentOf(proved: Extract<Proved, { readonly ok: true }>): object {
  const { proof, continuation, checkpoint, leaf, key, keyFrom } = proved;
  return {
    ok: true,
    seq: proof.index,
    entries: checkpoint.size,
    ...(proof.extra === undefined ? { pruned: true } : { pruned: false, line: textOf(proof.extra) }),
    leafHash: toHex(leaf),
    hashes: proof.hashes.map(toHex),
    checkpoint: textOf(proof.checkpoint),
    logKey: encodeVkey(key),
    logKeyFrom: keyFrom,
    ...(continuation === undefined
      ? {}
      : { consistency: { from: continuation.from, hashes: continuation.hashes.map(toHex) } }),
    proof: textOf(encodeProofFile({ proof, continuation })),
  };
}

async function prove(host: Host, word: string, options: AuditProveOptions): Promise<number> {
  const seq = parseSeq(word, "SEQ");
  const since = options.since === undefined ? {} : { since: await readSmallFile(options.since, LIMITS.noteBytes) };
  const logKey = options.logKey === undefined ? {} : { logKey: options.logKey };
  const { folder } = await logFolderOf(options, host.env);
  const proved = await proveLine(folder, seq, { ...since, ...logKey });
  if (!proved.ok) {
    const error = new VramError("STATE_INVALID", `no proof: ${proved.message}`, {
      fix: "`vram audit verify` says what is wrong with the log",
    });
    if (options.json === true) printJson(host, "audit-prove", { ok: false, error });
    else printError(host, error);
    return EXIT.mismatch;
  }
  if (options.json === true) {
    printJson(host, "audit-prove", documentOf(proved));
    return EXIT.ok;
  }
  if (proved.proof.extra === undefined) {
    host.err(`entry ${seq} was pruned: the proof is about its leaf hash, and the line is not in it\n`);
  }
  host.out(textOf(encodeProofFile(proved)));
  return EXIT.ok;
}

/** Runs the command. Exit 3 if the log is not what was signed, or the proof that is checked does not hold. */
export async function runAuditProve(host: Host, words: readonly string[], options: AuditProveOptions): Promise<number> {
  const [word] = words;
  const { check } = options;
  if ((word === undefined) === (check === undefined)) {
    throw new VramError("INVALID_ARGUMENT", "give the seq of an entry to prove, or --check FILE", {
      fix: "vram audit prove SEQ, or vram audit prove --check FILE --log-key VKEY",
    });
  }
  if (check !== undefined) {
    if (options.log !== undefined || options.stateDir !== undefined) {
      throw new VramError("INVALID_ARGUMENT", "--check reads no log: leave --log and --state-dir out");
    }
    return runAuditCheck(host, { ...options, check });
  }
  if (options.line !== undefined) throw new VramError("INVALID_ARGUMENT", "--line goes with --check");
  return prove(host, word ?? "", options);
}
