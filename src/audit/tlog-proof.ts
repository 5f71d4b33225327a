/**
 * Proofs as files (https://c2sp.org/tlog-proof): what somebody needs who has the log's public key and nothing else.
 *
 *     c2sp.org/tlog-proof@v1
 *     extra BASE64             the line itself without its line feed; absent if it was pruned
 *     index 17
 *     BASE64                   a hash of the inclusion proof each, from the leaf's sibling up
 *     (empty)
 *     the signed note of a log checkpoint
 *
 * For somebody who remembers an earlier log checkpoint, an empty line and the body of a request to a C2SP witness follow
 * (https://c2sp.org/tlog-witness, `add-checkpoint`): `old SIZE`, the consistency proof, an empty line, the same note.
 *
 * `extra` is signed by nobody and opaque to the format. Here it is the line, and its leaf hash is what is proven: a
 * changed one is found. What stands before the note has one form, and a reader refuses any other.
 */
import { requireInteger } from "../assert.ts";
import { constantTimeEqual } from "../bytes.ts";
import { LIMITS } from "../limits.ts";
import { type CheckpointFault, checkCheckpoint, type LogCheckpoint } from "./checkpoint.ts";
import { fromBase64, type NoteKey, parseNote, toBase64 } from "./note.ts";
import { checkConsistency, checkInclusion, type Proof } from "./proofs.ts";
import { NODE_BYTES } from "./tree.ts";

/** An inclusion proof as it was read or made; nothing in it is judged. */
export interface TlogProof {
  /** The line without its line feed, if it is there. */
  readonly extra: Uint8Array | undefined;
  /** Seq of the line. */
  readonly index: number;
  /** Inclusion proof, from the leaf's sibling up. */
  readonly hashes: Proof;
  /** The signed note, verbatim. */
  readonly checkpoint: Uint8Array;
}

/** A consistency proof from the log checkpoint over `from` entries to the one in the note. */
export interface ContinuationProof {
  /** Entries that the earlier log checkpoint covers. */
  readonly from: number;
  /** Consistency proof. */
  readonly hashes: Proof;
  /** The signed note, verbatim. */
  readonly checkpoint: Uint8Array;
}

/** What one file holds. */
export interface ProofFile {
  /** That a line is in the log. */
  readonly proof: TlogProof;
  /** Undefined unless the file was made for somebody who remembers a log checkpoint. */
  readonly continuation: ContinuationProof | undefined;
}

const HEADER = "c2sp.org/tlog-proof@v1";
/** A tree of 2^53 leaves has paths of 53 hashes; C2SP has 63 as the most. */
const HASHES_MAX = 63;
/** Two notes; a line in base64 and 2 × 63 hashes of 45 bytes have less than two lines. */
export const PROOF_FILE_BYTES = 2 * LIMITS.noteBytes + 2 * LIMITS.auditLineBytes;

const encodeHashes = (hashes: Proof): string => hashes.map((hash) => `${toBase64(hash)}\n`).join("");

/** The bytes of a proof file. */
export function encodeProofFile({ proof, continuation }: ProofFile): Uint8Array {
  const { extra, index, hashes, checkpoint } = proof;
  requireInteger(index, "index", 0, Number.MAX_SAFE_INTEGER);
  const line = extra === undefined ? "" : `extra ${toBase64(extra)}\n`;
  const head = Buffer.from(`${HEADER}\n${line}index ${index}\n${encodeHashes(hashes)}\n`);
  if (continuation === undefined) return Buffer.concat([head, checkpoint]);
  const second = Buffer.from(`\nold ${continuation.from}\n${encodeHashes(continuation.hashes)}\n`);
  return Buffer.concat([head, checkpoint, second, continuation.checkpoint]);
}

/** A decimal behind a word, in its one form; undefined for anything else. */
function parseSize(word: string, line: string | undefined): number | undefined {
  const [, found, digits = ""] = /^([a-z]+) (0|[1-9][0-9]{0,15})$/.exec(line ?? "") ?? [];
  const size = Number(digits);
  return found === word && Number.isSafeInteger(size) ? size : undefined;
}

function parseHashes(lines: readonly string[]): Proof | undefined {
  if (lines.length > HASHES_MAX) return undefined;
  const hashes = lines.map(fromBase64).filter((hash) => hash !== undefined);
  const areAll = hashes.length === lines.length && hashes.every((hash) => hash.byteLength === NODE_BYTES);
  return areAll ? hashes : undefined;
}

/** The lines before the first empty one, and the note behind it. */
function splitNote(bytes: Uint8Array): { lines: string[]; checkpoint: Uint8Array } | undefined {
  const whole = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const border = whole.indexOf("\n\n");
  const checkpoint = bytes.subarray(border + 2);
  if (border === -1 || parseNote(checkpoint) === undefined) return undefined;
  return { lines: whole.toString("latin1", 0, border).split("\n"), checkpoint };
}

function parseProof(bytes: Uint8Array): TlogProof | undefined {
  const { lines: [header, ...lines] = [], checkpoint } = splitNote(bytes) ?? {};
  if (header !== HEADER || checkpoint === undefined) return undefined;
  const hasExtra = lines[0]?.startsWith("extra ") === true;
  const extra = hasExtra ? fromBase64(lines.shift()?.slice("extra ".length) ?? "") : undefined;
  // A leaf is a line, and a line is neither empty nor longer than one can be.
  if (hasExtra && (extra === undefined || extra.byteLength === 0 || extra.byteLength >= LIMITS.auditLineBytes)) {
    return undefined;
  }
  const index = parseSize("index", lines.shift());
  const hashes = parseHashes(lines);
  return index === undefined || hashes === undefined ? undefined : { extra, index, hashes, checkpoint };
}

function parseContinuation(bytes: Uint8Array): ContinuationProof | undefined {
  const { lines: [first, ...lines] = [], checkpoint } = splitNote(bytes) ?? {};
  const from = parseSize("old", first);
  const hashes = parseHashes(lines);
  if (from === undefined || hashes === undefined || checkpoint === undefined) return undefined;
  return { from, hashes, checkpoint };
}

/** Reads a proof file; undefined if it is not well-formed. */
export function parseProofFile(bytes: Uint8Array): ProofFile | undefined {
  if (bytes.byteLength > PROOF_FILE_BYTES) return undefined;
  // Behind an empty line a note of ours has its origin, which has no space, or a signature.
  const border = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).indexOf("\n\nold ");
  const proof = parseProof(border === -1 ? bytes : bytes.subarray(0, border + 1));
  const continuation = border === -1 ? undefined : parseContinuation(bytes.subarray(border + 2));
  if (proof === undefined || (border !== -1 && continuation === undefined)) return undefined;
  const isOneNote = continuation === undefined || constantTimeEqual(continuation.checkpoint, proof.checkpoint);
  return isOneNote ? { proof, continuation } : undefined;
}

/** Why a proof does not hold. */
export type ProofFault = CheckpointFault | "inclusion" | "consistency";

/** What `checkTlogProof` found: the log checkpoint that the line is under, or why it is not. */
export type CheckedProof =
  | {
      /** It holds. */
      readonly ok: true;
      /** What the line is under. */
      readonly checkpoint: LogCheckpoint;
    }
  | {
      /** It does not hold. */
      readonly ok: false;
      /** What programs match on. */
      readonly fault: ProofFault;
    };

/** Judges whether the leaf with this hash is where the proof says, in the log with this key. */
export function checkTlogProof(proof: TlogProof, leaf: Uint8Array, key: NoteKey): CheckedProof {
  const checked = checkCheckpoint(proof.checkpoint, key);
  if (!checked.ok) return checked;
  const { size, root } = checked.checkpoint;
  const holds = checkInclusion(leaf, proof.index, size, proof.hashes, root) === "valid";
  return holds ? checked : { ok: false, fault: "inclusion" };
}

/** Judges whether the log with this key continues the one that was remembered. Both notes are under the same key. */
export function checkContinuation(
  { from, hashes, checkpoint }: ContinuationProof,
  remembered: LogCheckpoint,
  key: NoteKey,
): CheckedProof {
  const checked = checkCheckpoint(checkpoint, key);
  if (!checked.ok) return checked;
  const { size, root } = checked.checkpoint;
  const isSame = from === remembered.size && remembered.origin === checked.checkpoint.origin;
  const holds = isSame && checkConsistency(from, size, hashes, remembered.root, root) === "valid";
  return holds ? checked : { ok: false, fault: "consistency" };
}
