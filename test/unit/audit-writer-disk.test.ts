/** The writer of the audit log on a disk that fails: what is acknowledged, what is refused, and what is on disk then. */
import { promises, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import { systemError } from "../helpers/audit-writer-disk.ts";
import { durable, gate, openUnit, outcomeOf, turns, until } from "../helpers/audit-writer-unit.ts";

const REFUSED = "AUDIT_UNAVAILABLE";
const ENDED = "AUDIT_UNAVAILABLE final";

/** Every file that the writer keeps open or replaces. */
const FILES = ["000001.jsonl", "000001.leaves", "checkpoint.tmp", "checkpoints"];

afterEach(() => vi.restoreAllMocks());

describe("an entry", () => {
  test("[VR-AUD-04] is acknowledged after its fdatasync, not before", async () => {
    const { log, disk, state, closeSound } = await openUnit();
    await log.reader.accept(durable("makes the first epoch"));
    const hold = gate();
    let syncs = 0;
    disk.onSync = async (name) => {
      if (name.endsWith(".jsonl")) {
        syncs += 1;
        await hold.opened;
      }
    };
    const before = statSync(join(state.folder, "000001.jsonl")).size;
    let acknowledged = false;
    const done = Promise.resolve(log.reader.accept(durable("held"))).then(() => {
      acknowledged = true;
    });
    await until(() => syncs === 1);
    await turns();
    expect(statSync(join(state.folder, "000001.jsonl")).size).toBeGreaterThan(before);
    expect(acknowledged).toBe(false);
    hold.open();
    await done;
    await closeSound();
  });

  test("is written however many turns after the last acknowledgement it comes", async () => {
    const { log, closeSound } = await openUnit();
    for (let ticks = 0; ticks < 12; ticks += 1) {
      let chain: Promise<unknown> = Promise.resolve(log.reader.accept(durable(`first of ${ticks}`)));
      for (let tick = 0; tick < ticks; tick += 1) chain = chain.then(() => undefined);
      await chain.then(() => log.reader.accept(durable(`second of ${ticks}`)));
    }
    await closeSound();
  });

  test("that has no line is refused alone", async () => {
    const { log, closeSound, types } = await openUnit();
    const odd = { ...durable("odd"), "not a word": 1 };
    const all = [durable("a"), odd, durable("b")].map((entry) => outcomeOf(() => log.reader.accept(entry)));
    expect(await Promise.all(all)).toEqual(["ok", "INVALID_ARGUMENT", "ok"]);
    await closeSound();
    expect((await types()).filter((type) => type === "worker_stopped")).toHaveLength(2);
  });
});

describe("a write that fails", () => {
  test.each(FILES)("[VR-AUD-03] to %s leaves nothing half written, and the next try may succeed", async (file) => {
    for (const nth of [1, 2, 3]) {
      const { log, disk, closeSound, entries } = await openUnit();
      let count = 0;
      let left = 1;
      disk.onWrite = async (name, bytes, handle) => {
        if (name !== file) return;
        count += 1;
        if (count < nth || left === 0) return;
        left -= 1;
        // Half of it is there when the disk turns out to be full.
        const { size } = await handle.stat();
        await handle.write(bytes, 0, bytes.byteLength >> 1, size);
        throw systemError("ENOSPC");
      };
      const outcomes: string[] = [];
      for (let n = 0; n < 6; n += 1) outcomes.push(await outcomeOf(() => log.reader.accept(durable(`entry ${n}`))));
      await closeSound();
      expect(outcomes.filter((outcome) => outcome !== "ok" && outcome !== REFUSED)).toEqual([]);
      const said = (await entries()).map(({ data }) => data["reason"]).filter((reason) => reason !== undefined);
      expect(said, `${file}, write ${nth}`).toEqual(
        outcomes.flatMap((outcome, n) => (outcome === "ok" ? [`entry ${n}`] : [])),
      );
    }
  });

  test("[VR-AUD-03] and cannot be cut back ends the log", async () => {
    const { log, disk } = await openUnit();
    await log.reader.accept(durable("one"));
    disk.onWrite = () => Promise.reject(systemError("ENOSPC"));
    disk.onTruncate = () => Promise.reject(systemError("EIO"));
    expect(await outcomeOf(() => log.reader.accept(durable("two")))).toBe(ENDED);
  });

  test("[VR-AUD-03] of a log checkpoint's name is tried again; any other failure of it ends the log", async () => {
    const { log, clock, closeSound } = await openUnit();
    await log.reader.accept(durable("one"));
    const rename = vi.spyOn(promises, "rename").mockImplementation(() => Promise.reject(systemError("ENOSPC")));
    clock.monotonic += 15 * 60_000;
    expect(await outcomeOf(() => log.reader.accept(durable("two")))).toBe(REFUSED);
    rename.mockRestore();
    expect(await outcomeOf(() => log.reader.accept(durable("three")))).toBe("ok");
    vi.spyOn(promises, "rename").mockImplementation(() => Promise.reject(systemError("EROFS")));
    clock.monotonic += 15 * 60_000;
    expect(await outcomeOf(() => log.reader.accept(durable("four")))).toBe(ENDED);
    vi.restoreAllMocks();
    await closeSound();
  });

  test("[VR-AUD-03] of the next epoch's key is made up for before anything else is written", async () => {
    const { log, clock, closeSound, types } = await openUnit();
    await log.reader.accept(durable("one"));
    const real = promises.rename;
    vi.spyOn(promises, "rename").mockImplementation(async (from, to) => {
      if (String(to).endsWith("audit-epoch.key")) throw systemError("ENOSPC");
      await real(from, to);
    });
    clock.monotonic += 15 * 60_000;
    for (const n of [1, 2]) {
      expect(await outcomeOf(() => log.reader.accept(durable(`no key ${n}`)))).toBe(REFUSED);
    }
    vi.restoreAllMocks();
    await log.reader.accept(durable("three"));
    await closeSound();
    expect((await types()).filter((type) => type === "epoch_started")).toHaveLength(2);
  });
});

describe("a sync that fails", () => {
  test.each(FILES)(
    "[VR-AUD-03] of %s ends the log: nothing more is written, and the next start goes on",
    async (file) => {
      const { log, disk, state, notes, clock } = await openUnit();
      await log.reader.accept(durable("one"));
      let failed = 0;
      let writes = 0;
      disk.onSync = async (name) => {
        // Leaf hashes are synced when their segment ends, which this log does not come to.
        if (name !== file || failed > 0) return;
        failed += 1;
        throw systemError("EIO");
      };
      disk.onWrite = async () => {
        if (failed > 0) writes += 1;
      };
      clock.monotonic += 15 * 60_000;
      const outcomes = [1, 2, 3].map((n) => outcomeOf(() => log.reader.accept(durable(`entry ${n}`))));
      const expected = file.endsWith(".leaves") ? "ok" : ENDED;
      expect(await Promise.all(outcomes)).toEqual([expected, expected, expected]);
      expect(await outcomeOf(() => log.reader.accept(durable("later", false)))).toBe(expected);
      if (expected === ENDED)
        expect(notes).toContainEqual(expect.objectContaining({ type: "audit_failed", final: true }));
      await log.close();
      expect(writes, "writes after the failure").toBe(0);
      const again = await openUnit({}, state);
      await again.log.reader.accept(durable("the next start"));
      await again.closeSound();
    },
  );

  test("[VR-AUD-03] of a log checkpoint ends what waits for its turn as well", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      const { log, disk, state } = await openUnit();
      await log.reader.accept(durable("one"));
      const hold = gate();
      let held = false;
      disk.onSync = async (name) => {
        if (name !== "checkpoint.tmp") return;
        held = true;
        await hold.opened;
        throw systemError("EIO");
      };
      await turns();
      vi.advanceTimersByTime(1000);
      await until(() => held);
      const size = statSync(join(state.folder, "000001.jsonl")).size;
      const outcome = outcomeOf(() => log.reader.accept(durable("waits for its turn")));
      await turns();
      hold.open();
      expect(await outcome).toBe(ENDED);
      await log.close();
      expect(statSync(join(state.folder, "000001.jsonl")).size).toBe(size);
    } finally {
      vi.useRealTimers();
    }
  });
});

describe("a disk that was full", () => {
  test("[VR-AUD-03] has room for what must proceed, not for what gates, until the reserve is there again", async () => {
    const { log, disk, state, notes, closeSound, entries } = await openUnit();
    const reserve = join(state.folder, "reserve");
    const has = (path: string): boolean => statSync(path, { throwIfNoEntry: false }) !== undefined;
    await log.reader.accept(durable("one"));
    expect(statSync(reserve).size).toBe(1024 * 1024);
    // Room for lines is what the reserve gives up, and for the reserve there is none.
    disk.onWrite = async () => {
      if (has(reserve)) throw systemError("ENOSPC");
    };
    expect(await outcomeOf(() => log.reader.accept(durable("gates 1")))).toBe(REFUSED);
    const makeAnother = vi.spyOn(promises, "open").mockImplementation(async (path, flags, mode) => {
      if (path === reserve && flags === "wx") throw systemError("ENOSPC");
      return realOpen(path, flags, mode);
    });
    expect(await outcomeOf(() => log.reader.accept(durable("anyway", false)))).toBe("ok");
    expect(has(reserve)).toBe(false);
    expect(await outcomeOf(() => log.reader.accept(durable("gates 2")))).toBe(REFUSED);
    expect(await outcomeOf(() => log.reader.accept(durable("anyway 2", false)))).toBe("ok");
    makeAnother.mockRestore();
    disk.onWrite = () => Promise.resolve();
    expect(await outcomeOf(() => log.reader.accept(durable("gates 3")))).toBe("ok");
    expect(readFileSync(reserve).byteLength).toBe(1024 * 1024);
    expect(notes.filter(({ type }) => type === "audit_failed").length).toBeGreaterThan(0);
    await closeSound();
    const said = (await entries()).map(({ data }) => data["reason"]).filter((reason) => reason !== undefined);
    expect(said).toEqual(["one", "anyway", "anyway 2", "gates 3"]);
  });
});

const realOpen = promises.open;
