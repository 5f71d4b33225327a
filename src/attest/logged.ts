/**
 * Whether the line that a statement holds tells of its own measurement, and is in the log. The line is judged in any case;
 * who signed the log checkpoint over it can be judged only with the log's key. A line cannot be judged by its mac here:
 * that takes a secret.
 */
import { isDeepStrictEqual } from "node:util";
import { checkCheckpoint, parseCheckpoint } from "../audit/checkpoint.ts";
import { dataOfLine, type LineData } from "../audit/line.ts";
import { type NoteKey, parseNote } from "../audit/note.ts";
import { parseLine } from "../audit/parse-line.ts";
import { checkInclusion } from "../audit/proofs.ts";
import { parseProofFile, type TlogProof } from "../audit/tlog-proof.ts";
import { leafHash } from "../audit/tree.ts";
import type { Statement } from "./statement.ts";

/** What is wrong with the proof, its line, or the log that signed it. API: programs match on them. */
export type LogFault = "log-proof" | "log-entry" | "log-key";

export type Logged =
  | { readonly ok: true; readonly seq: number; readonly entries: number; readonly origin: string }
  | { readonly ok: false; readonly fault: LogFault; readonly message: string };

const refused = (fault: LogFault, message: string): Logged => ({ ok: false, fault, message });

/** Whether `data` of a `seal_verified` line tells of this measurement, by all that both say of it. */
function isAbout(
  data: LineData,
  { subject: [{ name }], predicate: { device, shard, measurement } }: Statement,
): boolean {
  const { device: told, ...rest } = data;
  return (
    isDeepStrictEqual(told, { ordinal: device.ordinal, uuid: device.uuid }) &&
    rest["shardId"] === shard.shardId &&
    rest["name"] === name &&
    rest["digest"] === measurement.digest &&
    rest["measuredAtMs"] === Date.parse(measurement.measuredAt) &&
    rest["bytesCovered"] === measurement.bytesCovered &&
    rest["salt"] === measurement.nonce &&
    rest["saltedDigest"] === measurement.saltedDigest
  );
}

/** Judges a proof, with the log's key if there is one. */
function judge({ index, hashes, checkpoint: note }: TlogProof, leaf: Uint8Array, key: NoteKey | undefined): Logged {
  const signed = key === undefined ? undefined : checkCheckpoint(note, key);
  if (signed?.ok === false) {
    return refused("log-key", `its log checkpoint is not one of the log with this key: ${signed.fault}`);
  }
  const checkpoint = signed?.checkpoint ?? parseCheckpoint(parseNote(note)?.text ?? "");
  if (checkpoint === undefined) return refused("log-proof", "its log checkpoint is malformed");
  const { size, root, origin } = checkpoint;
  if (checkInclusion(leaf, index, size, hashes, root) === "invalid") {
    return refused("log-proof", "its line of the audit log is not where its proof says");
  }
  return { ok: true, seq: index, entries: size, origin };
}

/** Judges what a statement says of the log. Without `key` the log checkpoint may be anybody's. */
export function checkLogged(statement: Statement, key: NoteKey | undefined): Logged {
  const file = parseProofFile(Buffer.from(statement.predicate.log.proof, "utf8"));
  const line = file?.proof.extra;
  if (file === undefined || line === undefined || file.continuation !== undefined) {
    return refused("log-proof", "it holds no proof of its line in the audit log");
  }
  const parsed = parseLine(line);
  const isOwn = parsed.ok && parsed.line.type === "seal_verified" && isAbout(dataOfLine(parsed.line), statement);
  if (!isOwn || parsed.line.seq !== file.proof.index) {
    return refused("log-entry", "the line of the audit log in it is not about this measurement");
  }
  return judge(file.proof, leafHash(line), key);
}
