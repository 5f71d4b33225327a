/**
 * Log checkpoints (https://c2sp.org/tlog-checkpoint): the size and root of the log, signed by its key. Who remembers one
 * can tell later that nothing up to it was cut, changed or told differently. As text, each line with a line feed:
 *
 *     vram-residency/0123456789abcdef      the origin: `vram-residency/` and the log id; also the name of the key
 *     4711                                 leaves, decimal
 *     CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=   root, base64
 *
 * The specification allows more lines. Ours has none and none is read: what nobody can audit is not signed.
 */
import { randomBytes } from "node:crypto";
import { assert, requireInteger } from "../assert.ts";
import { toHex } from "../bytes.ts";
import { checkNote, fromBase64, type NoteKey, type NoteSigner, parseNote, signNote, toBase64 } from "./note.ts";
import { NODE_BYTES } from "./tree.ts";

/** The head of a log at one size. */
export interface LogCheckpoint {
  /** Names the log: `vram-residency/` and 16 hex digits. */
  readonly origin: string;
  /** Leaves. */
  readonly size: number;
  /** 32 bytes. */
  readonly root: Uint8Array;
}

/** Why a note is not a log checkpoint of this log. */
export type CheckpointFault = "malformed" | "origin" | "unsigned" | "signature";

/** What `checkCheckpoint` found: the head that was signed, or why it is none. */
export type CheckedCheckpoint =
  | {
      /** It holds. */
      readonly ok: true;
      /** The head, signed by the key that was given. */
      readonly checkpoint: LogCheckpoint;
    }
  | {
      /** It does not hold. */
      readonly ok: false;
      /** What programs match on. */
      readonly fault: CheckpointFault;
    };

const LOG_ID_BYTES = 8;

/** The origin of a new log. */
export function createOrigin(): string {
  return `vram-residency/${toHex(randomBytes(LOG_ID_BYTES))}`;
}

/** The text under the signature. */
export function encodeCheckpoint({ origin, size, root }: LogCheckpoint): string {
  requireInteger(size, "size", 0, Number.MAX_SAFE_INTEGER);
  assert(root.byteLength === NODE_BYTES, "a root is 32 bytes");
  return `${origin}\n${size}\n${toBase64(root)}\n`;
}

/** Reads the text of a log checkpoint; undefined for anything but the three lines in their one form. */
export function parseCheckpoint(text: string): LogCheckpoint | undefined {
  const [, origin = "", digits = "", encoded = ""] = /^([^\n]+)\n(0|[1-9][0-9]{0,15})\n([^\n]+)\n$/.exec(text) ?? [];
  const size = Number(digits);
  const root = fromBase64(encoded);
  const isValid = origin !== "" && Number.isSafeInteger(size) && root?.byteLength === NODE_BYTES;
  return isValid ? { origin, size, root } : undefined;
}

/** The signed note for a head of the log. The origin is the signer's name. */
export function signCheckpoint(size: number, root: Uint8Array, signer: NoteSigner): Uint8Array {
  return signNote(encodeCheckpoint({ origin: signer.name, size, root }), signer);
}

/** Reads a signed note and judges it as a log checkpoint of the log with this key. */
export function checkCheckpoint(bytes: Uint8Array, key: NoteKey): CheckedCheckpoint {
  const note = parseNote(bytes);
  const checkpoint = note === undefined ? undefined : parseCheckpoint(note.text);
  if (note === undefined || checkpoint === undefined) return { ok: false, fault: "malformed" };
  if (checkpoint.origin !== key.name) return { ok: false, fault: "origin" };
  const signed = checkNote(note, key);
  return signed === "valid" ? { ok: true, checkpoint } : { ok: false, fault: signed };
}
