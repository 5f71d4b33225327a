/** Metrics: every entry moves exactly its figures, labels stay within their sets, nothing an entry holds gets out. */
import fc from "fast-check";
import prom from "prom-client";
import ts from "typescript";
import { describe, expect, it } from "vitest";
import type { Entry, EntryBody } from "../../src/journal/entry.ts";
import { createJournal } from "../../src/journal/journal.ts";
import { LIMITS } from "../../src/limits.ts";
import { createMetrics, type Metrics } from "../../src/metrics/metrics.ts";
import { METRICS } from "../../src/metrics/table.ts";
import { ancestorsOf, nodesOf, readTree } from "../helpers/house-rules.ts";
import { DEVICE, EXAMPLES } from "../helpers/metric-moves.ts";
import { entryOf, figuresOf, OPENED, opened, TIME_MS } from "../helpers/metrics.ts";
import { moved, promtool, seriesOf, withoutPromtool } from "../helpers/promtool.ts";

describe("an entry", () => {
  it.each(Object.values(EXAMPLES).map(([body, moves]) => [body.type, body, moves] as const))(
    "[VR-MET-01] %s moves exactly what it should",
    async (_type, body, moves) => {
      const metrics = await opened();
      const before = await figuresOf(metrics);
      metrics.take(body, { durability: "durable" });
      const after = await figuresOf(metrics);
      const actual = moved(before, after);
      expect(actual).toEqual({ 'journal_entries_total{durability="durable"}': 1, ...moves });
    },
  );

  it("without figures in it, or of no known type, is counted as a fault and moves nothing else", async () => {
    const metrics = await opened();
    const before = await figuresOf(metrics);
    const strange = [null, {}, { type: "constructor" }, { type: "__proto__" }, { type: "seal_verified" }, 7];
    for (const one of strange) metrics.reader.accept(one as Entry);
    expect(moved(before, await figuresOf(metrics))).toEqual({ reader_failures_total: strange.length });
  });

  it("with a figure that is none loses that figure only", async () => {
    const metrics = await opened();
    const before = await figuresOf(metrics);
    for (const wrong of [Number.NaN, Number.POSITIVE_INFINITY, -1]) {
      metrics.take({ type: "audit_gap", entries: wrong, types: [] });
      metrics.take({ type: "operation_ended", operation: "evict", durationMs: wrong });
    }
    expect(moved(before, await figuresOf(metrics))).toEqual({
      'journal_entries_total{durability="transient"}': 6,
      'operations_total{operation="evict",result="ok",reason="none"}': 3,
    });
  });
});

describe("figures that need memory", () => {
  const resumed: EntryBody = { type: "worker_resumed", device: DEVICE, reason: "seen" };
  const stopped: EntryBody = { type: "worker_stopped", device: DEVICE, reason: "why" };
  const ended = (code?: "AUDIT_UNAVAILABLE"): EntryBody => ({
    ...{ type: "operation_ended", operation: "resume", durationMs: 1 },
    ...(code === undefined ? {} : { code }),
  });
  const isStopped = async (metrics: Metrics): Promise<number | undefined> =>
    (await figuresOf(metrics)).get(`worker_stopped{device="${DEVICE.uuid}"}`);

  it("a worker runs again once its resuming is on record, not before", async () => {
    const metrics = await opened();
    expect(await isStopped(metrics)).toBeUndefined();
    metrics.take(stopped);
    metrics.take(resumed, { correlationId: "a" });
    metrics.take(ended("AUDIT_UNAVAILABLE"), { correlationId: "a" });
    metrics.take(ended(), { correlationId: "b" });
    expect(await isStopped(metrics)).toBe(1);
    metrics.take(resumed, { correlationId: "c" });
    expect(await isStopped(metrics)).toBe(1);
    metrics.take(ended(), { correlationId: "c" });
    expect(await isStopped(metrics)).toBe(0);
  });

  it("a stop between the resuming and its end stands", async () => {
    const metrics = await opened();
    metrics.take(resumed, { correlationId: "a" });
    metrics.take(stopped);
    metrics.take(ended(), { correlationId: "a" });
    expect(await isStopped(metrics)).toBe(1);
  });

  it("the oldest measurement is that of the shard that waits longest, counted from its beginning", async () => {
    const metrics = await opened();
    const oldest = async (): Promise<(number | undefined)[]> => {
      const figures = await figuresOf(metrics);
      const label = `{device="${DEVICE.uuid}"}`;
      return [figures.get(`shards_resident${label}`), figures.get(`oldest_measurement_timestamp_seconds${label}`)];
    };
    const [measured] = EXAMPLES.measured;
    const [sealed] = EXAMPLES.vram_sealed;
    const [verified] = EXAMPLES.seal_verified;
    const [freed] = EXAMPLES.vram_deallocated;
    const at = (seconds: number): Partial<Entry> => ({ timeMs: seconds * 1000 });

    expect(await oldest()).toEqual([0, undefined]);
    metrics.take({ ...measured, name: "a" }, at(100));
    expect(await oldest(), "measured, not yet sealed").toEqual([0, undefined]);
    metrics.take({ ...sealed, name: "a" }, at(101));
    expect(await oldest()).toEqual([1, 99.5]);
    metrics.take({ ...measured, name: "b" }, at(200));
    metrics.take({ ...sealed, name: "b" }, at(201));
    expect(await oldest()).toEqual([2, 99.5]);
    metrics.take({ ...verified, name: "a" }, at(300));
    expect(await oldest()).toEqual([2, 199.5]);
    metrics.take({ ...EXAMPLES.seal_verification_failed[0], name: "b" }, at(400));
    expect(await oldest(), "a failed one is none").toEqual([2, 199.5]);
    metrics.take({ ...freed, name: "b" }, at(500));
    expect(await oldest()).toEqual([1, 299.5]);
    metrics.take({ ...freed, name: "a" }, at(500));
    expect(await oldest()).toEqual([0, undefined]);
  });
});

/** The most series that the table allows, whatever is read. */
const MOST_SERIES = Object.values(METRICS)
  .map((row) => {
    const sizes = Object.values<string | readonly string[]>(row.labels).map((values) =>
      values === "device" ? LIMITS.metricsDevices + 1 : values === "version" ? 1 : values.length + 1,
    );
    const sets = sizes.reduce((product, size) => product * size, 1);
    return row.type === "histogram" ? sets * (row.buckets.length + 3) : sets;
  })
  .reduce((sum, series) => sum + series, 0);

/** `body` with every text in it replaced, except its type. */
function withTexts(body: EntryBody, text: () => string): EntryBody {
  const replaced: unknown = JSON.parse(JSON.stringify(body), (key, part: unknown) =>
    typeof part === "string" && key !== "type" ? text() : part,
  );
  return replaced as EntryBody;
}

/** `body` with every number in it replaced. */
function withFigures(body: EntryBody, figure: number): EntryBody {
  const numbers = Object.entries(body).map(([key, part]) => [
    key,
    typeof part === "number" ? figure : (part as unknown),
  ]);
  return Object.fromEntries(numbers) as EntryBody;
}

describe("labels", () => {
  it("[VR-MET-01] 10,000 hostile names, ids, UUIDs and messages add no series beyond the sets", async () => {
    const metrics = await opened();
    let count = 0;
    const text = (): string => {
      count += 1;
      return `EMU-evil-${count}`;
    };
    const ordinary = await figuresOf(metrics);
    // Devices first: as many get a label as there is room for, and no more.
    for (let nth = 0; nth < 10_000; nth += 1) metrics.take(withTexts(OPENED, text));
    const labelled = await figuresOf(metrics);
    for (let nth = 0; nth < 300; nth += 1) {
      for (const [body] of Object.values(EXAMPLES)) metrics.take(withTexts(body, text));
    }
    expect(count).toBeGreaterThan(10_000);
    const all = await figuresOf(metrics);
    const uuids = new Set([...all.keys()].flatMap((series) => /device="([^"]+)"/.exec(series)?.[1] ?? []));
    expect(uuids.size).toBe(LIMITS.metricsDevices + 1);
    expect(labelled.size).toBeLessThan(ordinary.size + LIMITS.metricsDevices * 33);
    // Besides devices each label gains one value at most: other.
    expect(all.size - labelled.size).toBeLessThan(200);
    expect(all.size).toBeLessThan(MOST_SERIES);
    const strange = [...all.keys()].filter(
      (series) => series.includes("evil") && !/device="EMU-evil-\d+"/.test(series),
    );
    expect(strange).toEqual([]);
    // Of states of devices without a label the last one would pass for all.
    const states = [...all.keys()].filter((series) =>
      /^(capacity|device_info|device_lost|device_process|exports_active|leases_active|worker)/.test(series),
    );
    expect(states.filter((series) => series.includes('device="other"'))).toEqual([]);
    expect(all.get("reader_failures_total")).toBe(0);
  });

  it("[VR-MET-01] whatever texts and numbers stand in entries, none of the texts is shown and nothing throws", async () => {
    const bodies = Object.values(EXAMPLES).map(([body]) => body);
    const text = fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom('"} 1\nx_total 1', "GPU-\n", "__proto__", ""));
    const entries = fc.array(fc.record({ body: fc.constantFrom(...bodies), text, figure: fc.double() }), {
      maxLength: 40,
    });
    await fc.assert(
      fc.asyncProperty(entries, async (list) => {
        const metrics = await opened();
        for (const { body, text: shown, figure } of list) {
          metrics.take(
            withFigures(
              withTexts(body, () => `secret${shown}`),
              figure,
            ),
          );
        }
        const answer = await metrics.text();
        expect(answer).not.toContain("secret");
        expect(seriesOf(answer).size).toBeLessThan(MOST_SERIES);
      }),
      { numRuns: 200 },
    );
  });

  it("a second service in a process replaces the first, and a version that is none is not shown", async () => {
    const metrics = await opened();
    const [started] = EXAMPLES.service_started;
    const infos = async (): Promise<string[]> =>
      [...(await figuresOf(metrics)).keys()].filter((series) => series.startsWith("service_info"));
    metrics.take({ ...started, version: "1.2.3-beta.1" });
    expect(await infos()).toEqual(['service_info{backend="cuda",version="1.2.3-beta.1"}']);
    metrics.take({ ...started, version: "/home/me", backend: "mine" });
    expect(await infos()).toEqual(['service_info{backend="other",version="other"}']);
  });

  it("shards are followed up to a limit, and nothing throws beyond it", async () => {
    const metrics = await opened();
    const [measured] = EXAMPLES.measured;
    const [sealed] = EXAMPLES.vram_sealed;
    for (let nth = 0; nth < LIMITS.metricsShards + 10; nth += 1) {
      metrics.take({ ...measured, name: `shard ${nth}` });
      metrics.take({ ...sealed, name: `shard ${nth}` });
    }
    const figures = await figuresOf(metrics);
    expect(figures.get(`shards_resident{device="${DEVICE.uuid}"}`)).toBe(LIMITS.metricsShards);
    expect(figures.get("reader_failures_total")).toBe(0);
  });
});

describe("the reader", () => {
  it("[VR-MET-01] answers at once, is not required, and has a registry of its own", async () => {
    const [one, two] = [await opened(), await opened()];
    expect(one.reader.required).toBe(false);
    one.take({ type: "heartbeat" });
    expect(moved(await figuresOf(two), await figuresOf(one))).toEqual({
      'journal_entries_total{durability="transient"}': 1,
    });
    expect(prom.register.getMetricsAsArray()).toEqual([]);
    expect(one.contentType).toContain("text/plain");
  });

  it("has taken an entry when `note` returns", async () => {
    const metrics = await createMetrics();
    const journal = createJournal({ wallMs: () => TIME_MS, monotonicMs: () => 0, sleep: async () => undefined });
    journal.attach(metrics.reader);
    journal.note({ type: "release_failed", what: "a", message: "b" });
    expect((await figuresOf(metrics)).get("release_failures_total")).toBe(1);
  });

  it.skipIf(withoutPromtool !== "")(
    `[VR-MET-01] gives text that promtool has nothing to say about, before and after every entry${withoutPromtool}`,
    async () => {
      const metrics = await createMetrics();
      expect(promtool(["check", "metrics"], await metrics.text())).toEqual({ code: 0, said: "" });
      metrics.reader.accept(entryOf(OPENED));
      for (const [body] of Object.values(EXAMPLES)) metrics.reader.accept(entryOf(body));
      expect(promtool(["check", "metrics"], await metrics.text())).toEqual({ code: 0, said: "" });
      expect(promtool(["check", "metrics"], "# TYPE a_bytes counter\na_bytes 1\n").code).not.toBe(0);
    },
  );

  it("prom-client is loaded by nobody who does not ask for metrics", () => {
    const imports = readTree()
      .filter(({ path }) => path.startsWith("src/"))
      .flatMap((file) =>
        nodesOf(file)
          .filter((node) => ts.isStringLiteral(node) && node.text === "prom-client")
          .map((node) => ancestorsOf(node)[0])
          .filter(
            (above) =>
              !(
                above !== undefined &&
                ts.isImportDeclaration(above) &&
                above.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword
              ),
          )
          .map((above) => `${file.path}: ${above?.getText() ?? ""}`),
      );
    expect(imports).toEqual(['src/metrics/metrics.ts: import("prom-client")']);
  });
});
