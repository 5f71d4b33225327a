/**
 * What is said on the attach socket (docs/attach.md): one request, one reply, then events until either end goes. Each
 * message is its length in bytes, u32 little-endian, and so many bytes of JSON. The descriptor of the memory comes with
 * the first byte of a reply that grants it (`SCM_RIGHTS`). Sizes are bytes, times milliseconds.
 */
import { z } from "zod";
import { VramError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import { lease, problem, shardRecord, verification } from "../replies.ts";
import { leaseRequest } from "../requests.ts";

/** The attach socket lies beside the one for HTTP: its path and this. */
export const ATTACH_SUFFIX = ".attach";

/** Of the protocol; in every message. */
export const PROTOCOL_VERSION = 1;
const v = z.literal(PROTOCOL_VERSION);
const { shard, maxAgeMs, salt, holder } = leaseRequest.shape;

export const attachRequest = z
  .strictObject({
    v,
    shard,
    expect: z
      .union([z.string().min(1).max(80), z.null()])
      .meta({ description: "fsverity:HEX, sha256:HEX, or 64 hex digits: fsverity; null: whatever is there" }),
    lease: z.string().min(1).max(LIMITS.idLength).optional().meta({
      description: "a lease of the caller's on this shard; without, one is granted for the connection",
    }),
    maxAgeMs,
    salt,
    holder,
  })
  .meta({ id: "AttachRequest" });

const tensor = z.object({
  name: z.string(),
  dtype: z.string(),
  shape: z.array(z.number()),
  /** From the start of the memory. */
  offset: z.int().min(0),
  byteLength: z.int().min(0),
});

export const attachGranted = z
  .object({
    v,
    ok: z.literal(true),
    exportId: z.string(),
    record: shardRecord,
    seal: z.record(z.string(), z.unknown()),
    lease,
    /** Absent if a lease was presented and no measurement was asked for. */
    verification: verification.optional(),
    tensors: z.array(tensor),
    memory: z.object({
      kind: z.enum(["memfd", "cuda-vmm"]),
      deviceUuid: z.string(),
      byteLength: z.int().min(1).meta({ description: "what has to be mapped: the allocation" }),
    }),
  })
  .meta({ id: "AttachGranted" });

export const attachRefused = z.object({ v, ok: z.literal(false), problem }).meta({ id: "AttachRefused" });
export const attachReply = z.discriminatedUnion("ok", [attachGranted, attachRefused]);

/** What comes behind the reply. A mapping outlives its lease: nobody vouches for it any more. */
export const attachEvent = z
  .object({ v, event: z.literal("lease_ended"), leaseId: z.string(), because: z.string() })
  .meta({ id: "AttachEvent" });

export type AttachRequest = z.infer<typeof attachRequest>;
export type AttachGranted = z.infer<typeof attachGranted>;
export type AttachReply = z.infer<typeof attachReply>;
export type AttachEvent = z.infer<typeof attachEvent>;

const LENGTH_BYTES = 4;

/** A message as it is sent. */
export function encodeMessage(message: AttachRequest | AttachReply | AttachEvent): Buffer {
  const json = Buffer.from(JSON.stringify(message));
  const framed = Buffer.alloc(LENGTH_BYTES + json.byteLength);
  framed.writeUInt32LE(json.byteLength);
  json.copy(framed, LENGTH_BYTES);
  return framed;
}

/** Puts messages together from the pieces they come in. */
export interface MessageReader {
  /** The values of the messages that are complete with this piece. Throws `REQUEST_REFUSED` for what is none. */
  push(bytes: Uint8Array): unknown[];
  /** Bytes of a message that has begun. */
  readonly pending: number;
}

const broken = (what: string): VramError => new VramError("REQUEST_REFUSED", what, { details: { status: 400 } });

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decode(bytes: Uint8Array, parse: (text: string) => unknown): unknown {
  try {
    return parse(decoder.decode(bytes));
  } catch (thrown) {
    throw thrown instanceof VramError ? thrown : broken("a message on the attach socket is no JSON");
  }
}

/** A reader of messages of at most `maxBytes` of JSON, which `parse` reads. */
export function createMessageReader(
  maxBytes: number,
  parse: (text: string) => unknown = (text) => JSON.parse(text),
): MessageReader {
  let pieces: Buffer[] = [];
  let held = 0;
  /** The first bytes in one piece; pieces are joined once for each message, not for each piece that comes. */
  const joined = (byteLength: number): Buffer => {
    const [first] = pieces;
    if (first !== undefined && first.byteLength >= byteLength) return first;
    const all = Buffer.concat(pieces);
    pieces = [all];
    return all;
  };
  return {
    push: (bytes) => {
      pieces.push(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
      held += bytes.byteLength;
      const messages: unknown[] = [];
      while (held >= LENGTH_BYTES) {
        const byteLength = joined(LENGTH_BYTES).readUInt32LE();
        if (byteLength > maxBytes) throw broken(`a message of ${byteLength} bytes, and ${maxBytes} are the most`);
        const end = LENGTH_BYTES + byteLength;
        if (held < end) break;
        const all = joined(held);
        messages.push(decode(all.subarray(LENGTH_BYTES, end), parse));
        pieces = [all.subarray(end)];
        held -= end;
      }
      return messages;
    },
    get pending() {
      return held;
    },
  };
}
