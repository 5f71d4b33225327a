/** Measuring where the bytes lie: the digest it gives, what it takes for it, and that it can never be a no-op. */
import { createCipheriv, createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { CudaDriver, Launch } from "../../src/cuda/driver.ts";
import { VramError } from "../../src/errors.ts";
import { BLOCK_BYTES, RANGE_BYTES } from "../../src/hash/geometry.ts";
import { foldKept } from "../../src/hash/tree.ts";
import { deviceMachine, uploadBytes } from "../helpers/handles.ts";
import { digestOf } from "../helpers/reference.ts";
import { codeOf } from "../helpers/vram.ts";

/** Bytes without a pattern, the same in every run. */
const bytesOf = (byteLength: number, key = 1): Buffer =>
  createCipheriv("aes-128-ctr", Buffer.alloc(16, key), Buffer.alloc(16)).update(Buffer.alloc(byteLength));

/** Digests as text: some are Buffers, some are not, and that is nobody's business. */
const measuredHex = async (measuring: Promise<{ digest: Uint8Array }>): Promise<string> =>
  toHex((await measuring).digest);
const hexOf = (bytes: Uint8Array): string => toHex(digestOf(bytes));

const SALTS = [Uint8Array.of(0), Uint8Array.from({ length: 32 }, (_, index) => 255 - index)];

describe("a measurement", () => {
  const SIZES = [
    1,
    4095,
    4096,
    4097,
    RANGE_BYTES - 1,
    RANGE_BYTES,
    RANGE_BYTES + 1,
    2 * RANGE_BYTES,
    3 * RANGE_BYTES + 1,
  ];

  test.each(SIZES)(
    "[VR-SEAL-05] of %i bytes is the digest of the host, salted or not, in windows of any size",
    async (size) => {
      const bytes = bytesOf(size);
      for (const measureWindowBytes of [RANGE_BYTES, 2 * RANGE_BYTES, 8 * RANGE_BYTES]) {
        const local = await deviceMachine(undefined, { measureWindowBytes }).open();
        const { allocationId, uploaded } = await uploadBytes(local, bytes);
        expect(toHex(uploaded.digest ?? Buffer.of())).toBe(toHex(digestOf(bytes)));
        expect(toHex(uploaded.sha256 ?? Buffer.of())).toBe(createHash("sha256").update(bytes).digest("hex"));
        for (const salt of [undefined, ...SALTS]) {
          const { digest, kept, bytesCovered, windows, durationMs } = await local.measure(allocationId, salt);
          expect(toHex(digest), `salt ${toHex(salt ?? Buffer.of())}`).toBe(toHex(digestOf(bytes, salt)));
          expect(toHex(foldKept(kept, size, salt).digest)).toBe(toHex(digest));
          expect([bytesCovered, windows]).toEqual([size, Math.ceil(size / measureWindowBytes)]);
          expect(durationMs).toBeGreaterThan(0);
        }
        await local.close();
      }
    },
  );

  test("of zeros, and of memory that was never written, is of what lies there", async () => {
    const local = await deviceMachine().open();
    const { allocationId } = await uploadBytes(local, new Uint8Array(RANGE_BYTES + 10));
    expect(await measuredHex(local.measure(allocationId))).toBe(hexOf(new Uint8Array(RANGE_BYTES + 10)));
    const dirty = await local.allocate(RANGE_BYTES);
    expect(await measuredHex(local.measure(dirty))).toBe(await measuredHex(local.measure(dirty)));
    await local.close();
  });

  test("one at a time: those that overlap do not disturb each other", async () => {
    const local = await deviceMachine().open();
    const all = [1, 2, 3].map((key) => bytesOf(RANGE_BYTES + key * 5000, key));
    const ids: number[] = [];
    for (const bytes of all) ids.push((await uploadBytes(local, bytes)).allocationId);
    const measured = await Promise.all([...ids, ...ids].map((id) => local.measure(id)));
    expect(measured.map(({ digest }) => toHex(digest))).toEqual(
      [...all, ...all].map((bytes) => toHex(digestOf(bytes))),
    );
    await local.close();
  });

  test.each([0, 33])("with a salt of %i bytes is refused", async (byteLength) => {
    const local = await deviceMachine().open();
    const { allocationId } = await uploadBytes(local, bytesOf(100));
    expect(await codeOf(local.measure(allocationId, new Uint8Array(byteLength)))).toBe("INTERNAL");
    expect(await measuredHex(local.measure(allocationId))).toBe(hexOf(bytesOf(100)));
    await local.close();
  });
});

describe("what a measurement takes", () => {
  /** The driver, with every copy to the host written down. */
  const counted = (driver: CudaDriver, copied: number[]): CudaDriver => ({
    ...driver,
    stream: {
      ...driver.stream,
      copyToHost: (cuStream, cuTo, cuFrom, byteLength) => {
        copied.push(byteLength);
        driver.stream.copyToHost(cuStream, cuTo, cuFrom, byteLength);
      },
    },
  });

  test("[VR-MEM-06] no memory: measuring reserves nothing", async () => {
    const { faults, emulated, open } = deviceMachine();
    const local = await open();
    const { allocationId } = await uploadBytes(local, bytesOf(5 * RANGE_BYTES + 1));
    const before = emulated.emulation.live();
    faults.reset();
    await local.measure(allocationId, SALTS[1]);
    const used = new Set(faults.calls());
    expect([...used].filter((call) => call.startsWith("memory.") || call.endsWith(".create"))).toEqual([]);
    expect(used).toContain("stream.launch");
    expect(emulated.emulation.live()).toEqual(before);
    await local.close();
  });

  test("[VR-VER-01] nothing to the host but digests: 32 bytes for each 512 KiB, and the canaries'", async () => {
    const copied: number[] = [];
    const local = await deviceMachine((driver) => counted(driver, copied)).open();
    const { allocationId } = await uploadBytes(local, bytesOf(5 * RANGE_BYTES + 1));
    copied.length = 0;
    const { windows, kept } = await local.measure(allocationId);
    expect([windows, kept.byteLength]).toEqual([6, 6 * 32]);
    expect(copied).toEqual(Array.from({ length: 6 }, () => 32 + 4 * 32));
    await local.close();
  });
});

describe("a measurement that did not happen", () => {
  const SIZE = 2 * RANGE_BYTES + 5000;
  /** Windows of 512 KiB, each with two launches, a copy of canaries, two of tables, and one to the host. */
  const WINDOWS = 3;
  const DROPS = [
    ["launch", "dropLaunch", 2 * WINDOWS],
    ["copy to the host", "dropCopyToHost", WINDOWS],
  ] as const;

  test.each(DROPS)(
    "[VR-VER-05] a %s without effect is MEASUREMENT_INVALID, wherever it is",
    async (_what, drop, count) => {
      const { faults, open } = deviceMachine();
      const local = await open();
      const bytes = bytesOf(SIZE);
      const { allocationId } = await uploadBytes(local, bytes);
      for (const salt of [undefined, SALTS[1]]) {
        for (let nth = 1; nth <= count; nth += 1) {
          faults.reset();
          faults[drop](nth);
          expect(await codeOf(local.measure(allocationId, salt)), `${nth}`).toBe("MEASUREMENT_INVALID");
          expect(faults.fired()).toBe(1);
        }
      }
      // It is not the end: nothing was found out about the bytes, and the next one works.
      expect(await measuredHex(local.measure(allocationId))).toBe(hexOf(bytes));
      await local.close();
    },
  );

  test("[VR-VER-05] one block or less is measured by one launch, which may not be missing either", async () => {
    const { faults, open } = deviceMachine();
    const local = await open();
    const { allocationId } = await uploadBytes(local, bytesOf(100));
    await local.measure(allocationId);
    for (const drop of ["dropLaunch", "dropCopyToHost"] as const) {
      faults.reset();
      faults[drop](1);
      expect(await codeOf(local.measure(allocationId))).toBe("MEASUREMENT_INVALID");
    }
    await local.close();
  });

  test("[VR-VER-05] a copy to the device without effect gives no other shard's digest, and never a stale one", async () => {
    const { faults, open } = deviceMachine();
    const local = await open();
    const [ours, others] = [bytesOf(SIZE, 1), bytesOf(SIZE, 2)];
    const { allocationId } = await uploadBytes(local, ours);
    const other = (await uploadBytes(local, others)).allocationId;
    let invalid = 0;
    for (let nth = 1, fired = 1; fired > 0; nth += 1) {
      // What lies in the scratch now is of another shard of the same shape.
      await local.measure(other);
      faults.reset();
      faults.dropCopyToDevice(nth);
      const outcome = await measuredHex(local.measure(allocationId)).catch((error: unknown) => error);
      fired = faults.fired();
      if (outcome instanceof VramError) {
        expect(outcome.code).toBe("MEASUREMENT_INVALID");
        invalid += 1;
      } else expect(outcome).toBe(hexOf(ours));
    }
    expect(invalid).toBeGreaterThanOrEqual(WINDOWS);
    await local.close();
  });

  const lastBlock = (launch: Launch): Launch["parameters"] =>
    launch.parameters.map((parameter, at) =>
      at === 2 && parameter.kind === "u64" ? { kind: "u64", value: parameter.value - 1n } : parameter,
    );
  const ALTERED: Record<string, (launch: Launch) => Launch> = {
    "with one block of threads": (launch) => ({ ...launch, gridX: 1, blockX: 1 }),
    "that leaves out the last block": (launch) => ({ ...launch, parameters: lastBlock(launch) }),
    "without its salt": (launch) => ({
      ...launch,
      parameters: launch.parameters.map((parameter, at) => (at === 3 ? { kind: "u64", value: 0n } : parameter)),
    }),
  };

  test.each(Object.keys(ALTERED))("[VR-VER-05] a launch %s is MEASUREMENT_INVALID", async (how) => {
    let armed = false;
    const altered = (driver: CudaDriver): CudaDriver => ({
      ...driver,
      stream: {
        ...driver.stream,
        launch: (cuStream, cuFunction, launch) =>
          driver.stream.launch(cuStream, cuFunction, (armed ? ALTERED[how]?.(launch) : undefined) ?? launch),
      },
    });
    const local = await deviceMachine(altered).open();
    const { allocationId } = await uploadBytes(local, bytesOf(20 * BLOCK_BYTES));
    armed = true;
    expect(await codeOf(local.measure(allocationId, SALTS[1]))).toBe("MEASUREMENT_INVALID");
    armed = false;
    expect(await measuredHex(local.measure(allocationId))).toBe(hexOf(bytesOf(20 * BLOCK_BYTES)));
    await local.close();
  });

  test("[VR-VER-05] a result that is damaged on its way is MEASUREMENT_INVALID or a mismatch, never a pass", async () => {
    const blocks: { cuPointer: bigint; bytes: Uint8Array }[] = [];
    let damage: ((answer: Uint8Array) => void) | undefined;
    let answer: Uint8Array | undefined;
    let pattern = new Uint8Array(0);
    const damaged = (driver: CudaDriver): CudaDriver => ({
      ...driver,
      memory: {
        ...driver.memory,
        allocatePinned: (byteLength) => {
          const block = driver.memory.allocatePinned(byteLength);
          blocks.push(block);
          return block;
        },
      },
      stream: {
        ...driver.stream,
        copyToHost: (cuStream, cuTo, cuFrom, byteLength) => {
          driver.stream.copyToHost(cuStream, cuTo, cuFrom, byteLength);
          const block = blocks.find(
            (one) => cuTo >= one.cuPointer && cuTo < one.cuPointer + BigInt(one.bytes.byteLength),
          );
          const at = Number(cuTo - (block?.cuPointer ?? 0n));
          answer = block?.bytes.subarray(at, at + byteLength);
          pattern = answer?.slice() ?? pattern;
        },
      },
      event: {
        ...driver.event,
        query: (cuEvent) => {
          const state = driver.event.query(cuEvent);
          if (state === "complete" && answer !== undefined) damage?.(answer);
          return state;
        },
      },
    });
    const local = await deviceMachine(damaged).open();
    const { allocationId } = await uploadBytes(local, bytesOf(RANGE_BYTES));
    // Four canary digests, then the one hash of this window.
    for (const [at, code] of [
      [0, "INVALID"],
      [40, "INVALID"],
      [127, "INVALID"],
      [128, "mismatch"],
      [159, "mismatch"],
    ] as const) {
      damage = (bytes) => bytes.set([(bytes[at] ?? 0) ^ 1], at);
      const outcome = await measuredHex(local.measure(allocationId)).catch((error: unknown) => error);
      if (code === "INVALID") expect(outcome, `byte ${at}`).toMatchObject({ code: "MEASUREMENT_INVALID" });
      else expect(outcome).toMatch(/^[0-9a-f]{64}$/);
      expect(outcome).not.toBe(hexOf(bytesOf(RANGE_BYTES)));
    }
    // The pattern that was there before comes back: that part of the results was never written.
    damage = (bytes) => bytes.set(pattern.subarray(128), 128);
    expect(await codeOf(local.measure(allocationId))).toBe("MEASUREMENT_INVALID");
    await local.close();
  });
});
