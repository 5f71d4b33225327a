/**
 * One line of the audit log, byte by byte (design §5, docs/audit.md):
 *
 *     P ‖ `,"mac":"` ‖ 64 hex ‖ `"}` ‖ LF
 *     P = {"v":1,"seq":N,"time":N,"boot":"32 hex","epoch":N,"type":"word","data":{…},"prev":"64 hex"
 *
 * There is one way to write a line: these keys in this order, integers without sign or leading zeros, hex in lower case,
 * `data` as RFC 8785. `parseLine` accepts nothing else, and judges no mac; `checkLineMac` does.
 */
import { createHmac, type KeyObject } from "node:crypto";
import { assert, requireInteger } from "../assert.ts";
import { canonicalJson, constantTimeEqual, toHex } from "../bytes.ts";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { type AuditLine, BOOT_BYTES, HASH_BYTES, type LineFault, parseLine } from "./parse-line.ts";

/** `data` of a line: plain data whose keys are ASCII words. */
export type LineData = Readonly<Record<string, unknown>>;

/** What is written into a line. */
export interface LineFields {
  /** Index of the leaf: 0, 1, … for the log's life. */
  readonly seq: number;
  /** Milliseconds since 1970, by a clock that may jump. */
  readonly timeMs: number;
  /** 16 bytes, random for each start of the program. */
  readonly boot: Uint8Array;
  /** From 1: the first start leaves epoch 0 before it writes. */
  readonly epoch: number;
  readonly type: string;
  readonly data: LineData;
  /** RFC 6962 leaf hash of the line before; 32 zeros in the first. */
  readonly prev: Uint8Array;
}

const MAC_PREFIX = Buffer.from("vram-residency/audit/v1\n");
/** Scratch: prefix and P in one piece. Hashing is synchronous. */
const macInput = new Uint8Array(MAC_PREFIX.byteLength + LIMITS.auditLineBytes);
macInput.set(MAC_PREFIX);
/** From the end of a line: `,"mac":"` ‖ 64 ‖ `"}`, and before it `,"prev":"` ‖ 64 ‖ `"`. */
const MAC_BYTES = 8 + 2 * HASH_BYTES + 2;
const PREV_BYTES = 9 + 2 * HASH_BYTES + 1;

/** The mac over P, raw. */
function macOf(macKey: KeyObject, protectedBytes: Uint8Array): Buffer {
  macInput.set(protectedBytes, MAC_PREFIX.byteLength);
  const input = macInput.subarray(0, MAC_PREFIX.byteLength + protectedBytes.byteLength);
  return createHmac("sha256", macKey).update(input).digest();
}

/**
 * The bytes of a line, with its line feed. Throws `INVALID_ARGUMENT` for what has no line: too much data, a key that
 * is no ASCII word, nesting too deep.
 */
export function encodeLine(fields: LineFields, macKey: KeyObject): Uint8Array {
  const { seq, timeMs, boot, epoch, type, data, prev } = fields;
  requireInteger(seq, "seq", 0, Number.MAX_SAFE_INTEGER);
  requireInteger(timeMs, "timeMs", 0, Number.MAX_SAFE_INTEGER);
  requireInteger(epoch, "epoch", 1, Number.MAX_SAFE_INTEGER);
  assert(boot.byteLength === BOOT_BYTES && prev.byteLength === HASH_BYTES, "a boot is 16 bytes, a hash 32");
  const head = `{"v":1,"seq":${seq},"time":${timeMs},"boot":"${toHex(boot)}","epoch":${epoch},"type":"${type}"`;
  const protectedBytes = Buffer.from(`${head},"data":${canonicalJson(data)},"prev":"${toHex(prev)}"`);
  if (protectedBytes.byteLength + MAC_BYTES >= LIMITS.auditLineBytes) throw noLine(type, "too-long");
  const mac = macOf(macKey, protectedBytes).toString("hex");
  const line = Buffer.concat([protectedBytes, Buffer.from(`,"mac":"${mac}"}\n`)]);
  // What we write must be what we read: a line that no reader accepts is not made.
  const parsed = parseLine(line.subarray(0, -1));
  if (parsed.ok) return line;
  throw noLine(type, parsed.fault);
}

const noLine = (type: string, fault: LineFault): VramError =>
  new VramError("INVALID_ARGUMENT", `the entry ${type} has no line: ${fault}`, {
    details: { argument: "data", fault },
  });

/** Whether the line carries the mac of its epoch's key. */
export function checkLineMac(line: AuditLine, macKey: KeyObject): "valid" | "mac" {
  const expected = macOf(macKey, line.bytes.subarray(0, line.bytes.byteLength - MAC_BYTES));
  return constantTimeEqual(expected, line.mac) ? "valid" : "mac";
}

/** `data` as an object. */
export function dataOfLine({ bytes, dataStart }: AuditLine): LineData {
  const end = bytes.byteLength - MAC_BYTES - PREV_BYTES;
  return JSON.parse(Buffer.from(bytes.subarray(dataStart, end)).toString("utf8")) as LineData;
}
