/** The journal: what required readers can hold up and for how long, and whose ids an entry carries. */
import { describe, expect, it } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { VramError } from "../../src/errors.ts";
import { withCorrelation as exported } from "../../src/index.ts";
import type { Entry } from "../../src/journal/entry.ts";
import { createJournal, type JournalReader } from "../../src/journal/journal.ts";
import { currentScope, inOperation, inWorker, withCorrelation } from "../../src/journal/scope.ts";
import { LIMITS } from "../../src/limits.ts";
import { codeBy } from "../helpers/handles.ts";
import { codeOf } from "../helpers/vram.ts";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const DEVICE = { ordinal: 0, uuid: "EMU-0" };
const STOPPED = { type: "worker_stopped", device: DEVICE, reason: "a test" } as const;
const SET = { type: "set_sealed", name: "s", totalShards: 1, mac: "" } as const;

/** A journal and everything that a best-effort reader hears from it. */
function openJournal(waitMs?: number, ...readers: JournalReader[]) {
  const journal = createJournal(systemClock, waitMs);
  const heard: Entry[] = [];
  journal.attach({ required: false, accept: (entry) => void heard.push(entry) });
  for (const reader of readers) journal.attach(reader);
  return { journal, heard };
}

const never: JournalReader = { required: true, accept: () => new Promise(() => undefined) };

describe("a required reader", () => {
  it("[VR-AUD-03] that never answers is AUDIT_UNAVAILABLE for append, after the time it has", async () => {
    const { journal, heard } = openJournal(2, never);
    const error: unknown = await journal.append(STOPPED).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(VramError);
    expect(error).toMatchObject({ code: "AUDIT_UNAVAILABLE", cause: { message: "no answer within 2 ms" } });
    expect(heard, "what was refused did not happen, and nobody tells of it").toEqual([]);
  });

  it("[VR-NAR-01] decides what is told: in order, and not before it is on record", async () => {
    const answers: ((taken: boolean) => void)[] = [];
    const slow: JournalReader = {
      required: true,
      accept: ({ durability }) =>
        durability === "transient"
          ? undefined
          : new Promise((resolve, reject) => {
              answers.push((taken) => (taken ? resolve() : reject(new Error("full"))));
            }),
    };
    const { journal, heard } = openJournal(60_000, slow);
    const settled = [journal.append(STOPPED), journal.append(SET), journal.appendAnyway(STOPPED)].map(codeOf);
    journal.note({ type: "heartbeat" });
    expect(heard).toEqual([]);
    answers[1]?.(true);
    answers[2]?.(false);
    await new Promise((resolve) => setImmediate(resolve));
    expect(heard, "what is behind an entry that is not decided waits with it").toEqual([]);
    answers[0]?.(false);
    expect(await Promise.all(settled)).toEqual(["AUDIT_UNAVAILABLE", "no error: undefined", "no error: undefined"]);
    expect(heard.map(({ seq, type }) => [seq, type])).toEqual([
      [2, "set_sealed"],
      [3, "worker_stopped"],
      [4, "heartbeat"],
      [5, "entry_unrecorded"],
    ]);
  });

  it("that never answers lets appendAnyway go on, which notes what was lost", async () => {
    const { journal, heard } = openJournal(1, never);
    await journal.appendAnyway(STOPPED);
    expect(heard).toMatchObject([
      { type: "worker_stopped", durability: "durable", gates: false },
      { type: "entry_unrecorded", lost: "worker_stopped", durability: "transient" },
    ]);
    expect(heard[1]).toMatchObject({ message: expect.stringContaining("no answer within 1 ms") as string });
  });

  it("that throws, rejects, or rejects with no error is the same at once", async () => {
    const ways: JournalReader["accept"][] = [
      () => {
        throw new Error("full");
      },
      () => Promise.reject(new Error("full")),
      async () => {
        throw "no error at all" as unknown;
      },
    ];
    for (const accept of ways) {
      const { journal, heard } = openJournal(60_000, { required: true, accept });
      expect(await codeOf(journal.append(STOPPED))).toBe("AUDIT_UNAVAILABLE");
      await journal.appendAnyway(STOPPED);
      expect(heard.at(-1)).toMatchObject({ type: "entry_unrecorded", lost: "worker_stopped" });
    }
  });

  it("is waited for by durable entries only, and not once it is removed", async () => {
    const { journal, heard } = openJournal(1);
    const remove = journal.attach(never);
    journal.note({ type: "heartbeat" });
    expect(await codeOf(journal.append(STOPPED))).toBe("AUDIT_UNAVAILABLE");
    remove();
    await journal.append(STOPPED);
    expect(heard.map(({ seq, type }) => [seq, type])).toEqual([
      [1, "heartbeat"],
      [3, "worker_stopped"],
    ]);
  });

  it("that answers is waited for until it has; a best-effort one never is, whatever it does", async () => {
    let answer: () => void = () => undefined;
    const slow: JournalReader = { required: true, accept: () => new Promise((resolve) => (answer = resolve)) };
    const bad: JournalReader = { required: false, accept: () => Promise.reject(new Error("ignored")) };
    const idle: JournalReader = { required: false, accept: () => new Promise(() => undefined) };
    const { journal } = openJournal(60_000, slow, bad, idle);
    let taken = false;
    const appended = journal.append(STOPPED).then(() => {
      taken = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(taken).toBe(false);
    answer();
    await appended;
    expect(taken).toBe(true);
  });
});

describe("the scope of an entry", () => {
  it("[VR-NAR-01] carries the caller's correlation id through every await", async () => {
    const { journal, heard } = openJournal();
    await withCorrelation("deploy-4711", async () => {
      await journal.append(SET);
      await new Promise((resolve) => setImmediate(resolve));
      await inOperation(async () => journal.note({ type: "heartbeat" }));
    });
    await journal.append(SET);
    expect(heard.map(({ correlationId }) => correlationId)).toEqual(["deploy-4711", "deploy-4711", undefined]);
    expect(currentScope()).toBeUndefined();
    expect(exported).toBe(withCorrelation);
  });

  it("gives an operation that nobody named an id of its own, and keeps it below", async () => {
    const ids = await Promise.all(
      [1, 2].map(() =>
        inOperation(async () => {
          const outer = currentScope()?.correlationId;
          await new Promise((resolve) => setImmediate(resolve));
          return [
            outer,
            inOperation(() => currentScope()?.correlationId),
            inWorker("w", () => currentScope()?.correlationId),
          ];
        }),
      ),
    );
    for (const [outer, inner, worker] of ids) {
      expect(outer).toMatch(UUID);
      expect([inner, worker]).toEqual([outer, outer]);
    }
    expect(ids[0]?.[0]).not.toBe(ids[1]?.[0]);
    expect(inWorker("w", currentScope)).toMatchObject({
      workerId: "w",
      correlationId: expect.stringMatching(UUID) as string,
    });
  });

  it("knows the worker, and a worker within a worker; what names a device is that device's", async () => {
    const { journal, heard } = openJournal();
    await inWorker("outer", async () => {
      await journal.append(SET);
      await inWorker("inner", () => journal.append(SET));
      await journal.append(SET);
      await journal.append(STOPPED);
    });
    expect(heard.map(({ workerId }) => workerId)).toEqual(["outer", "inner", "outer", "EMU-0"]);
    expect(new Set(heard.map(({ correlationId }) => correlationId)).size).toBe(1);
    expect(inWorker("w", () => withCorrelation("c", currentScope))).toEqual({ correlationId: "c" });
  });

  it("does not mix operations that run at the same time", async () => {
    const { journal, heard } = openJournal();
    const names = Array.from({ length: 20 }, (_, index) => `caller-${index}`);
    const run = (name: string): Promise<void> =>
      withCorrelation(name, async () => {
        for (let step = 0; step < 5; step += 1) {
          await journal.append({ ...SET, name });
          await new Promise((resolve) => setImmediate(resolve));
        }
      });
    await Promise.all(names.map(run));
    expect(heard).toHaveLength(100);
    for (const entry of heard) expect(entry).toMatchObject({ name: entry.correlationId });
  });

  it("[VR-NAR-02] refuses ids that could not stand unquoted in a line", () => {
    const refuse = (id: string): unknown => codeBy(() => withCorrelation(id, () => expect.fail("it ran")));
    const long = "x".repeat(LIMITS.correlationIdLength);
    const bad = ["", " ", "a b", "a\n", "a\nb", "é", "a;b", '"', "a\u0000", `${long}x`, "a\u2028"];
    for (const id of bad) expect(refuse(id), JSON.stringify(id)).toBe("INVALID_ARGUMENT");
    for (const id of [long, "0", "00-4bf92f-01", "A.b_c:d/e-f"]) {
      expect(withCorrelation(id, () => currentScope()?.correlationId)).toBe(id);
    }
  });
});
