/** `docs/audit.md` against the types of entries: what is recorded, with which data. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { DurableBody, LogBody } from "../../src/journal/entry.ts";
import type { AuthFailure, ExportEnd, LeaseRevocation, OrphanedExport, Peer } from "../../src/journal/service-body.ts";

type Recorded = DurableBody | LogBody;

/** The members of every type, none forgotten and none made up: TypeScript compares them. */
type Members = { readonly [Body in Recorded as Body["type"]]: Readonly<Record<Exclude<keyof Body, "type">, true>> };

const device = true;
const SHARD = { device, shardId: true, name: true } as const;
const LEASE = { ...SHARD, leaseId: true } as const;

const MEMBERS: Members = {
  service_started: {
    ...{ backend: true, version: true, instanceId: true, policyDigest: true, configDigest: true },
    ...{
      lost: true,
      lostTotal: true,
      orphans: true,
      orphansTotal: true,
      kernel: true,
      statementKeyId: true,
      devices: true,
    },
  },
  service_stopped: { because: true, code: true },
  vram_allocated: { device, name: true, byteLength: true },
  vram_allocation_failed: { device, name: true, bytesNeeded: true, bytesAvailable: true, code: true },
  vram_deallocated: { device, name: true, shardId: true, byteLength: true, because: true, zeroed: true, reason: true },
  vram_sealed: { ...SHARD, byteLength: true, digest: true, comparedWith: true, sequence: true },
  set_sealed: { name: true, totalShards: true, mac: true },
  seal_verified: {
    ...{ ...SHARD, digest: true, bytesCovered: true, measuredAtMs: true, durationMs: true },
    ...{ salt: true, saltedDigest: true },
  },
  seal_verification_failed: {
    ...{ ...SHARD, failure: true, message: true },
    ...{ ranges: true, rangesTotal: true, tensors: true, tensorsTotal: true },
  },
  seal_refused: { device, shardId: true, reason: true },
  lease_granted: { ...LEASE, digest: true, holder: true, caller: true, durationMs: true, measuredAgeMs: true },
  lease_renewed: { ...LEASE, durationMs: true },
  lease_released: LEASE,
  lease_expired: LEASE,
  lease_revoked: { ...LEASE, because: true },
  shard_exported: {
    ...{ ...LEASE, exportId: true, digest: true, expected: true },
    ...{ caller: true, peer: true, byteLength: true },
  },
  export_ended: { ...SHARD, exportId: true, because: true, held: true },
  statement_issued: {
    ...{ ...SHARD, statementId: true, digest: true, nonce: true, statementDigest: true },
    ...{ keyId: true, verifiedSeq: true, caller: true },
  },
  key_rotated: { purpose: true, from: true, to: true, publicKey: true, reason: true },
  wanted_refused: { name: true, code: true, reason: true },
  auth_failed: { failure: true, transport: true, caller: true },
  request_refused: { status: true, code: true, transport: true, caller: true },
  policy_violation: { device, rule: true, expected: true, actual: true },
  worker_stopped: { device, reason: true },
  worker_resumed: { device, reason: true },
  epoch_started: { because: true },
  heartbeat: {},
  audit_recovered: { segment: true, tornBytes: true },
  audit_gap: { entries: true, types: true },
  audit_pruned: { entries: true, prunedEntries: true, lastSegment: true },
};

const PAGE = readFileSync(new URL("../../docs/audit.md", import.meta.url), "utf8");
const SECTION = PAGE.split("\n## What is recorded\n")[1]?.split("\n## ")[0] ?? "";
const quoted = (text: string): string[] => [...text.matchAll(/`([\w-]+)`/g)].map(([, word = ""]) => word);

describe("docs/audit.md", () => {
  const rows = SECTION.split("\n")
    .filter((line) => line.startsWith("| `"))
    .map((line) => line.split(" |").map((cell) => cell.replace(/^\| ?/, "").trim()));

  it("[VR-AUD-01] has a row for every type that is recorded, once, and no other", () => {
    expect(rows.map(([type = ""]) => type)).toEqual(Object.keys(MEMBERS).map((type) => `\`${type}\``));
  });

  it.each(Object.entries(MEMBERS))("[VR-AUD-01] has the data of %s, and no more", (type, members) => {
    const row = rows.find(([first]) => first === `\`${type}\``);
    expect(quoted(row?.[2] ?? "").toSorted()).toEqual(Object.keys(members).toSorted());
  });

  it("says why leases are revoked and callers not let in", () => {
    const reasons: Record<LeaseRevocation | AuthFailure, true> = {
      ...{ unreliable: true, stopped: true, lost: true, evicted: true, closed: true, unrecorded: true },
      ...{ "no-token": true, "bad-token": true, "wrong-scope": true, "wrong-peer": true },
      ...{ "wrong-host": true, "cross-site": true },
    };
    const said = quoted(SECTION.slice(SECTION.indexOf("- `because` of a revoked lease")));
    expect(Object.keys(reasons).filter((reason) => !said.includes(reason))).toEqual([]);
  });

  it("says why exports end, and what is known of the process at the other end", () => {
    const words: Record<ExportEnd | keyof Peer | keyof OrphanedExport, true> = {
      ...{ closed: true, failed: true, service_closed: true, service_gone: true },
      ...{ pid: true, startTicks: true },
      ...{ exportId: true, shardId: true, name: true, deviceUuid: true, byteLength: true, peer: true },
    };
    const said = quoted(SECTION.slice(SECTION.indexOf("- `orphans` is")));
    expect(Object.keys(words).filter((word) => !said.includes(word))).toEqual([]);
  });
});
