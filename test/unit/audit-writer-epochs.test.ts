/** Epochs of the audit log as its writer makes them: when one begins, and what is left of the key of the one before. */
import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { openLogFiles } from "../../src/audit/durable.ts";
import { EPOCH_KEY_FILE } from "../../src/audit/key-files.ts";
import { createLogWriter } from "../../src/audit/log-writer.ts";
import { recoverLog } from "../../src/audit/recover.ts";
import { createState } from "../helpers/audit-writer.ts";
import { createClock, durable, openUnit, type UnitLog } from "../helpers/audit-writer-unit.ts";

const causes = async (log: UnitLog): Promise<unknown[]> =>
  (await log.entries()).filter(({ type }) => type === "epoch_started").map(({ data }) => data["because"]);

describe("an epoch", () => {
  test("[VR-AUD-02] begins with a start, a segment, and after 15 minutes by the clock that is handed in", async () => {
    const log = await openUnit({ segmentBytes: 140_000 });
    await log.log.reader.accept(durable("one"));
    log.clock.monotonic += 15 * 60_000 - 1;
    await log.log.reader.accept(durable("two"));
    expect(await causes(log)).toEqual(["start"]);
    log.clock.monotonic += 1;
    await log.log.reader.accept(durable("three"));
    expect(await causes(log)).toEqual(["start", "time"]);
    for (let n = 0; n < 30; n += 1) await log.log.reader.accept(durable("x".repeat(3000)));
    expect(await causes(log)).toEqual(["start", "time", "segment"]);
    await log.closeSound();
    const again = await openUnit({ segmentBytes: 140_000 }, log.state);
    await again.log.reader.accept(durable("four"));
    expect(await causes(again)).toEqual(["start", "time", "segment", "start"]);
    await again.closeSound();
    const [first] = (await again.entries()).slice(-2);
    expect(first?.type).toBe("epoch_started");
  });

  test("[VR-AUD-02] ends after 65,536 entries", { timeout: 120_000 }, async () => {
    const log = await openUnit();
    for (let left = 65_536; left > 0; left -= 4096) {
      await Promise.all(Array.from({ length: 4096 }, async () => log.log.reader.accept(durable("one of many"))));
    }
    expect(await causes(log)).toEqual(["start", "entries"]);
    const types = await log.types();
    expect(types[65_535]).toBe("worker_stopped");
    expect(types[65_536]).toBe("epoch_started");
    await log.closeSound();
  });

  test("goes on where the clock fails", async () => {
    const clock = {
      ...createClock(),
      wallMs: (): number => {
        throw new Error("no clock");
      },
      monotonicMs: (): number => {
        throw new Error("no clock");
      },
    };
    const log = await openUnit({ clock });
    await log.log.reader.accept(durable("one"));
    await log.closeSound();
  });
});

describe("the key of an epoch that ended", () => {
  test("[VR-AUD-02] is overwritten in its file, which others may still have open, and in memory", async () => {
    const state = await createState();
    const path = join(state.stateDir, EPOCH_KEY_FILE);
    const recovered = await recoverLog(state.stateDir);
    const { folder, ends, position, signer, epochKey, signedSize, keptSize } = recovered;
    const files = await openLogFiles(folder, ends);
    const clock = createClock();
    const began: string[] = [];
    const onEpoch = (because: string): void => void began.push(because);
    const made = { stateDir: state.stateDir, files, position, signer, epochKey, signedSize, keptSize, onEpoch };
    const writer = createLogWriter({ ...made, clock, boot: new Uint8Array(16), segmentBytes: 2 ** 20 });
    const draft = { type: "heartbeat", timeMs: 0, data: {} };
    const old = await open(path, "r");
    const size = (await old.stat()).size;
    expect(epochKey.key.some((byte) => byte !== 0)).toBe(true);
    await writer.commit([draft]);
    expect(
      epochKey.key.every((byte) => byte === 0),
      "K(0) in memory",
    ).toBe(true);
    const left = Buffer.alloc(size, 1);
    await old.read(left, 0, size, 0);
    await old.close();
    expect(
      left.every((byte) => byte === 0),
      "K(0) on disk",
    ).toBe(true);
    expect(await readFile(path, "latin1")).toMatch(/^1 [0-9a-f]{64}\n$/);
    await writer.close();
  });
});
