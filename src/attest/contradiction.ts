/**
 * What a statement says twice must be the same, and fit the kind it claims to be. Nothing is shown by that: it keeps a
 * signer from saying one thing to people and another to programs.
 */
import { canonicalJson, toHex } from "../bytes.ts";
import type { Backend } from "../cuda/driver.ts";
import { DIGEST_ALGORITHM, sha256 } from "../hash/descriptor.ts";
import { PREDICATE_TYPES, type Predicate, type Statement } from "./statement.ts";

/** Where the bytes of a device are read. */
const READ_FROM: Readonly<Record<Backend, readonly string[]>> = {
  cuda: ["vram", "l2-possible"],
  "cuda-substituted": ["substituted"],
  emulated: ["emulated"],
};

const isEmulated = ({ backend }: Predicate): boolean => backend === "emulated";

/** Texts of one form, so that their order is that of the times. */
const isInOrder = (...times: readonly string[]): boolean =>
  times.every((time, index) => index === 0 || (times[index - 1] ?? "") <= time);

type Rule = readonly [contradiction: string, holds: (predicate: Predicate, statement: Statement) => boolean];

const RULES: readonly Rule[] = [
  [
    "its predicate type is that of another backend",
    ({ backend }, { predicateType }) => PREDICATE_TYPES[backend] === predicateType,
  ],
  ["its device is none of its backend", (said) => said.device.uuid.startsWith("EMU-") === isEmulated(said)],
  [
    "its backend does not read from where it says",
    ({ backend, measurement }) => READ_FROM[backend].includes(measurement.readFrom),
  ],
  ["its kernel is none of its backend", (said) => (said.software.kernel === undefined) === isEmulated(said)],
  [
    "its subject is not what was measured",
    ({ measurement }, { subject: [{ digest }] }) => digest[DIGEST_ALGORITHM] === measurement.digest,
  ],
  [
    "the measurement did not cover the shard",
    ({ measurement, shard }) => measurement.bytesCovered === shard.byteLength,
  ],
  ["its shard is none of its set", ({ shard }) => shard.shardIndex < shard.totalShards],
  [
    "it was signed before it was measured, or measured before it was sealed",
    ({ shard, measurement, issuedAt }) => isInOrder(shard.sealedAt, measurement.measuredAt, issuedAt),
  ],
  ["more processes have the memory than were handed it", ({ exports }) => exports.now <= exports.total],
  [
    "its policy has another digest",
    ({ policy, policyDigest }) => toHex(sha256(Buffer.from(canonicalJson(policy)))) === policyDigest,
  ],
  [
    "its policy demands nothing",
    ({ policy }) => [policy.device, policy.allocation].every((part) => Object.keys(part).length > 0),
  ],
  [
    "its device breaks its policy",
    ({ policy, device }) => Object.entries(policy.device).every(([fact, value]) => device.facts[fact] === value),
  ],
];

/** The first rule that a statement breaks. */
export function contradictionIn(statement: Statement): string | undefined {
  return RULES.find(([, holds]) => !holds(statement.predicate, statement))?.[0];
}
