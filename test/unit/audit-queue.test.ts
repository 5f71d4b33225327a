/** The queue of entries and the words of a refusal: who finds room, in which order, and what is final. */
import { describe, expect, it } from "vitest";
import { auditUnavailable, isFinal, isFull } from "../../src/audit/durable.ts";
import type { Draft } from "../../src/audit/log-writer.ts";
import { type EntryKind, EntryQueue } from "../../src/audit/queue.ts";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";

const draft = (type: string): Draft => ({ type, timeMs: 1, data: {} });
const NO_DISK = auditUnavailable("no disk", false);

function open(maxBytes = 2 ** 30, usedBytes = 0) {
  const used = { bytes: usedBytes };
  const queue = new EntryQueue(maxBytes, () => used.bytes);
  const told: string[] = [];
  const add = (type: string, kind: EntryKind = "gates"): Draft => {
    const entry = draft(type);
    queue.add(entry, kind).then(
      () => told.push(`${type} is on disk`),
      (error: unknown) => told.push(`${type}: ${error instanceof Error ? error.message : "?"}`),
    );
    return entry;
  };
  const types = (count = 100): string[] => queue.begin(count).map(({ type }) => type);
  const settled = async (): Promise<string[]> => {
    for (let turn = 0; turn < 5; turn += 1) await Promise.resolve();
    return told.splice(0);
  };
  return { queue, used, add, types, settled };
}

const why = (queue: EntryQueue, kind: EntryKind) => {
  const error = queue.refusalOf(kind);
  return error === undefined ? undefined : [error.code, error.message, error.details];
};
const refused = (message: string) => ["AUDIT_UNAVAILABLE", message, { final: false }];

describe("[VR-AUD-03] room in the log", () => {
  const most = 2 ** 30;
  const full = refused(`the audit log has reached its limit of ${most} bytes`);

  it("ends for what gates at the reserve, for the rest at the limit, and never for what makes room", () => {
    const { queue, used } = open(most);
    const cases: readonly (readonly [bytes: number, gates: unknown, anyway: unknown])[] = [
      [0, undefined, undefined],
      [most - LIMITS.auditReservedBytes - 1, undefined, undefined],
      [most - LIMITS.auditReservedBytes, full, undefined],
      [most - 1, full, undefined],
      [most, full, full],
      [most * 2, full, full],
    ];
    for (const [bytes, gates, anyway] of cases) {
      used.bytes = bytes;
      expect([why(queue, "gates"), why(queue, "anyway"), why(queue, "makesRoom")]).toEqual([gates, anyway, undefined]);
    }
  });

  it("is reserved by half where the log is small", () => {
    const { queue, used } = open(1000);
    used.bytes = 499;
    expect(why(queue, "gates")).toBeUndefined();
    used.bytes = 500;
    expect(why(queue, "gates")).toEqual(refused("the audit log has reached its limit of 1000 bytes"));
    expect(why(queue, "anyway")).toBeUndefined();
  });

  it("is also room in the queue, more of it for what must proceed", () => {
    const { queue, add } = open();
    const busy = refused("too many entries wait for the disk");
    for (let count = 0; count < LIMITS.auditQueueEntries; count += 1) {
      if (count === LIMITS.auditQueueEntries - 1) expect(why(queue, "gates")).toBeUndefined();
      add("a");
    }
    expect([why(queue, "gates"), why(queue, "anyway")]).toEqual([busy, undefined]);
    while (queue.length < LIMITS.auditQueueAnyway) add("b", "anyway");
    expect([why(queue, "anyway"), why(queue, "makesRoom")]).toEqual([busy, busy]);
    // One batch is never more than what gates may have waiting.
    expect(queue.begin(2 * LIMITS.auditQueueEntries)).toHaveLength(LIMITS.auditQueueEntries);
  });
});

describe("entries that wait", () => {
  it("are written in their order, and told when they are on disk", async () => {
    const { queue, add, types, settled } = open();
    for (const type of ["a", "b", "c"]) add(type);
    expect([queue.length, types(2)]).toEqual([3, ["a", "b"]]);
    queue.end(2);
    expect([queue.length, await settled()]).toEqual([1, ["a is on disk", "b is on disk"]]);
    expect(types(5)).toEqual(["c"]);
    queue.end(0);
    expect([queue.length, await settled()]).toEqual([1, []]);
  });

  it("[VR-AUD-03] are taken back by whoever does not wait any more, unless they are being written", async () => {
    const { queue, add, types, settled } = open();
    const [a, b, c] = [add("a"), add("b"), add("c")];
    expect(types(1)).toEqual(["a"]);
    queue.withdraw(a);
    queue.withdraw(draft("nobody's"));
    expect([queue.length, await settled()]).toEqual([3, []]);
    queue.withdraw(b);
    expect([queue.length, await settled()]).toEqual([2, ["b: it took too long"]]);
    queue.end(0);
    queue.withdraw(a);
    queue.withdraw(draft("nobody's"));
    expect([queue.length, await settled()]).toEqual([1, ["a: it took too long"]]);
    queue.withdraw(c);
    expect([queue.length, await settled()]).toEqual([0, ["c: it took too long"]]);
  });

  it("[VR-AUD-03] let what must proceed go first, each kind in its order", async () => {
    const { queue, add, types } = open();
    add("a");
    add("b", "anyway");
    add("c");
    add("d", "makesRoom");
    expect(queue.anywayFirst()).toBe(2);
    expect(types()).toEqual(["b", "d", "a", "c"]);
    queue.end(4);
    expect(queue.anywayFirst()).toBe(0);
  });

  it("[VR-AUD-03] are refused: those that gate, the first, or all; or told, and stay", async () => {
    const { queue, add, types, settled } = open();
    queue.rejectFirst(NO_DISK);
    for (const type of ["a", "b"]) add(type);
    add("c", "anyway");
    add("d");
    add("e", "makesRoom");
    queue.rejectFirst(NO_DISK);
    expect([queue.length, await settled()]).toEqual([4, ["a: no disk"]]);
    queue.rejectGates(NO_DISK);
    expect([types(), await settled()]).toEqual([
      ["c", "e"],
      ["b: no disk", "d: no disk"],
    ]);
    queue.tellAll(NO_DISK);
    expect([queue.length, await settled()]).toEqual([2, ["c: no disk", "e: no disk"]]);
    add("f");
    queue.rejectAll(NO_DISK);
    expect([queue.length, await settled()]).toEqual([0, ["f: no disk"]]);
  });
});

describe("a refusal", () => {
  const system = (code: string, syscall: string): Error =>
    Object.assign(new Error(`${code}: no space left on device, ${syscall} '/state/audit/000001.jsonl'`), {
      ...{ code, syscall, errno: -28 },
    });

  it("says what the system said, without the path, and what can be done", () => {
    const error = auditUnavailable("the log could not be written", false, system("ENOSPC", "write"));
    expect(error.message).toBe("the log could not be written: ENOSPC: no space left on device");
    expect([error.code, error.details]).toEqual(["AUDIT_UNAVAILABLE", { final: false }]);
    expect(error.fix).toBe("make room on the disk of the state directory, then try again");
    expect(error.cause).toMatchObject({ code: "ENOSPC" });
    const final = auditUnavailable("the log could not be synced", true, new Error("odd, write '/path'"));
    expect(final.message).toBe("the log could not be synced: odd, write '/path'");
    expect([final.details, final.fix]).toEqual([{ final: true }, "check the disk, then restart"]);
    expect(auditUnavailable("it took too long", false).message).toBe("it took too long");
    expect(auditUnavailable("odd", false, "text").message).toBe("odd: text");
  });

  it.each([
    ["an fsync that failed", auditUnavailable("a", true), true],
    ["a write that failed", auditUnavailable("a", false), false],
    ["an entry that has no line", new VramError("INVALID_ARGUMENT", "a"), false],
    ["a state that is not as it was", new VramError("STATE_INVALID", "a"), true],
    ["what nobody has foreseen", new Error("a"), true],
    ["what is no error", "a", true],
  ])("is final or not: %s", (_what, error, final) => {
    expect(isFinal(error)).toBe(final);
  });

  it.each([
    ["ENOSPC", "write", true],
    ["EDQUOT", "rename", true],
    ["EIO", "write", false],
    ["ENOSPC", "fsync", false],
    ["ENOSPC", "fdatasync", false],
  ])("is for want of room or not: %s of %s", (code, syscall, full) => {
    expect(isFull(system(code, syscall))).toBe(full);
  });

  it("is not for want of room if it is no error of the system", () => {
    for (const error of [new Error("ENOSPC"), "ENOSPC", undefined]) expect(isFull(error)).toBe(false);
  });
});
