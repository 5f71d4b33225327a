/**
 * Reads one line of the audit log (line.ts has the format). Works on bytes, from front to back, and accepts the one way
 * in which a line can be written: no other order of keys, no key twice or unknown, no white space, no `1.0`, no capitals
 * in hex, nothing behind. What one reader sees, every reader sees. It needs no key.
 */
import { isUtf8 } from "node:buffer";
import { LIMITS } from "../limits.ts";
import { canonicalObjectEnd } from "./canonical.ts";

/** What was read from a line; `data` stays in its bytes until `dataOfLine` is asked. */
export interface AuditLine {
  /** The line without its line feed: the leaf. */
  readonly bytes: Uint8Array;
  /** From 0, one more with each line. */
  readonly seq: number;
  /** Milliseconds since 1970. */
  readonly timeMs: number;
  /** 16 bytes. */
  readonly boot: Uint8Array;
  /** Whose key made `mac`. */
  readonly epoch: number;
  /** What happened: docs/audit.md. */
  readonly type: string;
  /** Where `data` begins in `bytes`; it ends where the key `prev` begins. */
  readonly dataStart: number;
  /** Leaf hash of the line before; 32 bytes. */
  readonly prev: Uint8Array;
  /** HMAC-SHA256 under the key of the epoch; 32 bytes, not checked by reading. */
  readonly mac: Uint8Array;
}

/** Why bytes are not a line. */
export type LineFault =
  | "too-long"
  | "not-utf8"
  | "duplicate-key"
  | "unknown-key"
  | "key-order"
  | "version"
  | "number"
  | "hex"
  | "type"
  | "data"
  | "form";

/** A line, or why it is none and at which byte. */
export type ParsedLine =
  | {
      /** It has the form of a line; its mac was not checked. */
      readonly ok: true;
      /** What it says. */
      readonly line: AuditLine;
    }
  | {
      /** It is none. */
      readonly ok: false;
      /** What programs match on. */
      readonly fault: LineFault;
      /** Byte at which that was seen. */
      readonly offset: number;
    };

const KEYS = ["v", "seq", "time", "boot", "epoch", "type", "data", "prev", "mac"];
/** What stands before the value of each key; values in quotation marks include the opening one. */
const LEADS = KEYS.map((key, index) => {
  const opening = ["boot", "type", "prev", "mac"].includes(key) ? '"' : "";
  return `${index === 0 ? "{" : ","}"${key}":${opening}`;
});

/** Bytes of a hash or mac, and of what names a start of the program. */
export const HASH_BYTES = 32;
export const BOOT_BYTES = 16;
const TYPE_LETTERS = 64;

/** Thrown within this file and caught at its edge. */
class Fault extends Error {
  readonly fault: LineFault;
  readonly offset: number;

  constructor(fault: LineFault, offset: number) {
    super(fault);
    this.fault = fault;
    this.offset = offset;
  }
}

/** What a hex digit is worth; 255 for anything else, capitals included. */
const HEX_VALUES = new Uint8Array(256).fill(255);
for (let value = 0; value < 16; value += 1) HEX_VALUES["0123456789abcdef".charCodeAt(value)] = value;

/** Reads a line from front to back. Makes no strings on the way: a log has millions of lines. */
class Reader {
  readonly bytes: Uint8Array;
  at = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  /** Passes over what stands before the value of `KEYS[index]`. */
  key(index: number): void {
    const text = LEADS[index] ?? "";
    for (let offset = 0; offset < text.length; offset += 1) {
      if (this.bytes[this.at + offset] !== text.charCodeAt(offset)) throw this.wrongKey(index);
    }
    this.at += text.length;
  }

  /** Why the bytes here are not the key that comes after `past` others. */
  wrongKey(past: number): Fault {
    const here = Buffer.from(this.bytes.subarray(this.at, this.at + 80)).toString("latin1");
    const found = /^[,{]"([^"\\]*)":/.exec(here)?.[1];
    const index = KEYS.indexOf(found ?? "");
    if (found === undefined || index === past) return new Fault("form", this.at);
    if (index === -1) return new Fault("unknown-key", this.at);
    return new Fault(index < past ? "duplicate-key" : "key-order", this.at);
  }

  /** An integer from `min`: digits without a leading zero. */
  integer(min: number): number {
    const start = this.at;
    let value = 0;
    for (; this.at - start < 16; this.at += 1) {
      const digit = (this.bytes[this.at] ?? 0) - 0x30;
      if (digit < 0 || digit > 9) break;
      value = value * 10 + digit;
    }
    const digits = this.at - start;
    const isCanonical = digits > 0 && (digits === 1 || this.bytes[start] !== 0x30);
    if (!isCanonical || value < min || !Number.isSafeInteger(value)) throw new Fault("number", start);
    return value;
  }

  /** `byteLength` bytes in lower-case hex, and the closing quotation mark. */
  hex(byteLength: number): Uint8Array {
    const out = new Uint8Array(byteLength);
    for (let index = 0; index < byteLength; index += 1) {
      const at = this.at + index * 2;
      const high = HEX_VALUES[this.bytes[at] ?? 0] ?? 255;
      const low = HEX_VALUES[this.bytes[at + 1] ?? 0] ?? 255;
      if ((high | low) > 15) throw new Fault("hex", at);
      out[index] = high * 16 + low;
    }
    this.at += byteLength * 2;
    this.closingQuote("hex");
    return out;
  }

  /** A word of `a–z 0–9 _` that begins with a letter, and the closing quotation mark. */
  word(): string {
    const start = this.at;
    let text = "";
    for (; text.length <= TYPE_LETTERS; this.at += 1) {
      const byte = this.bytes[this.at] ?? 0;
      const isLetter = byte >= 0x61 && byte <= 0x7a;
      if (!isLetter && (text === "" || !(byte === 0x5f || (byte >= 0x30 && byte <= 0x39)))) break;
      text += String.fromCharCode(byte);
    }
    if (text === "" || text.length > TYPE_LETTERS) throw new Fault("type", start);
    this.closingQuote("type");
    return text;
  }

  closingQuote(fault: LineFault): void {
    if (this.bytes[this.at] !== 0x22) throw new Fault(fault, this.at);
    this.at += 1;
  }

  /** An object in canonical form below 32 KiB. */
  data(): number {
    const start = this.at;
    const end = canonicalObjectEnd(this.bytes, start);
    if (end === -1 || end - start >= LIMITS.auditDataBytes) throw new Fault("data", start);
    this.at = end;
    return start;
  }
}

function readLine(bytes: Uint8Array): AuditLine {
  if (bytes.byteLength >= LIMITS.auditLineBytes) throw new Fault("too-long", LIMITS.auditLineBytes);
  if (!isUtf8(bytes)) throw new Fault("not-utf8", 0);
  const reader = new Reader(bytes);
  reader.key(0);
  if (reader.integer(0) !== 1) throw new Fault("version", 5);
  reader.key(1);
  const seq = reader.integer(0);
  reader.key(2);
  const timeMs = reader.integer(0);
  reader.key(3);
  const boot = reader.hex(BOOT_BYTES);
  reader.key(4);
  const epoch = reader.integer(1);
  reader.key(5);
  const type = reader.word();
  reader.key(6);
  const dataStart = reader.data();
  reader.key(7);
  const prev = reader.hex(HASH_BYTES);
  reader.key(8);
  const mac = reader.hex(HASH_BYTES);
  if (bytes[reader.at] !== 0x7d || reader.at + 1 !== bytes.byteLength) throw reader.wrongKey(KEYS.length);
  return { bytes, seq, timeMs, boot, epoch, type, dataStart, prev, mac };
}

/** Reads a line given without its line feed. Keeps `bytes`. */
export function parseLine(bytes: Uint8Array): ParsedLine {
  try {
    return { ok: true, line: readLine(bytes) };
  } catch (thrown) {
    if (!(thrown instanceof Fault)) throw thrown;
    return { ok: false, fault: thrown.fault, offset: thrown.offset };
  }
}
