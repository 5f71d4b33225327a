/** `docs/metrics.md` and `docs/alerts.yml` against the table of metrics, both ways, and against Prometheus' own tool. */
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { CODES, type LabelValues, METRICS, OTHER, PREFIX, RULES } from "../../src/metrics/table.ts";
import { promtool, withoutPromtool } from "../helpers/promtool.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const pathOf = (name: string): string => fileURLToPath(new URL(`../../${name}`, import.meta.url));
const PAGE = readFileSync(pathOf("docs/metrics.md"), "utf8");
const ALERTS = readFileSync(pathOf("docs/alerts.yml"), "utf8");

/** The rows of the table whose header begins like this. */
function rowsUnder(header: string): string[] {
  const [, rest = ""] = PAGE.split(`\n| ${header} |`);
  const rows = rest.split("\n").slice(2);
  return rows.slice(
    0,
    rows.findIndex((line) => !line.startsWith("|")),
  );
}

const coded = (words: readonly string[]): string => words.map((word) => `\`${word}\``).join(", ");

function shownValues(values: LabelValues): string {
  if (values === "device") return `UUID of an opened device, \`${OTHER}\``;
  if (values === "version") return `version of this program, \`${OTHER}\``;
  const own = values.filter((value) => !CODES.some((code) => code === value));
  const codes = own.length === values.length ? [] : ["a code of [errors.md](errors.md)"];
  return [...own.map((value) => `\`${value}\``), ...codes, `\`${OTHER}\``].join(", ");
}

const metricRow = ([name, { type, labels, help }]: [string, (typeof METRICS)[keyof typeof METRICS]]): string =>
  `| \`${PREFIX}${name}\` | ${type} | ${coded(Object.keys(labels))} | ${help} |`.replaceAll("|  |", "| |");

/** One row for each set of values of a label, with the metrics that have it. */
function labelRows(): string[] {
  const sets = new Map<string, string[]>();
  for (const [name, { labels }] of Object.entries(METRICS)) {
    for (const [label, values] of Object.entries<LabelValues>(labels)) {
      const key = `| \`${label}\` | ${shownValues(values)} |`;
      sets.set(key, [...(sets.get(key) ?? []), name]);
    }
  }
  return [...sets].map(([row, names]) => (row.includes("UUID of") ? `${row} most |` : `${row} ${coded(names)} |`));
}

describe("docs/metrics.md", () => {
  it("[VR-MET-01] lists every metric once, in the order of the table, with type, labels and meaning, and no other", () => {
    expect(rowsUnder("name | type")).toEqual(Object.entries(METRICS).map(metricRow));
  });

  it("[VR-MET-01] lists the values of every label", () => {
    expect(rowsUnder("label | values")).toEqual(labelRows());
  });

  it("speaks of metrics that exist only, and shows every alert", () => {
    const named = [...PAGE.matchAll(/vram_residency_[a-z_]+[a-z]/g)].map(([name]) => name.slice(PREFIX.length));
    expect(named.filter((name) => !(name in METRICS))).toEqual([]);
    const alerts = [...ALERTS.matchAll(/alert: (\w+)/g)].map(([, alert]) => `\`${alert ?? ""}\``);
    expect(rowsUnder("alert | when").map((row) => row.split(" ")[1])).toEqual(alerts);
  });
});

describe("the closed sets", () => {
  it("hold the rules of the policy, all of them", () => {
    const policy = readFileSync(pathOf("src/residency/policy.ts"), "utf8");
    const table = /const RULES[^{]+\{([^}]+)\}/.exec(policy)?.[1] ?? "";
    const known = [...table.matchAll(/: "([a-z-]+)"/g), ...policy.matchAll(/return "([a-z-]+)"/g)];
    expect(known.map(([, rule]) => rule).toSorted()).toEqual([...RULES].toSorted());
  });

  it("hold the backends", () => {
    const [, union = ""] =
      /export type Backend = ([^;]+);/.exec(readFileSync(pathOf("src/cuda/driver.ts"), "utf8")) ?? [];
    expect(METRICS.service_info.labels.backend.map((backend) => `"${backend}"`)).toEqual(union.split(" | "));
  });

  it("have no value that is also the one for what is not in them", () => {
    const sets = Object.values(METRICS).flatMap(({ labels }) => Object.values<LabelValues>(labels));
    expect(sets.filter((values) => values.includes(OTHER))).toEqual([]);
  });
});

const DEVICE = 'device="GPU-1"';
const VERIFIED = `vram_residency_verifications_total{${DEVICE},result="failed",reason=`;

/** For each alert series in minutes, with which it stays quiet first and fires at the end; and labels of the alert. */
const FIRING: Readonly<Record<string, readonly [series: Record<string, string>, labels: Record<string, string>]>> = {
  VramMismatch: [{ [`${VERIFIED}"mismatch"}`]: "0x30 1x10" }, { reason: "mismatch" }],
  VramWorkerStopped: [{ [`vram_residency_worker_stopped{${DEVICE}}`]: "0x30 1x10" }, {}],
  VramDeviceLost: [{ [`vram_residency_device_lost{${DEVICE}}`]: "0x30 1x10" }, {}],
  VramDeviceProcessDown: [
    { [`vram_residency_device_process_state{${DEVICE},state="wedged"}`]: "0x30 1x10" },
    { state: "wedged" },
  ],
  VramLeasesRevoked: [
    {
      [`vram_residency_leases_ended_total{${DEVICE},because="lost"}`]: "0x30 1x10",
      [`vram_residency_leases_ended_total{${DEVICE},because="released"}`]: "0+1x40",
    },
    { because: "lost" },
  ],
  VramWantedRefused: [
    { 'vram_residency_wanted_refusals_total{reason="SOURCE_NOT_FOUND"}': "_x32 1x10" },
    { reason: "SOURCE_NOT_FOUND" },
  ],
  VramAuthFailures: [
    { 'vram_residency_auth_failures_total{failure="bad-token",transport="tcp"}': "0+1x30 60x10" },
    { failure: "bad-token", transport: "tcp" },
  ],
  VramVerificationOld: [{ [`vram_residency_oldest_measurement_timestamp_seconds{${DEVICE}}`]: "0x30 -90000x10" }, {}],
  VramMeasurementInvalid: [{ [`${VERIFIED}"invalid"}`]: "0x30 1x10" }, { reason: "invalid" }],
  VramPolicyViolation: [{ 'vram_residency_policy_violations_total{rule="mps"}': "0x30 1x10" }, { rule: "mps" }],
  VramWrongBytes: [
    { 'vram_residency_seals_total{result="failed",reason="DIGEST_MISMATCH"}': "0x30 1x10" },
    { result: "failed", reason: "DIGEST_MISMATCH" },
  ],
  VramCapacityLow: [
    {
      [`vram_residency_capacity_free_bytes{${DEVICE}}`]: "50x20 4x20",
      [`vram_residency_capacity_total_bytes{${DEVICE}}`]: "100x40",
    },
    {},
  ],
  VramAllocationsFail: [
    { [`vram_residency_allocations_total{${DEVICE},result="failed",reason="OUT_OF_VRAM"}`]: "0x30 1x10" },
    { reason: "OUT_OF_VRAM" },
  ],
  VramAuditDown: [{ vram_residency_audit_up: "1x30 0x10" }, {}],
  VramAuditBehind: [{ vram_residency_audit_waiting_entries: "3x30 2000x10" }, {}],
  VramUnrecorded: [{ vram_residency_entries_unrecorded_total: "0x30 1x10" }, {}],
};
const QUIET_AT = "20m";
const FIRING_AT = "39m";

describe.skipIf(withoutPromtool !== "")(`docs/alerts.yml${withoutPromtool}`, () => {
  it("[VR-MET-01] is valid to promtool", () => {
    const { code, said } = promtool(["check", "rules", pathOf("docs/alerts.yml")]);
    expect(said).toContain(`SUCCESS: ${Object.keys(FIRING).length} rules found`);
    expect(code).toBe(0);
  });

  it("[VR-MET-01] each alert is quiet while all is well, and fires when it is not", async () => {
    const names = [...ALERTS.matchAll(/alert: (\w+)/g)].map(([, name = ""]) => name);
    expect(names.toSorted()).toEqual(Object.keys(FIRING).toSorted());
    const tests = Object.entries(FIRING).map(([alertname, [series, labels]]) => {
      const isOfDevice = Object.keys(series).some((name) => name.includes(DEVICE));
      const failed = "reason" in labels && isOfDevice ? { result: "failed" } : {};
      const severity = /severity: (\w+)/.exec(ALERTS.split(`alert: ${alertname}\n`)[1] ?? "")?.[1];
      const exp_labels = { severity, ...(isOfDevice ? { device: "GPU-1" } : {}), ...failed, ...labels };
      return {
        interval: "1m",
        input_series: Object.entries(series).map(([name, values]) => ({ series: name, values })),
        alert_rule_test: [
          { eval_time: QUIET_AT, alertname, exp_alerts: [] },
          { eval_time: FIRING_AT, alertname, exp_alerts: [{ exp_labels }] },
        ],
      };
    });
    // JSON is YAML. Annotations are for people; with them the tool would want to be told every word.
    const folder = await temporaryFolder();
    const bare = ALERTS.replaceAll(/ {8}annotations:\n(?: {10}.*\n)+/g, "");
    await writeFile(join(folder, "alerts.yml"), bare);
    const file = join(folder, "alerts-test.yml");
    await writeFile(file, JSON.stringify({ rule_files: ["alerts.yml"], tests }));
    const { code, said } = promtool(["test", "rules", file]);
    expect(said).toContain("SUCCESS");
    expect(code).toBe(0);
  });
});

describe("docs/alerts.yml", () => {
  it("uses metrics and label values that exist", () => {
    const used = [...ALERTS.matchAll(/(vram_residency_\w+)(?:\{([^}]*)\})?/g)];
    expect(used.length).toBeGreaterThan(10);
    for (const [, name = "", selectors = ""] of used) {
      const metric = Object.entries(METRICS).find(([known]) => PREFIX + known === name)?.[1];
      expect(metric, name).toBeDefined();
      for (const [, label = "", value = ""] of selectors.matchAll(/(\w+)=~?"([^"]*)"/g)) {
        const values = new Map(Object.entries<LabelValues>(metric?.labels ?? {})).get(label);
        for (const one of value.split("|")) expect(values, `${name}{${label}}`).toContain(one);
      }
    }
  });
});
