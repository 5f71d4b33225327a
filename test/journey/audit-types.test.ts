/** The seven audit entries, from every path that must cause them, as the log's files have them afterwards. */
import { describe, expect, it } from "vitest";
import type { VerificationFailure } from "../../src/journal/entry.ts";
import { RULES } from "../../src/metrics/table.ts";
import { type Row, travel } from "../helpers/audit-journey.ts";
import { FAILING } from "../helpers/audit-journey-fail.ts";
import { ENDING, POLICY, STANDING } from "../helpers/audit-journey-policy.ts";
import { SEALING } from "../helpers/audit-journey-seal.ts";
import { UNDOING } from "../helpers/audit-journey-undo.ts";
import { VERIFYING } from "../helpers/audit-journey-verify.ts";

const TABLES: Readonly<Record<string, readonly Row[]>> = {
  sealing: SEALING,
  "seals that fail": UNDOING,
  verifying: VERIFYING,
  "verifications that fail": FAILING,
  "the policy": POLICY,
  "ending residency": ENDING,
  "stopping and resuming": STANDING,
};

const SEVEN = [
  ...["vram_sealed", "seal_verified", "seal_verification_failed", "vram_allocated", "vram_allocation_failed"],
  ...["vram_deallocated", "policy_violation"],
];

for (const [what, rows] of Object.entries(TABLES)) {
  describe(`on record: ${what}`, () => {
    it.each(rows.map((row) => [row.path, row] as const))("[VR-AUD-01] %s", (_path, row) => travel(row));
  });
}

describe("the tables", () => {
  const lines = Object.values(TABLES).flatMap((rows) => rows.flatMap((row) => row.lines));
  const valuesOf = (type: string, field: string): Set<unknown> =>
    new Set(lines.filter((line) => line.type === type).map(({ data }) => data[field]));

  it("[VR-AUD-01] have rows with each of the seven, and rows without any", () => {
    const types = new Set(lines.map(({ type }) => type));
    expect(SEVEN.filter((type) => !types.has(type))).toEqual([]);
    const rows = Object.values(TABLES).flat();
    expect(rows.filter((row) => !row.lines.some(({ type }) => SEVEN.includes(type))).length).toBeGreaterThan(10);
    expect(new Set(rows.map(({ path }) => path)).size).toBe(rows.length);
  });

  it("[VR-AUD-01] have every way in which a verification fails", () => {
    // A new one does not compile until it stands here.
    const all: Record<VerificationFailure, true> = {
      ...{ mismatch: true, mac: true, facts: true, unreadable: true, invalid: true, device: true },
    };
    expect([...valuesOf("seal_verification_failed", "failure")].sort()).toEqual(Object.keys(all).sort());
  });

  it("[VR-AUD-01] have every reason for which memory is given back, zeroed and not", () => {
    expect([...valuesOf("vram_deallocated", "because")].sort()).toEqual(["closed", "evicted", "undone"]);
    expect(valuesOf("vram_deallocated", "zeroed")).toEqual(new Set([true, false]));
    expect(valuesOf("vram_sealed", "comparedWith")).toEqual(new Set(["expected", "witnessed"]));
  });

  it("[VR-POL-01] [VR-POL-02] have every rule of the policy", () => {
    expect([...valuesOf("policy_violation", "rule")].sort()).toEqual([...RULES].sort());
  });
});
