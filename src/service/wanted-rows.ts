/**
 * What should be resident, as a document under a mac (design §5, "Keys": purpose `wanted`; VR-API-04). A row is what one
 * seal made: a shard, or a set with its members; with the full seals, where the bytes came from, and what else it takes
 * to seal them again. Name, device, digest and freshness stand in the seals and nowhere else.
 *
 *     document = P ‖ `,"mac":"` ‖ 64 hex ‖ `"}` LF      mac = HMAC-SHA256(key, "vram-residency/wanted/v1\n" ‖ P)
 *
 * The mac is over bytes and is checked before anything is parsed: of an edited document nothing is believed. It does not
 * tell an old document from the newest one; that takes the audit log.
 */
import { createHmac, type KeyObject } from "node:crypto";
import { isAbsolute } from "node:path";
import { z } from "zod";
import { canonicalJson, constantTimeEqual, fromHex, toHex } from "../bytes.ts";
import type { Backend } from "../cuda/driver.ts";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { parseSeal, type Seal } from "../seal/encoding.ts";
import { requireName } from "../seal/names.ts";

const PREFIX = "vram-residency/wanted/v1\n";
const HEAD = '{"version":1,"rows":[';
const TAIL = /^,"mac":"([0-9a-f]{64})"\}\n$/;
const TAIL_BYTES = 75;

/** Accepts what `read` does not throw on. */
const read = <T>(parse: (value: unknown) => T) =>
  z.unknown().transform((value, context) => {
    try {
      return parse(value);
    } catch {
      context.addIssue({ code: "custom", message: "not well-formed" });
      return z.NEVER;
    }
  });

const PATH_BYTES = 4096;
const path = z
  .string()
  .refine((text) => isAbsolute(text) && !text.includes("\0") && Buffer.byteLength(text) <= PATH_BYTES);
const seal = read(parseSeal);
const hash = z.string().regex(/^[0-9a-f]{64}$/);

/** How the header was read; everything else that sealing takes is in the seal. */
const format = z.strictObject({
  format: z.enum(["auto", "safetensors", "gguf", "raw"]).optional(),
  maxHeaderBytes: z.int().min(2).max(LIMITS.safetensorsHeaderBytesMax).optional(),
});

const shardRow = z.strictObject({ kind: z.literal("shard"), seal, path, format });

const setRow = z
  .strictObject({
    kind: z.literal("set"),
    name: read((value) => requireName(z.string().parse(value))),
    set: z.strictObject({
      version: z.literal(1),
      totalShards: z.int().min(1).max(LIMITS.setMembers),
      digest: z.union([z.literal(""), hash]),
      macs: z.array(hash).min(1).max(LIMITS.setMembers),
      mac: hash,
    }),
    members: z.array(seal).min(1).max(LIMITS.setMembers),
    path,
    /** Into how many shards a single file was asked to be cut; 1 = the files as they are. */
    shards: z.int().min(1).max(LIMITS.setMembers),
    format,
  })
  .refine(({ set, members }) => set.macs.join() === members.map(({ mac }) => mac).join())
  .refine(({ set, members }) => set.totalShards === members.length && members.every(isMemberOf));

const isMemberOf = (member: Seal, index: number, members: readonly Seal[]): boolean =>
  member.shardIndex === index && member.totalShards === members.length;

const row = z.discriminatedUnion("kind", [shardRow, setRow]);

/** Something that should be resident. */
export type WantedRow = Readonly<z.infer<typeof row>>;

/** What a row is called: the name of its shard or set. */
export const nameOf = (wanted: WantedRow): string => (wanted.kind === "shard" ? wanted.seal.name : wanted.name);

/** The seals of a row, in index order. */
export const sealsOf = (wanted: WantedRow): readonly Seal[] =>
  wanted.kind === "shard" ? [wanted.seal] : wanted.members;

const areDistinct = (values: readonly string[]): boolean => new Set(values).size === values.length;

/** Why these rows are no wanted set of this backend; undefined if they are one. */
function faultOf(rows: readonly WantedRow[], backend: Backend): string | undefined {
  const seals = rows.flatMap(sealsOf);
  if (seals.length > LIMITS.wantedShards) return `more than ${LIMITS.wantedShards} shards`;
  if (!seals.every((one) => one.backend === backend)) return "a seal of another backend";
  if (!areDistinct(rows.map(nameOf))) return "two rows of one name";
  if (!areDistinct(seals.map(({ shardId }) => shardId))) return "two seals of one shard";
  return undefined;
}

/** The rows if they are well-formed and go together; `INVALID_ARGUMENT` otherwise. */
export function requireRows(rows: readonly unknown[], backend: Backend): readonly WantedRow[] {
  const parsed = z.array(row).max(LIMITS.wantedShards).safeParse(rows);
  const fault = parsed.success ? faultOf(parsed.data, backend) : "a row that is not well-formed";
  if (parsed.success && fault === undefined) return parsed.data;
  throw new VramError("INVALID_ARGUMENT", `the wanted set cannot hold ${fault ?? "that"}`, {
    details: { argument: "row" },
  });
}

const macOf = (key: KeyObject, covered: Uint8Array): Uint8Array =>
  createHmac("sha256", key).update(PREFIX).update(covered).digest();

/** The document of these rows. */
export function encodeWanted(key: KeyObject, rows: readonly WantedRow[]): Uint8Array {
  const covered = Buffer.from(`${HEAD}${rows.map((one) => `\n${canonicalJson(one)}`).join(",")}\n]`, "utf8");
  return Buffer.concat([covered, Buffer.from(`,"mac":"${toHex(macOf(key, covered))}"}\n`)]);
}

/** Reads a document. `STATE_INVALID` unless it carries our mac over every byte, and says what such a document may. */
export function decodeWanted(key: KeyObject, bytes: Uint8Array, backend: Backend, file: string): readonly WantedRow[] {
  const refuse = (why: string, cause?: unknown): VramError =>
    new VramError("STATE_INVALID", `${file}: ${why}`, {
      fix: "nothing in it can be relied on: remove it, and seal the models again",
      ...(cause === undefined ? {} : { cause }),
    });
  const split = Math.max(bytes.byteLength - TAIL_BYTES, 0);
  const covered = bytes.subarray(0, split);
  const mac = TAIL.exec(Buffer.from(bytes.subarray(split)).toString("latin1"))?.[1];
  if (mac === undefined || !constantTimeEqual(fromHex(mac, 32, "mac"), macOf(key, covered))) {
    throw refuse("does not carry the mac of this state directory's key for this backend");
  }
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    const { rows } = z
      .strictObject({ version: z.literal(1), rows: z.array(z.unknown()), mac: hash })
      .parse(JSON.parse(text));
    return requireRows(rows, backend);
  } catch (cause) {
    throw refuse("not a wanted set of this version", cause);
  }
}
