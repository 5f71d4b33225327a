/**
 * What a service hands over, judged by whoever attaches: nothing is taken on trust that can be looked at. The reply has to
 * be one of the protocol, come with one descriptor or with none, contradict neither itself nor what was asked, and be of
 * the digest that was expected, whatever the service says it compared.
 */
import { z } from "zod";
import { toHex } from "../bytes.ts";
import { VramError } from "../errors.ts";
import { DIGEST_ALGORITHM, type NamedDigest, parseDigest } from "../hash/descriptor.ts";
import {
  type AttachGranted,
  type AttachRequest,
  attachEvent,
  attachReply,
  attachRequest,
  PROTOCOL_VERSION,
} from "../service/attach/protocol.ts";
import { errorFromProblem, faultOf, readParsed } from "./answers.ts";
import type { Reply } from "./attach-channel.ts";
import { notOurs } from "./transport.ts";

/** What was asked for. */
export interface Asked {
  readonly request: AttachRequest;
  readonly expected: NamedDigest | undefined;
  /** Whether a device may have to measure before there is an answer. */
  readonly measures: boolean;
}

/** The request as it is sent. `INVALID_ARGUMENT` for what a service would refuse without looking. */
export function readRequest(shard: string, terms: object): Asked {
  const parsed = attachRequest.safeParse({ ...terms, v: PROTOCOL_VERSION, shard });
  if (!parsed.success) {
    const argument = String(parsed.error.issues[0]?.path[0] ?? "request");
    const fix =
      argument === "expect" ? { fix: "give the digest that the weights must have; null takes whatever is there" } : {};
    throw new VramError("INVALID_ARGUMENT", faultOf(parsed.error, "the request to attach"), {
      ...fix,
      details: { argument },
    });
  }
  const request = parsed.data;
  const { expect, lease, maxAgeMs, salt } = request;
  const expected = expect === null ? undefined : parseDigest(expect);
  return { request, expected, measures: lease === undefined || maxAgeMs !== undefined || salt !== undefined };
}

/** Throws unless the shard is what is expected. */
function requireExpected({ record }: AttachGranted, expected: NamedDigest | undefined): void {
  if (expected === undefined) return;
  const wanted = toHex(expected.bytes);
  const isTree = expected.kind === "fsverity";
  const found = isTree ? record.digest : record.sha256;
  if (found === wanted && (!isTree || record.digestAlgorithm === DIGEST_ALGORITHM)) return;
  const actual = found === undefined ? `fsverity:${record.digest}` : `${expected.kind}:${found}`;
  throw new VramError(
    "DIGEST_MISMATCH",
    `${record.name} is ${actual}, and ${expected.kind}:${wanted} was expected; the service should have refused it`,
    {
      fix: "do not use what this service hands over; look at what answers on its socket",
      details: { expected: `${expected.kind}:${wanted}`, actual },
    },
  );
}

type Contradiction = readonly [is: boolean, what: string];

function ofShard(granted: AttachGranted, { request, measures }: Asked): readonly Contradiction[] {
  const { record, seal, lease, verification } = granted;
  const { maxAgeMs = Number.POSITIVE_INFINITY } = request;
  const salt = request.salt?.toLowerCase();
  const isVerified = verification !== undefined;
  const isOld = isVerified && verification.basis !== "measured" && verification.ageMs > maxAgeMs;
  return [
    [record.shardId !== request.shard && record.name !== request.shard, "the record of another shard"],
    [!record.sealed || record.state !== "sealed", `a shard that is ${record.state}`],
    [seal["shardId"] !== record.shardId || seal["digest"] !== record.digest, "a seal and a record that differ"],
    [lease.shardId !== record.shardId || lease.digest !== record.digest, "a lease on another shard"],
    [request.lease !== undefined && lease.leaseId !== request.lease, "another lease than the one presented"],
    [isVerified && verification.record.shardId !== record.shardId, "a verification of another shard"],
    [isVerified && verification.digest !== record.digest, "a verification that found something else"],
    [measures && !isVerified, "no verification, and it was to verify"],
    [isOld, "an older measurement than was asked for"],
    [salt !== undefined && verification?.salted?.salt !== salt, "no measurement with the salt that was given"],
  ];
}

function ofMemory({ record, memory, tensors }: AttachGranted): readonly Contradiction[] {
  const { byteLength } = record;
  const isHost = memory.kind === "memfd";
  const names = new Set(tensors.map(({ name }) => name));
  const outside = tensors.find((tensor) => tensor.byteLength > byteLength - tensor.offset);
  return [
    [isHost !== (record.backend === "emulated"), `memory of the kind ${memory.kind} from ${record.backend}`],
    [memory.deviceUuid !== record.device.uuid, "memory of another device"],
    [memory.byteLength < byteLength, `memory of ${memory.byteLength} bytes for a shard of ${byteLength}`],
    [names.size !== tensors.length, "two tensors of one name"],
    [outside !== undefined, `a tensor beyond the end of the shard: ${JSON.stringify(outside?.name)}`],
  ];
}

/**
 * The grant of a reply. Throws what the service refused with, `DIGEST_MISMATCH` for another shard than the expected one,
 * and `SERVICE_UNREACHABLE` for what no service of ours sends. The descriptors stay the caller's.
 */
export function requireGranted({ value, descriptors }: Reply, asked: Asked, where: string): AttachGranted {
  const reply = readParsed(attachReply, value, where);
  if (!reply.ok) {
    if (descriptors.length > 0) throw notOurs(where, "a refusal that comes with a descriptor");
    throw errorFromProblem(reply.problem);
  }
  if (descriptors.length !== 1) throw notOurs(where, `a grant that comes with ${descriptors.length} descriptors`);
  requireExpected(reply, asked.expected);
  const found = [...ofShard(reply, asked), ...ofMemory(reply)].find(([is]) => is);
  if (found !== undefined) throw notOurs(where, found[1]);
  return reply;
}

/** A lease that has ended, and why. */
export interface EndedLease {
  /** The one that vouched for the weights. */
  readonly leaseId: string;
  /** `released`, `expired`, or why it was revoked, as docs/audit.md has it; a newer service may have others. */
  readonly because: string;
}

const anyEvent = z.object({ v: z.literal(PROTOCOL_VERSION), event: z.string() });

/** The end of this lease, if a message tells of it. Events that a newer service may have are passed over. */
export function readLeaseEnd(message: unknown, leaseId: string, where: string): EndedLease | undefined {
  if (readParsed(anyEvent, message, where).event !== attachEvent.shape.event.value) return undefined;
  const { because, ...event } = readParsed(attachEvent, message, where);
  if (event.leaseId !== leaseId) throw notOurs(where, "the end of another lease");
  return { leaseId, because };
}
