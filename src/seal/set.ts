/**
 * The seal of a set (design §5): HMAC-SHA256 with the `set` key over the framed total, whole-file digest (or empty) and
 * the members' macs in index order. Each member's mac already covers its index, total, range and digest; this one says
 * that these members, all of them, once each and in this order, are one model.
 */
import { createHmac, type KeyObject } from "node:crypto";
import { z } from "zod";
import { constantTimeEqual, frame, fromHex, toHex, u32le } from "../bytes.ts";
import { LIMITS } from "../limits.ts";

/** A keyed record of which shards are one model. Nothing in it is secret. */
export interface SetSeal {
  /** Of the form of set seals: docs/seal.md. */
  readonly version: 1;
  /** How many members, at least 1; as many as `macs`. */
  readonly totalShards: number;
  /** fs-verity digest measured of a file that was sealed whole, 32 bytes hex; empty for a cut one and for several. */
  readonly digest: string;
  /** The members' macs in index order, 32 bytes hex each. */
  readonly macs: readonly string[];
  /** HMAC-SHA256, hex. */
  readonly mac: string;
}

const PREFIX = "vram-residency/set/v1\n";

/** The exact bytes under the mac of a set seal. */
export function encodeSet(digest: string, macs: readonly string[]): Uint8Array {
  const hex = (value: string): Uint8Array => Buffer.from(value, "hex");
  return Buffer.concat([Buffer.from(PREFIX, "utf8"), frame([u32le(macs.length), hex(digest), ...macs.map(hex)])]);
}

function macOf(key: KeyObject, digest: string, macs: readonly string[]): Uint8Array {
  return createHmac("sha256", key).update(encodeSet(digest, macs)).digest();
}

/** Seals the members with these macs, in index order. */
export function createSetSeal(key: KeyObject, digest: string, macs: readonly string[]): SetSeal {
  const mac = toHex(macOf(key, digest, macs));
  return Object.freeze({ version: 1, totalShards: macs.length, digest, macs: Object.freeze([...macs]), mac });
}

const hash = z.string().regex(/^[0-9a-f]{64}$/);
const setSeal = z.strictObject({
  version: z.literal(1),
  totalShards: z.int().min(1).max(LIMITS.setMembers),
  digest: z.union([z.literal(""), hash]),
  macs: z.array(hash).min(1).max(LIMITS.setMembers),
  mac: hash,
});

/** The set seal that was handed in, if it carries our mac over what it says; else why not, for the journal only. */
export function checkSetSeal(key: KeyObject, presented: unknown): SetSeal | "malformed" | "mac" {
  const parsed = setSeal.safeParse(presented);
  if (!parsed.success || parsed.data.totalShards !== parsed.data.macs.length) return "malformed";
  const { digest, macs, mac } = parsed.data;
  return constantTimeEqual(fromHex(mac, 32, "mac"), macOf(key, digest, macs)) ? parsed.data : "mac";
}
