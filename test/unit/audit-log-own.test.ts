/** What the log does on nobody's behalf, and what it does about those who could not wait. */
import { describe, expect, it } from "vitest";
import { VramError } from "../../src/errors.ts";
import { createJournal } from "../../src/journal/journal.ts";
import { currentScope, withCorrelation } from "../../src/journal/scope.ts";
import { createClock, durable, openUnit, outcomeOf, until, YEAR_2026 } from "../helpers/audit-writer-unit.ts";

const DEVICE = { ordinal: 0, uuid: "EMU-0" };
const resumed = (reason: string) => ({ type: "worker_resumed", device: DEVICE, reason }) as const;
const DAY_MS = 24 * 3600 * 1000;

describe("an operation that could not wait", () => {
  it("[VR-AUD-03] takes its entry back, unless it is being written; what must proceed stays", async () => {
    const log = await openUnit();
    await log.journal.append(resumed("before"));
    let release: (() => void) | undefined;
    log.disk.onSync = () =>
      new Promise((resolve) => {
        release = resolve;
      });
    // Long enough for the first one to reach the disk, which then does not answer.
    const impatient = createJournal(createClock(), 500);
    impatient.attach(log.log.reader);
    const codeOf = (reason: string): Promise<string> =>
      impatient.append(resumed(reason)).then(
        () => "recorded",
        (error: unknown) => (error instanceof VramError ? error.code : "another"),
      );
    const written = codeOf("being written");
    await until(() => release !== undefined);
    const refused = [written, codeOf("waiting")];
    const anyway = impatient.appendAnyway(resumed("anyway"));
    expect(await Promise.all(refused)).toEqual(["AUDIT_UNAVAILABLE", "AUDIT_UNAVAILABLE"]);
    await anyway;
    log.disk.onSync = () => Promise.resolve();
    release?.();
    await log.journal.append(resumed("after"));
    const reasons = (await log.entries()).flatMap(({ data }) => ("reason" in data ? [data["reason"]] : []));
    expect(reasons).toEqual(["before", "being written", "anyway", "after"]);
    await log.closeSound();
  });
});

describe("the log's own doings", () => {
  it("[VR-NAR-01] carry nobody's correlation id, whoever woke it", async () => {
    const seen: (string | undefined)[] = [];
    const note = (): void => void seen.push(currentScope()?.correlationId);
    const log = await withCorrelation("job-0", () => openUnit({ note }));
    await Promise.all(["job-1", "job-2"].map((job) => withCorrelation(job, () => log.journal.append(resumed(job)))));
    await log.closeSound();
    expect(seen.length).toBeGreaterThan(1);
    expect(new Set(seen)).toEqual(new Set([undefined]));
    const jobs = (await log.entries()).flatMap(({ data }) => ("correlationId" in data ? [data["correlationId"]] : []));
    expect(jobs.sort()).toEqual(["job-1", "job-2"]);
  });

  it("[VR-AUD-03] are told: an epoch that began", async () => {
    const log = await openUnit();
    await log.journal.append(resumed("seen"));
    expect(log.notes.map(({ type }) => type)).toContain("epoch_started");
    await log.closeSound();
  });

  it("[VR-AUD-05] include pruning a log that has reached its limit, which makes room again", async () => {
    const clock = createClock();
    const options = { clock, segmentBytes: 140_000, maxBytes: 400_000, retentionDays: 30 };
    const first = await openUnit(options);
    const fill = async (gates: boolean): Promise<void> => {
      while ((await outcomeOf(() => first.log.reader.accept(durable("x".repeat(4000), gates)))) === "ok");
    };
    await fill(true);
    await fill(false);
    await first.log.close();
    clock.wall = YEAR_2026 + 400 * DAY_MS;
    const second = await openUnit(options, first.state);
    await second.journal.append(resumed("there is room again"));
    expect(await second.types()).toContain("audit_pruned");
    await second.log.close();
  });
});
