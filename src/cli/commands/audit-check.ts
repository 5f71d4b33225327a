/** `vram audit prove --check`: judges a proof with the log's public key and nothing else: no log, no state, no secret. */
import { type CheckedCheckpoint, checkCheckpoint, type LogCheckpoint } from "../../audit/checkpoint.ts";
import { type NoteKey, parseVkey } from "../../audit/note.ts";
import { parseLine } from "../../audit/parse-line.ts";
import {
  checkContinuation,
  checkTlogProof,
  PROOF_FILE_BYTES,
  type ProofFault,
  type ProofFile,
  parseProofFile,
} from "../../audit/tlog-proof.ts";
import { leafHash } from "../../audit/tree.ts";
import { constantTimeEqual, printable, toHex } from "../../bytes.ts";
import { VramError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import { EXIT } from "../exit.ts";
import { colorsFor, type Host } from "../host.ts";
import { printJson } from "../json.ts";
import { readSmallFile } from "../read-file.ts";
import { tellLine } from "./audit-sentence.ts";

export interface AuditCheckOptions {
  readonly json?: true;
  readonly check: string;
  readonly logKey?: string;
  readonly line?: string;
  readonly since?: string;
}

/** Why a proof was not accepted; `line`: what it is about is not the line of its index. */
type Fault = ProofFault | "line";

const FAULTS: Readonly<Record<Fault, string>> = {
  malformed: "the file is not a proof",
  origin: "the proof is about another log than this key's",
  unsigned: "its log checkpoint is not signed by this key",
  signature: "the signature of its log checkpoint does not hold",
  line: "the line is not the one that the proof is about",
  inclusion: "the line is not in the log that was signed, at this place",
  consistency: "the log does not continue the remembered log checkpoint",
};

type Judged =
  | { readonly ok: true; readonly seq: number; readonly line: Uint8Array; readonly checkpoint: LogCheckpoint }
  | { readonly ok: false; readonly fault: Fault };

const LF = 0x0a;

/** A line that was kept elsewhere, with or without its line feed. */
async function readLineFile(path: string): Promise<Uint8Array> {
  const bytes = await readSmallFile(path, LIMITS.auditLineBytes);
  return bytes.at(-1) === LF ? bytes.subarray(0, -1) : bytes;
}

const invalid = (argument: string, message: string, fix: string): VramError =>
  new VramError("INVALID_ARGUMENT", message, { fix, details: { argument } });

/** The line that is to be in the log: from the proof, or from elsewhere. If there are both they have to be the same. */
async function lineOf({ proof }: ProofFile, path: string | undefined): Promise<Uint8Array | "differs"> {
  const given = path === undefined ? undefined : await readLineFile(path);
  const line = given ?? proof.extra;
  if (line === undefined) {
    throw invalid("line", "the proof does not hold the line, which was pruned", "give the line with --line FILE");
  }
  return proof.extra === undefined || constantTimeEqual(proof.extra, line) ? line : "differs";
}

/** Whether the log continues the remembered one. The file has a proof of that, or the sizes are the same. */
function judgeSince({ continuation }: ProofFile, since: CheckedCheckpoint, at: LogCheckpoint, key: NoteKey): boolean {
  if (!since.ok) {
    const what = `the remembered log checkpoint is none of the log with this key: ${since.fault}`;
    throw invalid("since", what, "give the log checkpoint and the key of the same log");
  }
  const remembered = since.checkpoint;
  if (remembered.size === at.size) return constantTimeEqual(remembered.root, at.root);
  if (continuation?.from !== remembered.size) {
    const has = continuation === undefined ? "no such proof" : `one from ${continuation.from} entries on`;
    const what = `the remembered log checkpoint covers ${remembered.size} entries, and the file has ${has}`;
    throw invalid("since", what, "make the proof with --since and the same log checkpoint");
  }
  return checkContinuation(continuation, remembered, key).ok;
}

async function judge(file: ProofFile | undefined, key: NoteKey, options: AuditCheckOptions): Promise<Judged> {
  if (file === undefined) return { ok: false, fault: "malformed" };
  const line = await lineOf(file, options.line);
  const since = options.since === undefined ? undefined : await readSmallFile(options.since, LIMITS.noteBytes);
  if (line === "differs" || line.byteLength >= LIMITS.auditLineBytes) return { ok: false, fault: "line" };
  const { proof } = file;
  const checked = checkTlogProof(proof, leafHash(line), key);
  if (!checked.ok) return checked;
  const parsed = parseLine(line);
  if (!parsed.ok || parsed.line.seq !== proof.index) return { ok: false, fault: "line" };
  const { checkpoint } = checked;
  if (since !== undefined && !judgeSince(file, checkCheckpoint(since, key), checkpoint, key)) {
    return { ok: false, fault: "consistency" };
  }
  return { ok: true, seq: proof.index, line, checkpoint };
}

function printJudged(host: Host, judged: Judged, file: ProofFile | undefined, options: AuditCheckOptions): void {
  const colors = colorsFor(host, host.outIsTerminal);
  if (!judged.ok) {
    host.out(`${colors.red("✗")} the proof does not hold: ${FAULTS[judged.fault]}\n`);
    return;
  }
  const { seq, line, checkpoint } = judged;
  const parsed = parseLine(line);
  const told = parsed.ok ? `${parsed.line.type}: ${tellLine(parsed.line).sentence}` : "";
  const lines = [
    `${colors.green("✓")} entry ${seq} is in the log ${checkpoint.origin}, signed over ${checkpoint.size} entries`,
    `  ${told}`,
  ];
  if (options.since !== undefined) lines.push("  the log continues the remembered log checkpoint");
  else if (file?.continuation !== undefined) {
    lines.push("  not judged: that the log continues another log checkpoint; give that one with --since");
  }
  host.out(`${lines.map(printable).join("\n")}\n`);
}

/** Runs the check. Exit 0 if the proof holds, 3 if not. */
export async function runAuditCheck(host: Host, options: AuditCheckOptions): Promise<number> {
  if (options.logKey === undefined) {
    const fix = "give it with --log-key; `vram audit keys` prints it, and it should come from the log's owner";
    throw invalid("logKey", "a proof is checked with the log's public key", fix);
  }
  const key = parseVkey(options.logKey);
  const file = parseProofFile(await readSmallFile(options.check, PROOF_FILE_BYTES));
  const judged = await judge(file, key, options);
  if (options.json !== true) {
    printJudged(host, judged, file, options);
  } else if (judged.ok) {
    const { seq, line, checkpoint } = judged;
    const { origin, size, root } = checkpoint;
    const continues = options.since === undefined ? {} : { continuesRemembered: true };
    const text = Buffer.from(line).toString("utf8");
    const found = { ok: true, seq, line: text, origin, entries: size, root: toHex(root), ...continues };
    printJson(host, "audit-prove-check", found);
  } else {
    printJson(host, "audit-prove-check", { ok: false, fault: judged.fault, message: FAULTS[judged.fault] });
  }
  return judged.ok ? EXIT.ok : EXIT.mismatch;
}
