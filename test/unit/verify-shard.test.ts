/** Verifying one shard, step by step: in which order things happen, what is on record, and which words are used. */
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { VramError } from "../../src/errors.ts";
import { foldKept } from "../../src/hash/tree.ts";
import type { Shard } from "../../src/residency/shard.ts";
import { AGE_MS, BYTES, damaged, INFO, KEPT, MEASURED_MS, measured, openShard, REF } from "../helpers/verify-shard.ts";

const DIGEST = toHex(foldKept(KEPT, BYTES).digest);
const SHARD = { shardId: "shard-m", name: "m" };
const FAILED = { type: "seal_verification_failed", device: REF, ...SHARD };
const NOWHERE = { ranges: [], rangesTotal: 0, tensors: [], tensorsTotal: 0 };

/** Code, message and details of what `task` ends with. */
const refusal = async (task: Promise<unknown>): Promise<readonly unknown[]> => {
  const error = await task.then(
    (value) => value,
    (thrown: unknown) => thrown,
  );
  return error instanceof VramError ? [error.code, error.message, error.details] : [error];
};

describe("[VR-VER-01] a verification that passes", () => {
  it("measures, remembers when that began, and puts it on record", async () => {
    const { shard, ask, steps, answers, pass } = openShard();
    answers.measure = async () => {
      pass(4);
      return measured(KEPT);
    };
    const report = await ask();
    const at = MEASURED_MS + 10_000;
    expect(shard.lastMeasured).toEqual({ wallMs: at, monotonicMs: 10_000 });
    expect(report).toMatchObject({
      ...{ backend: "emulated", device: REF, digest: DIGEST, basis: "measured", ageMs: 4, readFrom: "emulated" },
      ...{ measuredAt: new Date(at).toISOString(), bytesCovered: BYTES, durationMs: 4, bytesPerSecond: BYTES * 250 },
    });
    expect(report.record).toMatchObject({ shardId: "shard-m", state: "sealed" });
    expect(report).not.toHaveProperty("salted");
    const entry = { type: "seal_verified", device: REF, ...SHARD, digest: DIGEST, bytesCovered: BYTES, durationMs: 4 };
    expect(steps).toEqual(["measure", expect.objectContaining(entry)]);
  });

  it("[VR-VER-07] measures once more with the caller's salt, after the bytes were found to be the sealed ones", async () => {
    const { ask, steps, answers } = openShard();
    const salted = new Uint8Array(32).fill(9);
    answers.measure = async (salt) => (salt === undefined ? measured(KEPT) : { ...measured(KEPT), digest: salted });
    const report = await ask({ salt: Uint8Array.of(0xab), maxAgeMs: 3_600_000 });
    expect(report.salted).toEqual({ salt: "ab", digest: "09".repeat(32) });
    expect(report.digest).toBe(DIGEST);
    expect(steps.slice(0, 2)).toEqual(["measure", "measure with ab"]);
    expect(steps[2]).toMatchObject({ type: "seal_verified", salt: "ab", saltedDigest: "09".repeat(32) });
  });
});

describe("[VR-VER-07] an earlier measurement", () => {
  it.each([
    ["as old as may be", 0, AGE_MS, "fresh-enough"],
    ["too old", 0, AGE_MS - 1, "measured"],
    ["as old as the seal allows", AGE_MS, 3_600_000, "fresh-enough"],
    ["too old for the seal, whatever the caller would take", AGE_MS - 1, 3_600_000, "measured"],
    ["too old for the caller, whatever the seal allows", 3_600_000, AGE_MS - 1, "measured"],
  ])("that is %s", async (_what, sealed, maxAgeMs, basis) => {
    const { ask, steps } = openShard({ maxAgeMs: sealed });
    const report = await ask({ maxAgeMs });
    expect(report.basis).toBe(basis);
    expect(steps.includes("measure")).toBe(basis === "measured");
  });

  it("is reported as what it is: nothing was measured now", async () => {
    const { ask, steps } = openShard();
    const report = await ask({ maxAgeMs: AGE_MS });
    const { record, ...rest } = report;
    expect(record).toMatchObject({ shardId: "shard-m", sealed: true });
    expect(rest).toEqual({
      ...{ backend: "emulated", device: REF, digest: DIGEST, basis: "fresh-enough", ageMs: AGE_MS },
      measuredAt: new Date(MEASURED_MS).toISOString(),
      ...{ bytesCovered: 0, durationMs: 0, bytesPerSecond: 0, readFrom: "emulated" },
    });
    expect(steps).toEqual([]);
  });

  it.each([{ lost: true }, { stopped: "at noon" }])("will not do on a worker with %j", async (changed) => {
    const { ask, worker } = openShard();
    Object.assign(worker, changed);
    expect((await ask({ maxAgeMs: 3_600_000 })).basis).toBe("measured");
  });
});

describe("[VR-VER-04] a seal that is handed in", () => {
  it("is the shard's own, or refused with one text; why is on record, and nothing is measured", async () => {
    const { shard, ask, steps } = openShard();
    expect(await ask({ presented: { ...shard.seal } })).toMatchObject({ basis: "measured" });
    steps.splice(0);
    const refused = ["SEAL_REFUSED", "the seal was refused", {}];
    const cases = [
      [{ ...shard.seal, mac: "00".repeat(32) }, "mac"],
      [null, "malformed"],
    ] as const;
    for (const [presented, reason] of cases) {
      expect(await refusal(ask({ presented }))).toEqual(refused);
      expect(steps.splice(0)).toEqual([{ type: "seal_refused", device: REF, shardId: "shard-m", reason }]);
    }
    expect(shard.state).toBe("sealed");
  });
});

describe("a shard that cannot be verified", () => {
  it.each([
    ["evicted", ["SHARD_NOT_FOUND", "m was evicted meanwhile", {}]],
    [
      "mismatched",
      ["SHARD_NOT_RESIDENT", "m is mismatched and cannot be relied on", { shardId: "shard-m", state: "mismatched" }],
    ],
    ["lost", ["SHARD_NOT_RESIDENT", "m is lost and cannot be relied on", { shardId: "shard-m", state: "lost" }]],
  ] as const)("is one that is %s", async (state, refused) => {
    const { shard, ask, steps } = openShard();
    shard.state = state;
    expect(await refusal(ask())).toEqual(refused);
    expect(steps).toEqual([]);
  });

  it("is not looked at for who has gone", async () => {
    const { ask, steps } = openShard();
    expect((await refusal(ask({ signal: AbortSignal.abort() })))[0]).toBe("ABORTED");
    expect(steps).toEqual([]);
  });

  it.each([
    ["MEASUREMENT_INVALID", "invalid"],
    ["VRAM_UNREADABLE", "unreadable"],
    ["INTERNAL", "device"],
  ] as const)("[VR-VER-05] because of %s stays sealed; that it did not work is on record", async (code, failure) => {
    const { shard, ask, steps, answers } = openShard();
    const error = new VramError(code, "no answer");
    answers.measure = () => Promise.reject(error);
    expect(await ask().catch((thrown: unknown) => thrown)).toBe(error);
    expect(shard.state).toBe("sealed");
    expect(steps).toEqual(["measure", { ...FAILED, failure, message: "no answer", ...NOWHERE }]);
  });

  it("[VR-VER-05] covered in part is neither pass nor mismatch", async () => {
    const { shard, ask, answers } = openShard();
    answers.measure = async () => measured(KEPT, BYTES - 1);
    const said = `the measurement covered ${BYTES - 1} of ${BYTES} bytes`;
    expect(await refusal(ask())).toEqual(["MEASUREMENT_INVALID", said, {}]);
    expect(shard.state).toBe("sealed");
  });

  it("on a device that fails for good is on record even if a mismatch came before", async () => {
    const { shard, ask, steps, answers } = openShard();
    answers.facts = async () => {
      shard.state = "lost";
      throw new VramError("DEVICE_LOST", "gone");
    };
    expect((await refusal(ask()))[0]).toBe("DEVICE_LOST");
    expect(steps).toEqual([{ ...FAILED, failure: "device", message: "gone", ...NOWHERE }]);
    steps.splice(0);
    shard.state = "sealed";
    answers.facts = async () => {
      shard.state = "mismatched";
      throw new VramError("INTERNAL", "odd");
    };
    expect((await refusal(ask()))[0]).toBe("INTERNAL");
    expect(steps).toEqual([]);
  });
});

describe("[VR-VER-06] a shard that can no longer be believed", () => {
  it("is marked and told of first, then on record: other bytes", async () => {
    const { shard, ask, steps, answers } = openShard();
    answers.measure = async () => measured(damaged(1));
    const [code, message, details] = await refusal(ask());
    const actual = toHex(measured(damaged(1)).digest);
    expect(code).toBe("MEASUREMENT_MISMATCH");
    expect(message).toBe(
      `m: the bytes in VRAM are not the sealed ones: sealed fsverity:${DIGEST}, measured fsverity:${actual}; ` +
        "1 range of 512 KiB damaged, in b, c",
    );
    expect(details).toMatchObject({
      ...{ shardId: "shard-m", expected: `fsverity:${DIGEST}`, actual: `fsverity:${actual}` },
      damage: { rangeCount: 1, precision: "block" },
    });
    const said = "the measured digest differs from the sealed one";
    const where = { ranges: [{ offset: 524_288, byteLength: 524_288 }], rangesTotal: 1 };
    const entry = { ...FAILED, failure: "mismatch", message: said, ...where, tensors: ["b", "c"], tensorsTotal: 2 };
    expect(steps).toEqual(["measure", "unreliable: mismatched", entry]);
    expect(shard.state).toBe("mismatched");
  });

  it("stops its worker before it is on record, where that was asked for", async () => {
    const { worker, ask, steps, answers, set } = openShard();
    set({ onMismatch: "stop" });
    answers.measure = async () => measured(damaged(0));
    await refusal(ask());
    const reason = "m: the measured digest differs from the sealed one";
    expect(worker.stopped).toBe(reason);
    const types = steps.map((step) => (typeof step === "string" ? step : (step as { type: string }).type));
    expect(types).toEqual([
      ...["measure", "unreliable: mismatched", "stopped: all", "worker_stopped", "seal_verification_failed"],
    ]);
  });

  it("for a mac of our own that does not hold, nothing is asked of the device", async () => {
    const { shard, ask, steps } = openShard();
    Object.assign(shard, { seal: { ...shard.seal, sequence: 9 } });
    const said = "our own record of the shard no longer carries a valid mac";
    expect(await refusal(ask())).toEqual(["REGISTRY_CORRUPT", `m: ${said}`, {}]);
    expect(steps).toEqual(["unreliable: mismatched", { ...FAILED, failure: "mac", message: said, ...NOWHERE }]);
    expect(shard.state).toBe("mismatched");
  });

  it("[VR-POL-01] for facts that changed, every rule that is broken is on record", async () => {
    const { ask, steps, answers } = openShard();
    const sound = await answers.facts();
    answers.facts = async () => ({ ...sound, memoryType: "host", managed: true });
    const [code, message] = await refusal(ask());
    expect(code).toBe("POLICY_VIOLATION");
    const [told, entry, ...violations] = steps;
    expect(told).toBe("unreliable: mismatched");
    expect(entry).toEqual({ ...FAILED, failure: "facts", message, ...NOWHERE });
    expect(violations).toEqual([
      { type: "policy_violation", device: REF, rule: "host-resident-memory", expected: "device", actual: "host" },
      { type: "policy_violation", device: REF, rule: "managed-memory", expected: "false", actual: "true" },
    ]);
  });

  it("[VR-VER-03] is located with what is held of it; a source only if there is one", async () => {
    const source = { kind: "file", path: "/m" } as unknown as Shard["source"];
    for (const given of [undefined, source]) {
      const { ask, answers } = openShard(given === undefined ? {} : { source: given });
      const asked: unknown[] = [];
      answers.measure = async () => measured(damaged(0, 2));
      answers.locate = async (request) => {
        asked.push(request);
        return { precision: "block", blocks: [], blockCount: 0 };
      };
      await refusal(ask());
      const request = { allocationId: 7, rangeOffsets: [0, 1_048_576], kept: KEPT };
      expect(asked).toEqual([given === undefined ? request : { ...request, source }]);
      expect(Object.hasOwn(asked[0] as object, "source")).toBe(given !== undefined);
    }
  });

  it("[VR-VER-03] is a mismatch also when locating fails, or the hashes kept here no longer add up", async () => {
    const failing = openShard();
    failing.answers.measure = async () => measured(damaged(0));
    failing.answers.locate = () => Promise.reject(new VramError("SOURCE_READ_FAILED", "disk"));
    const [code, , details] = await refusal(failing.ask());
    expect(code).toBe("MEASUREMENT_MISMATCH");
    const because = "locating failed: SOURCE_READ_FAILED";
    expect(details).toMatchObject({ damage: { precision: "range", because, rangeCount: 1 } });

    const unsound = openShard();
    unsound.shard.kept.fill(0);
    unsound.answers.measure = async () => measured(damaged(0));
    unsound.answers.locate = () => Promise.reject(new Error("nobody may be asked"));
    const [, message, found] = await refusal(unsound.ask());
    const why = "the hashes kept on the host no longer add up to the sealed digest";
    expect(found).toMatchObject({ damage: { precision: "range", because: why, rangeCount: 0, ranges: [] } });
    expect(message).toContain("; 0 ranges of 512 KiB damaged, no tensor there");
  });

  it("is what the device says of itself in every report", async () => {
    const { ask } = openShard();
    expect((await ask()).device).toEqual({ ordinal: INFO.ordinal, uuid: INFO.uuid });
  });
});
