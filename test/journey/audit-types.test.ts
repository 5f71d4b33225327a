/** The seven audit entries, from every path that must cause them, as the log's files have them afterwards. */
import { describe, expect, it } from "vitest";
import type { DurableBody, VerificationFailure } from "../../src/journal/entry.ts";
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

/** Where it is shown that a type gets on record: here; or in test/journey/service-*.test.ts, as only a service has it. */
type Place = "here" | "of a service";

const SHOWN: Readonly<Record<DurableBody["type"], Place>> = {
  vram_allocated: "here",
  vram_allocation_failed: "here",
  vram_deallocated: "here",
  vram_sealed: "here",
  set_sealed: "here",
  seal_verified: "here",
  seal_verification_failed: "here",
  lease_granted: "of a service",
  lease_renewed: "of a service",
  lease_released: "of a service",
  lease_expired: "of a service",
  lease_revoked: "of a service",
  shard_exported: "of a service",
  export_ended: "of a service",
  statement_issued: "of a service",
  key_rotated: "of a service",
  wanted_refused: "of a service",
  auth_failed: "of a service",
  request_refused: "of a service",
  seal_refused: "here",
  policy_violation: "here",
  worker_stopped: "here",
  worker_resumed: "here",
  service_started: "here",
  service_stopped: "here",
};

/** Why memory is given back; with the process that held it only in a service, as above. */
const FREED: Readonly<Record<Extract<DurableBody, { type: "vram_deallocated" }>["because"], Place>> = {
  evicted: "here",
  undone: "here",
  closed: "here",
  lost: "of a service",
};
const here = (shown: Readonly<Record<string, Place>>): string[] =>
  Object.keys(shown).filter((key) => shown[key] === "here");

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

  it("[VR-AUD-01] have every type that needs no service, and none that does", () => {
    expect([...new Set(lines.map(({ type }) => type))].sort()).toEqual(here(SHOWN).sort());
  });

  it("[VR-AUD-01] have every way in which a verification fails", () => {
    // A new one does not compile until it stands here.
    const all: Record<VerificationFailure, true> = {
      ...{ mismatch: true, mac: true, facts: true, unreadable: true, invalid: true, device: true },
    };
    expect([...valuesOf("seal_verification_failed", "failure")].sort()).toEqual(Object.keys(all).sort());
  });

  it("[VR-AUD-01] have every reason for which memory is given back, zeroed and not", () => {
    expect([...valuesOf("vram_deallocated", "because")].sort()).toEqual(here(FREED).sort());
    expect(valuesOf("vram_deallocated", "zeroed")).toEqual(new Set([true, false]));
    expect(valuesOf("vram_sealed", "comparedWith")).toEqual(new Set(["expected", "witnessed"]));
  });

  it("[VR-POL-01] [VR-POL-02] have every rule of the policy", () => {
    expect([...valuesOf("policy_violation", "rule")].sort()).toEqual([...RULES].sort());
  });
});
