/** What a statement says twice and not alike: refused for that before anything in it is looked at. */
import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import type { Predicate, Statement } from "../../src/attest/statement.ts";
import { canonicalJson } from "../../src/bytes.ts";
import { claiming, type Making, madeStatement, measured, NOW_MS } from "../helpers/statements.ts";

const HASH = "b".repeat(64);
const LATER = new Date(NOW_MS).toISOString();
type Alter = NonNullable<Making["alter"]>;

const titled =
  (digest: Statement["subject"][0]["digest"]): Alter =>
  (statement) => ({ ...statement, subject: [{ name: "m", digest }] });

/** Another policy, under its own digest. */
const demanding = (change: Partial<Predicate["policy"]>): Alter =>
  claiming(({ policy: before }) => {
    const policy = { ...before, ...change };
    return { policy, policyDigest: createHash("sha256").update(canonicalJson(policy)).digest("hex") };
  });

const withFacts = (facts: Predicate["device"]["facts"]): Alter =>
  claiming(({ device }) => ({ device: { ...device, facts } }));

it.each<[string, Alter, RegExp]>([
  ["its subject", measured({ digest: HASH }), /subject/],
  ["a plain SHA-256 under the name of fs-verity", titled({ "fsverity-sha256-4096": HASH }), /subject/],
  ["what was covered", measured({ bytesCovered: 1 }), /cover/],
  ["the digest of its policy", claiming(() => ({ policyDigest: HASH })), /another digest/],
  ["a policy without rules for devices", demanding({ device: {} }), /demands nothing/],
  ["a policy without rules for allocations", demanding({ allocation: {} }), /demands nothing/],
  ["a device that the policy forbids", withFacts({ integrated: true, wddm: false, mps: false }), /breaks its policy/],
  ["a device of which nothing is known", withFacts({}), /breaks its policy/],
  [
    "a shard that its set does not have",
    claiming(({ shard }) => ({ shard: { ...shard, shardIndex: 1 } })),
    /none of its set/,
  ],
  [
    "a time of sealing after the measurement",
    claiming(({ shard }) => ({ shard: { ...shard, sealedAt: LATER } })),
    /was sealed/,
  ],
  ["a measurement after it was signed", measured({ measuredAt: LATER }), /before it was measured/],
  ["more who have it than were given it", claiming(() => ({ exports: { now: 2, total: 1 } })), /handed/],
])("[VR-ATT-01] a statement that contradicts itself is refused: %s", async (_what, alter, why) => {
  const checked = await madeStatement({ alter }).check();
  expect(checked).toMatchObject({ ok: false, fault: "inconsistent" });
  expect(checked.ok ? "" : checked.message).toMatch(/^it contradicts itself: /);
  expect(checked.ok ? "" : checked.message).toMatch(why);
});

it("a statement that agrees with itself to the millisecond is accepted", async () => {
  const { statement } = madeStatement();
  const { measuredAt } = statement.predicate.measurement;
  const alter = claiming(({ shard }) => ({ issuedAt: measuredAt, shard: { ...shard, sealedAt: measuredAt } }));
  const handed = claiming(() => ({ exports: { now: 2, total: 2 } }));
  expect(await madeStatement({ alter: (one) => handed(alter(one)) }).check()).toMatchObject({ ok: true });
});
