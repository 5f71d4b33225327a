/** The leaves that everything stands on: undoing, taking turns, writing things down, and the one table of errors. */
import { describe, expect, test } from "vitest";
import { assert, present, requireInteger, requireRange, unreachable } from "../../src/assert.ts";
import {
  canonicalJson,
  constantTimeEqual,
  formatBytes,
  fromHex,
  printable,
  roundUp,
  toHex,
  u32le,
  u64le,
} from "../../src/bytes.ts";
import type { Clock } from "../../src/clock.ts";
import { closedError, countHandle, liveHandles, Mutex, UndoStack } from "../../src/dispose.ts";
import { ERROR_TABLE, type ErrorCode, throwIfAborted, toVramError, VramError } from "../../src/errors.ts";
import type { DurableBody, Entry } from "../../src/journal/entry.ts";
import { createJournal } from "../../src/journal/journal.ts";
import { codeBy } from "../helpers/handles.ts";
import { codeOf } from "../helpers/vram.ts";

describe("the undo stack", () => {
  const failing = (): never => {
    throw new Error("told by the test");
  };

  test("undoes backwards, goes on past failures, reports each once under its name", async () => {
    const log: string[] = [];
    const undo = new UndoStack((what, error) => log.push(`${what}: ${String(error)}`));
    undo.defer("first", () => void log.push("first undone"));
    undo.defer("second", failing);
    undo.defer("third", async () => {
      await Promise.resolve();
      log.push("third undone");
    });
    undo.defer("fourth", () => Promise.reject(new Error("later")));
    await undo.unwind();
    await undo.unwind();
    expect(log).toEqual(["fourth: Error: later", "third undone", "second: Error: told by the test", "first undone"]);
  });

  test("disarmed, undoes nothing; used afterwards, is a mistake", async () => {
    const log: string[] = [];
    const undo = new UndoStack((what) => log.push(what));
    undo.defer("first", () => void log.push("undone"));
    undo.disarm();
    await undo.unwind();
    expect(log).toEqual([]);
    expect(codeBy(() => undo.defer("late", failing))).toBe("INTERNAL");
    const unwound = new UndoStack(() => undefined);
    await unwound.unwind();
    expect(codeBy(() => unwound.defer("late", failing))).toBe("INTERNAL");
  });
});

describe("taking turns", () => {
  test("tasks run one at a time, in order; one that fails fails alone", async () => {
    const mutex = new Mutex();
    const log: string[] = [];
    const task = (name: string, error?: Error) => async () => {
      log.push(`${name} begins`);
      await new Promise((resolve) => setImmediate(resolve));
      log.push(`${name} ends`);
      if (error !== undefined) throw error;
      return name;
    };
    const runs = [task("a"), task("b", new Error("b failed")), task("c")].map((each) => mutex.run(each));
    const outcomes = await Promise.allSettled(runs);
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(log).toEqual(["a", "b", "c"].flatMap((name) => [`${name} begins`, `${name} ends`]));
  });

  test("handles are counted by kind, and count as gone once", () => {
    const gone = [countHandle("kind"), countHandle("kind"), countHandle("other")];
    expect(liveHandles()).toEqual({ kind: 2, other: 1 });
    gone[0]?.();
    gone[0]?.();
    expect(liveHandles()).toEqual({ kind: 1, other: 1 });
    for (const each of gone) each();
    expect(liveHandles()).toEqual({});
    expect(closedError("the thing")).toMatchObject({ code: "CLOSED", message: "the thing is closed" });
  });
});

describe("canonical JSON", () => {
  // RFC 8785: the example of section 3.2.2, the sorting of 3.2.3, and the numbers of appendix B.
  test("writes the examples of RFC 8785", () => {
    const example = {
      numbers: JSON.parse("[333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001]") as unknown,
      string: "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
      literals: [null, true, false],
    };
    expect(canonicalJson(example)).toBe(
      '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],' +
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
    );
    const keys = ["\u20ac", "\r", "\ufb33", "1", "\u{1f600}", "\u0080", "\u00f6"];
    const sorted = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\u{1f600}", "\ufb33"];
    const written = canonicalJson(Object.fromEntries(keys.map((key) => [key, 0])));
    expect(written).toBe(`{${sorted.map((key) => `${JSON.stringify(key)}:0`).join(",")}}`);
    const numbers = [-0, 5e-324, 1.7976931348623157e308, 9007199254740992, 295147905179352830000, 1e23, 1e-7];
    expect(canonicalJson(numbers)).toBe(
      "[0,5e-324,1.7976931348623157e+308,9007199254740992,295147905179352830000,1e+23,1e-7]",
    );
  });

  test("sorts at every depth, keys that look like numbers as text, and keeps the order of lists", () => {
    expect(canonicalJson({ b: [{ d: 1, c: 2 }, 3], a: { 10: "x", 9: "y", "-1": "z" } })).toBe(
      '{"a":{"-1":"z","10":"x","9":"y"},"b":[{"c":2,"d":1},3]}',
    );
    expect(canonicalJson(JSON.parse('{"b":1,"__proto__":{"z":1,"a":2}}'))).toBe('{"__proto__":{"a":2,"z":1},"b":1}');
    expect(canonicalJson({ a: undefined, b: 1 })).toBe('{"b":1}');
  });

  test("has no form for what JSON cannot hold", () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, undefined, 1n, () => 1, Symbol("a"), "\ud800"]) {
      for (const whole of [value, [value]]) expect(codeBy(() => canonicalJson(whole))).toBe("INTERNAL");
    }
    expect(codeBy(() => canonicalJson({ "\udc00": 1 }))).toBe("INTERNAL");
  });
});

describe("bytes", () => {
  test("hex is read strictly and written in lower case", () => {
    expect(fromHex("00fFAb", 3, "x")).toEqual(Uint8Array.of(0, 255, 171));
    expect(toHex(new Uint8Array([9, 0, 255, 171]).subarray(1))).toBe("00ffab");
    for (const text of ["", "00", "00ffa", "00ffabcd", "00ffag", "00ff\n0", " 0ffab", "0x00ff"]) {
      expect(
        codeBy(() => fromHex(text, 3, "x")),
        text,
      ).toBe("INVALID_ARGUMENT");
    }
  });

  test("integers are little-endian, and equality is of bytes", () => {
    expect([toHex(u32le(0x01020304)), toHex(u64le(2 ** 53 - 1))]).toEqual(["04030201", "ffffffffffff1f00"]);
    expect(constantTimeEqual(Uint8Array.of(1, 2), Buffer.from([1, 2]))).toBe(true);
    expect(constantTimeEqual(Uint8Array.of(1, 2), Uint8Array.of(1, 3))).toBe(false);
    expect(constantTimeEqual(Uint8Array.of(1), Uint8Array.of(1, 0))).toBe(false);
    expect([roundUp(1, 4096), roundUp(4096, 4096), roundUp(2 ** 52 + 1, 2 ** 21)]).toEqual([
      4096,
      4096,
      2 ** 52 + 2 ** 21,
    ]);
  });

  test("sizes are written for people", () => {
    const sizes = [0, 1023, 1024, 387_288, 2 ** 20, 70_000_000_000, 2 ** 50, 2 ** 53, 2 ** 60];
    expect(sizes.map(formatBytes)).toEqual([
      "0 B",
      "1023 B",
      "1.0 KiB",
      "378.2 KiB",
      "1.0 MiB",
      "65.2 GiB",
      "1.0 PiB",
      "8.0 PiB",
      "1024.0 PiB",
    ]);
  });

  test("[VR-IN-01] what could steer a terminal or turn text around is escaped, everything else stays", () => {
    expect(printable("a\u001b[31m\r\n\0\u007f\u009b")).toBe("a\\u{1b}[31m\\u{d}\\u{a}\\u{0}\\u{7f}\\u{9b}");
    // Every character of the Unicode property Bidi_Control, and the line separators.
    const turning = Array.from({ length: 0x3000 }, (_, code) => String.fromCodePoint(code)).filter((char) =>
      /[\p{Bidi_Control}\p{Zl}\p{Zp}]/u.test(char),
    );
    expect(turning).toHaveLength(14);
    for (const char of turning) expect(printable(char)).toBe(`\\u{${char.charCodeAt(0).toString(16)}}`);
    // What takes no room: soft hyphen, zero widths, a word joiner, and letters of tags, which are beyond the first plane.
    expect(printable("a\u00ad\u200b\u2060\ufeffb\u{e0041}c")).toBe("a\\u{ad}\\u{200b}\\u{2060}\\u{feff}b\\u{e0041}c");
    expect(printable("modèle ✓ 模型 \u{1f600} a\\b")).toBe("modèle ✓ 模型 \u{1f600} a\\b");
  });
});

describe("errors", () => {
  test("every code has a meaning and a fix, and being fatal is not being retriable", () => {
    for (const [code, row] of Object.entries(ERROR_TABLE)) {
      expect(code).toMatch(/^[A-Z]+(_[A-Z]+)*$/);
      for (const text of [row.meaning, row.fix]) expect(text, code).toMatch(/^\S.{8,}\S$/);
      expect(row.fatal && row.retriable, code).toBe(false);
      const error = new VramError(code as ErrorCode, "what happened");
      expect(error).toMatchObject({
        name: "VramError",
        code,
        retriable: row.retriable,
        fatal: row.fatal,
        fix: row.fix,
      });
    }
    const fatal = Object.entries(ERROR_TABLE).filter(([, row]) => row.fatal);
    expect(fatal.map(([code]) => code).sort()).toEqual(["DEVICE_LOST", "DEVICE_STALLED", "VRAM_UNREADABLE"]);
  });

  test("as plain data they carry no stack and no cause; a fix may be a better one", () => {
    const error = new VramError("CLOSED", "m", { cause: new Error("inner"), details: { a: 1 }, fix: "do this" });
    const plain = { code: "CLOSED", message: "m", fix: "do this", retriable: false, details: { a: 1 } };
    expect(JSON.parse(JSON.stringify(error))).toEqual(plain);
    expect((error.cause as Error).message).toBe("inner");
    expect("cause" in new VramError("CLOSED", "m")).toBe(false);
  });

  test("whatever is thrown becomes one, and stays one", () => {
    const own = new VramError("CLOSED", "m");
    expect(toVramError(own)).toBe(own);
    const cause = new TypeError("x is undefined");
    expect(toVramError(cause)).toMatchObject({ code: "INTERNAL", cause });
    expect(toVramError("text")).toMatchObject({ code: "INTERNAL", cause: "text" });
    expect(toVramError(AbortSignal.abort().reason)).toMatchObject({ code: "ABORTED", retriable: true });
    throwIfAborted(undefined);
    throwIfAborted(new AbortController().signal);
    expect(codeBy(() => throwIfAborted(AbortSignal.abort("why")))).toBe("ABORTED");
  });

  test("assertions are ours, requirements are the caller's", () => {
    expect(codeBy(() => assert(false, "it holds"))).toBe("INTERNAL");
    for (const absent of [undefined, null]) expect(codeBy(() => present(absent, "it"))).toBe("INTERNAL");
    expect([present(0, "it"), present("", "it"), present(false, "it")]).toEqual([0, "", false]);
    expect(codeBy(() => unreachable("x" as never))).toBe("INTERNAL");
    expect([requireInteger(1, "n", 1, 2), requireInteger(2, "n", 1, 2)]).toEqual([1, 2]);
    for (const value of [0, 3, 1.5, Number.NaN, "1", 1n, null, undefined, [1]]) {
      expect(codeBy(() => requireInteger(value, "n", 1, 2))).toBe("INVALID_ARGUMENT");
    }
    requireRange(0, 1, 1, "it");
    expect(codeBy(() => requireRange(1, 1, 1, "it"))).toBe("OUT_OF_BOUNDS");
  });
});

describe("the journal", () => {
  const clock: Clock = { wallMs: () => 1234, monotonicMs: () => 0, sleep: async () => undefined };
  const body: DurableBody = { type: "worker_stopped", device: { ordinal: 0, uuid: "EMU-1" }, reason: "test" };
  const reader = (required: boolean, accept: (entry: Entry) => void | Promise<void>) => ({ required, accept });

  test("numbers and times entries, and gives them to readers that are attached", async () => {
    const journal = createJournal(clock);
    const seen: Entry[] = [];
    const detach = journal.attach(reader(false, (entry) => void seen.push(entry)));
    await journal.append(body);
    journal.note({ type: "release_failed", what: "x", message: "y" });
    detach();
    await journal.append(body);
    expect(seen.map(({ seq, type, durability, timeMs }) => [seq, type, durability, timeMs])).toEqual([
      [1, "worker_stopped", "durable", 1234],
      [2, "release_failed", "transient", 1234],
    ]);
  });

  test.each(["throws", "rejects"])(
    "a required reader that %s makes the operation fail with AUDIT_UNAVAILABLE",
    async (how) => {
      const journal = createJournal(clock);
      const cause = new Error("disk full");
      const others: string[] = [];
      journal.attach(
        reader(true, () => {
          if (how === "throws") throw cause;
          return Promise.reject(cause);
        }),
      );
      journal.attach(reader(true, ({ type }) => void others.push(type)));
      await expect(journal.append(body)).rejects.toMatchObject({ code: "AUDIT_UNAVAILABLE", cause, retriable: true });
      // What must proceed proceeds, and the gap is itself told; transient entries need nobody.
      await journal.appendAnyway(body);
      journal.note({ type: "release_failed", what: "x", message: "y" });
      expect(others).toEqual(["worker_stopped", "worker_stopped", "entry_unrecorded", "release_failed"]);
    },
  );

  test("readers that are not required can neither fail nor delay an operation", async () => {
    const journal = createJournal(clock);
    journal.attach(reader(false, () => Promise.reject(new Error("no"))));
    journal.attach(reader(false, () => new Promise(() => undefined)));
    journal.attach(
      reader(false, () => {
        throw new Error("at once");
      }),
    );
    await journal.append(body);
    expect(await codeOf(journal.append(body))).toBe("no error: undefined");
  });

  test("an entry is recorded when every required reader has taken it, not before", async () => {
    const journal = createJournal(clock);
    let take: () => void = () => undefined;
    const taken = new Promise<void>((resolve) => {
      take = resolve;
    });
    journal.attach(reader(true, () => taken));
    let done = false;
    const appended = journal.append(body).then(() => {
      done = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(done).toBe(false);
    take();
    await appended;
  });
});
