/** Narration: levels, both forms, what is escaped and left out, and `docs/narration.md` against the table, both ways. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { EntryBody } from "../../src/journal/entry.ts";
import { GOOD, LEVELS, line, tensorList, withoutPaths } from "../../src/narrate/line.ts";
import { lineFor } from "../../src/narrate/table.ts";
import {
  DEVICE,
  EXAMPLES,
  exampleEntries,
  jsonLines,
  linesOf,
  narrated,
  recordingNarrator,
  stamped,
} from "../helpers/narration.ts";

/** The thirteen, as the Rust crate names them. */
const THIRTEEN =
  "init cuda_init seal verify verify_failed allocate allocate_failed deallocate policy_violation digest sign validate_failed capacity_query".split(
    " ",
  );

/** Text that would forge a line, clear a screen, or turn a terminal round. */
const HOSTILE = 'a"\\\n{"level":"info"}\r\u001b[2J\u0000\u0085\u009b\u2028\u2029\u202egnp.\u2066\u200f';
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what must not be there
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/u;

/** A copy of a body in which every text that can come from outside is hostile. */
function hostile(body: EntryBody): EntryBody {
  const outside = [
    "name",
    "reason",
    "message",
    "what",
    "lost",
    "argument",
    "rule",
    "expected",
    "actual",
    "access",
  ].concat("holder", "caller");
  const members = Object.entries(body).map(([key, value]: [string, unknown]) => {
    if (key === "tensors") return [key, [HOSTILE, HOSTILE]];
    return [key, outside.includes(key) && typeof value === "string" ? HOSTILE : value];
  });
  return Object.fromEntries(members) as EntryBody;
}

const bodies = Object.values<readonly EntryBody[]>(EXAMPLES).flat();

describe("the table of narration", () => {
  it("[VR-NAR-01] has the thirteen actions, each with actor, action, target and a sentence", async () => {
    const lines = jsonLines(await narrated(exampleEntries()));
    expect([...new Set(lines.map(({ action }) => action))]).toEqual(expect.arrayContaining(THIRTEEN));
    for (const { actor, action, target, human, level, time } of lines) {
      expect(["vram-residency", "worker", "audit"]).toContain(actor);
      expect(action).toMatch(/^[a-z]+(_[a-z]+)*$/);
      expect(target).not.toBe("");
      expect(human).not.toBe("");
      expect(LEVELS).toContain(level);
      expect(time).toBe("2026-01-02T03:04:05.006Z");
    }
  });

  it("has words that fit their column, and calls no mac a signature", () => {
    for (const told of exampleEntries().flatMap((entry) => lineFor(entry) ?? [])) {
      expect(told.word).toMatch(/^[a-z]{2,10}$/);
      expect(told.human).not.toMatch(/signature|signed/);
      expect(told.tone === "bad", told.human).toBe(
        told.level === "warn" || told.level === "error" || "errorKind" in told,
      );
    }
  });

  it("names three tensors, shortened, and says how many more there are", () => {
    expect(tensorList([], 0)).toBe("");
    expect(tensorList(["a", "b"], 2)).toBe("a, b");
    expect(tensorList(["a", "b", "c", "d"], 70)).toBe("a, b, c and 67 more");
    expect(tensorList(["é".repeat(5000)], 1)).toHaveLength(200);
  });

  it("[VR-NAR-02] tells foreign errors without the paths in them", () => {
    expect(withoutPaths("ENOENT: no such file or directory, open '/home/jo e/state'")).toBe(
      "ENOENT: no such file or directory, open …",
    );
    expect(withoutPaths("/a b/c is gone")).toBe("…");
    expect(withoutPaths("state/x i/o")).toBe("…");
    expect(withoutPaths("EIO: i/o error, fdatasync")).toBe("EIO: i/o error, fdatasync");
    expect(withoutPaths("EIO: i/o error, write '/a/i/o'")).toBe("EIO: i/o error, write …");
    expect(withoutPaths("no answer within 5 ms")).toBe("no answer within 5 ms");
  });
});

describe("both forms", () => {
  it("[VR-NAR-02] escape control characters and bidirectional overrides, whatever text they come in", async () => {
    for (const body of bodies.map(hostile)) {
      const entry = stamped(body);
      const [json, text] = [await narrated([entry]), await narrated([entry], { format: "text" })];
      const count = lineFor(entry) === undefined ? 0 : 1;
      expect([linesOf(json), linesOf(text)], body.type).toMatchObject([{ length: count }, { length: count }]);
      expect(json.replaceAll("\n", "") + text.replaceAll("\n", ""), body.type).not.toMatch(UNPRINTABLE);
      for (const [field, value] of Object.entries(jsonLines(json)[0] ?? {})) {
        expect(String(value), `${body.type} ${field}`).not.toMatch(UNPRINTABLE);
      }
    }
    const [told] = jsonLines(
      await narrated([stamped({ type: "vram_allocated", device: DEVICE, name: HOSTILE, byteLength: 1 })]),
    );
    expect(told?.target).toContain('a"\\\\u{a}{"level":"info"}\\u{d}\\u{1b}[2J\\u{0}');
    expect(told?.target).toContain("\\u{202e}gnp.");
  });

  it("[VR-NAR-01] leave out what is below the level", async () => {
    for (const [index, level] of LEVELS.entries()) {
      const expected = jsonLines(await narrated(exampleEntries())).filter((one) =>
        LEVELS.slice(index).some((loud) => loud === one.level),
      );
      expect(jsonLines(await narrated(exampleEntries(), { level }))).toEqual(expected);
      expect(linesOf(await narrated(exampleEntries(), { level, format: "text" }))).toHaveLength(expected.length);
      expect(expected.length).toBeGreaterThan(5);
    }
  });

  it("say what is no entry, too, escaped, at the time of the clock", async () => {
    const clock = { wallMs: () => 0 };
    const { narrator, text, lines } = await recordingNarrator({ level: "info", clock });
    const told = line(["command", "tamper", "tampered"], HOSTILE, `100 %s %d ${HOSTILE}`, GOOD);
    narrator.tell(told);
    narrator.tell({ ...told, level: "debug" });
    expect(lines()).toHaveLength(1);
    expect(text().trimEnd()).not.toMatch(UNPRINTABLE);
    const [only] = lines();
    const { human = "", time, ...others } = only ?? {};
    expect({ human: human.slice(0, 10), time }).toEqual({ human: "100 %s %d ", time: "1970-01-01T00:00:00.000Z" });
    expect(Object.keys(others)).toEqual(["level", "actor", "action", "target"]);
  });

  it("the readable one has word and sentence in columns, painted by tone", async () => {
    const paint = (tone: string, word: string): string => `<${tone}>${word}`;
    const entries = [EXAMPLES.vram_sealed[0], EXAMPLES.worker_stopped[0], EXAMPLES.facts_checked[0]].map((body) =>
      stamped(body),
    );
    const painted = linesOf(await narrated(entries, { format: "text", paint }));
    expect(painted[0]).toMatch(/^ {2}<good>sealed {5}model\.gguf is sealed as shard-/);
    expect(painted[1]).toMatch(/^ {2}<bad>stopped {4}device 0 seals nothing more/);
    expect(painted[2]).toMatch(/^ {2}<plain>facts {6}the driver says/);
    expect(linesOf(await narrated(entries, { format: "text" }))[0]).toMatch(/^ {2}sealed {5}model/);
  });

  it("[VR-NAR-01] JSON has the ids, the device, the duration and the kind of error, and nothing else", async () => {
    const stamp = { correlationId: "deploy-4711", workerId: DEVICE.uuid };
    const ids = { worker_id: DEVICE.uuid, correlation_id: "deploy-4711" };
    const [verified] = jsonLines(await narrated([stamped(EXAMPLES.seal_verified[0], stamp)]));
    expect(verified).toEqual({
      ...{ level: "info", time: "2026-01-02T03:04:05.006Z", actor: "worker", action: "verify", target: "model.gguf" },
      ...{ ...ids, device: 0, duration_ms: 8.25, human: "mac, facts and 64.0 MiB in VRAM are unchanged" },
    });
    const refusal = { type: "operation_ended", operation: "seal", durationMs: 1 } as const;
    const [refused] = jsonLines(
      await narrated([stamped({ ...refusal, code: "INVALID_ARGUMENT", argument: "shardId" }, stamp)]),
    );
    expect(refused).toMatchObject({
      ...ids,
      action: "validate_failed",
      target: "shardId",
      error_kind: "INVALID_ARGUMENT",
    });
    const [failed] = jsonLines(await narrated([stamped(EXAMPLES.seal_verification_failed[0])]));
    expect(failed).toMatchObject({ action: "verify_failed", device: 0, error_kind: "mismatch" });
    expect(failed).not.toHaveProperty("correlation_id");
  });
});

describe("docs/narration.md", () => {
  const page = readFileSync(new URL("../../docs/narration.md", import.meta.url), "utf8");
  const rowsUnder = (header: string): string[] => {
    const lines = page.split("\n");
    const rows = lines.slice(lines.findIndex((one) => one.startsWith(`| ${header} |`)) + 2);
    return rows.slice(
      0,
      rows.findIndex((one) => !one.startsWith("|")),
    );
  };

  it("[VR-NAR-01] has a row for every line that can be told, in the order of the entries, and no other", async () => {
    const expected: string[] = [];
    for (const entry of exampleEntries()) {
      const [told] = jsonLines(await narrated([entry]));
      if (told === undefined) continue;
      const fields = ["device", "duration_ms", "error_kind"].filter((field) => field in told);
      const cells = [`\`${told.action}\``, `\`${entry.type}\``, told.level, told.actor];
      expected.push(`| ${[...cells, fields.map((field) => `\`${field}\``).join(" "), told.human].join(" | ")} |`);
    }
    expect(rowsUnder("action | entry")).toEqual(expected);
  });

  it("names the entries that have no line, and every field of a line", async () => {
    const silent = exampleEntries().filter((entry) => lineFor(entry) === undefined);
    const [, listed = ""] = /^Entries without a line[^:]*: (.+)\.$/m.exec(page) ?? [];
    expect(listed.split(", ")).toEqual(silent.map(({ type }) => `\`${type}\``));
    const [example = ""] = /^\{"level".*$/m.exec(page) ?? [];
    const stamp = { correlationId: "deploy-4711" };
    expect(`${example}\n`).toBe(await narrated([stamped(EXAMPLES.seal_verified[0], stamp)]));
    const documented = rowsUnder("field").map((row) => row.split("`")[1] ?? "");
    expect(documented.toSorted()).toEqual([...Object.keys(JSON.parse(example) as object), "error_kind"].toSorted());
  });
});
