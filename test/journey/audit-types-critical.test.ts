/** A broken policy is critical: on record before anybody is told, narrated, counted, and nothing starts. */
import { describe, expect, it } from "vitest";
import { createMetrics } from "../../src/metrics/metrics.ts";
import { createDisk, type Disk, readLog, requireSoundLog } from "../helpers/audit-journey.ts";
import { recordingNarrator } from "../helpers/narration.ts";
import { seriesOf } from "../helpers/promtool.ts";
import { codeOf, openSmall, temporaryFolder } from "../helpers/vram.ts";

const TWO_RULES = { deviceSpec: { attributes: { integrated: 1, mpsEnabled: 1 } } };

/** A start on a device that breaks two rules, with all three readers of the journal. */
async function start(disk: Disk = createDisk()) {
  const stateDir = `${await temporaryFolder()}/state`;
  const [metrics, { narrator, lines }] = [await createMetrics(), await recordingNarrator({ level: "info" })];
  const readers = [narrator, metrics.reader];
  const opening = openSmall({ stateDir, readers }, { ...TWO_RULES, auditFiles: disk.openFile });
  let isOver = false;
  const outcome = codeOf(opening).finally(() => {
    isOver = true;
  });
  const violations = async (): Promise<unknown[]> =>
    (await readLog(stateDir)).filter(({ type }) => type === "policy_violation").map(({ data }) => data["rule"]);
  const counted = async (): Promise<Record<string, number>> => {
    const series = [...seriesOf(await metrics.text())].filter(([name]) => name.includes("policy_violations_total"));
    return Object.fromEntries(
      series.filter(([, value]) => value > 0).map(([name, value]) => [name.replace(/.*rule="(.*)".*/, "$1"), value]),
    );
  };
  return { stateDir, outcome, isOver: () => isOver, lines, violations, counted };
}

describe("a device that breaks the policy", () => {
  it("[VR-POL-02] is on record, narrated and counted, each rule once, and nothing starts", async () => {
    const { stateDir, outcome, lines, violations, counted } = await start();
    expect(await outcome).toBe("POLICY_VIOLATION");
    expect(await violations()).toEqual(["integrated-gpu", "mps"]);
    expect((await readLog(stateDir)).at(-1)).toMatchObject({
      type: "service_stopped",
      data: { because: "failed", code: "POLICY_VIOLATION" },
    });
    const narrated = lines().filter(({ action }) => action === "policy_violation");
    expect(narrated).toMatchObject(
      ["integrated-gpu", "mps"].map((rule) => ({
        ...{ level: "error", actor: "worker", error_kind: "POLICY_VIOLATION", device: 0 },
        human: `${rule}: is true, must be false`,
      })),
    );
    expect(lines().map(({ action }) => action)).not.toContain("init");
    expect(await counted()).toEqual({ "integrated-gpu": 1, mps: 1 });
    await requireSoundLog(stateDir);
  });

  it("[VR-POL-02] is told to nobody before it is on disk: the start waits for the line", async () => {
    const disk = createDisk();
    const waiting = disk.hold("policy_violation");
    const { stateDir, outcome, isOver, violations } = await start(disk);
    const release = await waiting;
    for (let turn = 0; turn < 100; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    expect(isOver()).toBe(false);
    expect(await violations()).toEqual([]);
    release();
    expect(await outcome).toBe("POLICY_VIOLATION");
    expect(await violations()).toEqual(["integrated-gpu", "mps"]);
    await requireSoundLog(stateDir);
  });

  it("[VR-POL-02] starts nothing either when it cannot be put on record at once; it is later", async () => {
    const disk = createDisk();
    disk.fill("policy_violation");
    const { stateDir, outcome, lines, violations } = await start(disk);
    expect(await outcome).toBe("POLICY_VIOLATION");
    expect(await violations()).toEqual(["integrated-gpu", "mps"]);
    expect((await readLog(stateDir)).map(({ data }) => data["code"])).toContain("POLICY_VIOLATION");
    expect(lines().map(({ action }) => action)).toEqual(expect.arrayContaining(["policy_violation", "shutdown"]));
    await requireSoundLog(stateDir);
  });
});
