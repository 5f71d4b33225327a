/** What may happen in a sequence of the model test, and the bytes that are sealed in it. */
import { createCipheriv, createHash } from "node:crypto";
import fc from "fast-check";
import { toHex } from "../../src/bytes.ts";
import type { OperationKind } from "../../src/cuda/emulated/faults.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { digestOf } from "./reference.ts";
import { MIB } from "./vram.ts";

export const GRANULE = 2 * MIB;
/** What the others on the device leave to us. */
export const ROOM = 6 * GRANULE;
const NAMES = ["a", "a", "b", "c"];
const SIZES = [1, 4095, 4096, 4097, 12_288, 70_000, 524_289, GRANULE, GRANULE + 1, ROOM + 1];

/** What is sealed: bytes without a pattern, and their digests by other implementations. */
export const CONTENTS = SIZES.map((byteLength, index) => {
  const cipher = createCipheriv("aes-128-ctr", Buffer.alloc(16, index), Buffer.alloc(16));
  const bytes = cipher.update(Buffer.alloc(byteLength));
  const reference = (salt?: Uint8Array): string => (byteLength > ROOM ? "" : toHex(digestOf(bytes, salt)));
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  return { bytes, sha256, digest: reference(), salted: reference(Buffer.of(0xab)) };
});
export type Content = (typeof CONTENTS)[number];

/** Something that goes wrong while a call runs. */
export type Fault =
  | { readonly kind: "call"; readonly nth: number; readonly status: number; readonly forGood: boolean }
  | { readonly kind: "drop"; readonly operation: OperationKind; readonly nth: number }
  | { readonly kind: "break"; readonly operation: OperationKind; readonly nth: number; readonly status: number };

/** One step of a sequence. */
export type Command =
  | {
      readonly op: "seal";
      readonly name: string;
      readonly content: number;
      readonly kind: "bytes" | "path" | "chunks";
      readonly expected: "none" | "fsverity" | "sha256" | "wrong";
      readonly sha256: boolean;
      /** Which journal entry it is aborted at; 0: none. */
      readonly abortAt: number;
      readonly fault: Fault | undefined;
    }
  | {
      readonly op: "verify";
      readonly name: string;
      readonly how: "plain" | "salt" | "fresh" | "stale" | "presented" | "forged" | "old";
      readonly fault: Fault | undefined;
    }
  | { readonly op: "flip"; readonly name: string; readonly at: number; readonly bit: number }
  | { readonly op: "evict"; readonly name: string; readonly fault: Fault | undefined }
  | { readonly op: "resume" }
  | { readonly op: "reopen" };

/** The commands of one kind. */
export type Of<Op extends Command["op"]> = Extract<Command, { op: Op }>;

/** How a call on a device with a fault may end, apart from how it would end anyway. */
export const FAULTY = [
  "CUDA_FAILED",
  "OUT_OF_VRAM",
  "DEVICE_LOST",
  "VRAM_UNREADABLE",
  "DEVICE_STALLED",
  "MEASUREMENT_INVALID",
];

const status = fc.constantFrom(
  ...[STATUS.INVALID_VALUE, STATUS.OUT_OF_MEMORY, STATUS.ILLEGAL_ADDRESS, STATUS.ECC_UNCORRECTABLE, STATUS.UNKNOWN],
);
const operation = fc.constantFrom<OperationKind[]>("copyToDevice", "copyToHost", "fill", "launch");
const few = fc.integer({ min: 1, max: 8 });
const nth = fc.oneof(few, fc.integer({ min: 1, max: 90 }));
const fault: fc.Arbitrary<Fault | undefined> = fc.oneof(
  { weight: 9, arbitrary: fc.constant(undefined) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant("call" as const), nth, status, forGood: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("drop" as const), operation, nth: few }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("break" as const), operation, nth: few, status }) },
);

const name = fc.constantFrom(...NAMES);
/** Any command; most are without a fault. */
export const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      op: fc.constant("seal" as const),
      name,
      content: fc.oneof({ weight: 9, arbitrary: fc.nat(6) }, { weight: 2, arbitrary: fc.integer({ min: 7, max: 9 }) }),
      kind: fc.constantFrom<("bytes" | "path" | "chunks")[]>("bytes", "path", "chunks"),
      expected: fc.constantFrom<("none" | "fsverity" | "sha256" | "wrong")[]>(
        "none",
        "none",
        "fsverity",
        "sha256",
        "wrong",
      ),
      sha256: fc.boolean(),
      abortAt: fc.oneof(
        { weight: 6, arbitrary: fc.constant(0) },
        { weight: 1, arbitrary: fc.integer({ min: 1, max: 9 }) },
      ),
      fault,
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      op: fc.constant("verify" as const),
      name,
      how: fc.constantFrom("plain", "plain", "salt", "fresh", "stale", "presented", "forged", "old"),
      fault,
    }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant("flip" as const), name, at: fc.nat(), bit: fc.nat(7) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("evict" as const), name, fault }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("resume" as const) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("reopen" as const) }) },
);

/** A seal that succeeds unless its name is taken: what most sequences begin with. */
export const firstSeal: fc.Arbitrary<Command> = fc.record({
  op: fc.constant("seal" as const),
  name,
  content: fc.nat(6),
  kind: fc.constant("bytes" as const),
  expected: fc.constant("none" as const),
  sha256: fc.boolean(),
  abortAt: fc.constant(0),
  fault: fc.constant(undefined),
});
