/**
 * Attaching: a process that holds a lease, or is granted one for as long as it is connected, is handed the memory of a
 * shard, with the table of what lies where. Content decides: who expects another digest is refused before anything is
 * granted, measured or sent (VR-API-05).
 */
import { constantTimeEqual, fromHex } from "../../bytes.ts";
import { VramError } from "../../errors.ts";
import { type NamedDigest, parseDigest } from "../../hash/descriptor.ts";
import type { Peer } from "../../journal/service-body.ts";
import type { LeaseEnd } from "../../lease/lease.ts";
import { recordOf, type Shard } from "../../residency/shard.ts";
import type { Seal } from "../../seal/encoding.ts";
import { given } from "../given.ts";
import { durationOf, requireHolder } from "../holding.ts";
import { type Parts, shardOf } from "../parts.ts";
import type { LeaseReply, Verification } from "../replies.ts";
import type { Caller } from "../service.ts";
import { type AttachGranted, type AttachRequest, PROTOCOL_VERSION } from "./protocol.ts";

/** What a process is handed, and what ends it. */
export interface Attached {
  readonly granted: AttachGranted;
  /** To be passed on and closed. */
  readonly descriptor: number;
  /** Calls `listener` when nobody vouches for the memory any more. */
  onLeaseEnd(listener: (because: LeaseEnd) => void): void;
  /** The process is gone, or was never reached. Gives back what was taken for the connection. May be called twice. */
  end(because: "closed" | "failed"): Promise<void>;
}

/** Throws unless the shard is what is expected. */
function requireExpected({ name, digest, sha256 }: Seal, expected: NamedDigest | undefined): void {
  if (expected === undefined) return;
  const known = expected.kind === "sha256" ? sha256 : digest;
  if (known === "") {
    throw new VramError("INVALID_ARGUMENT", `the SHA-256 of ${name} was not computed when it was sealed`, {
      fix: "expect its fs-verity digest, or seal it again with --sha256",
      details: { argument: "expect", digest: `fsverity:${digest}` },
    });
  }
  if (constantTimeEqual(fromHex(known, 32, "digest"), expected.bytes)) return;
  throw new VramError("DIGEST_MISMATCH", `${name} is ${expected.kind}:${known}, and that is not what was expected`, {
    fix: "this is another model than the one that is expected: attach to that one, or seal it first",
    details: { actual: `${expected.kind}:${known}` },
  });
}

/** A lease to attach under, and the measurement that it stands on, if there was one just now. */
interface Reliance {
  readonly lease: LeaseReply;
  readonly verification: Verification | undefined;
  /** Whether it ends with the connection. */
  readonly isOwn: boolean;
}

/** The lease that is presented, if it is one on this shard and the caller's; measures if that is asked for. */
async function presented(
  parts: Parts,
  shard: Shard,
  { lease: leaseId = "", maxAgeMs, salt }: AttachRequest,
  caller: Caller,
  signal: AbortSignal,
): Promise<Reliance> {
  requireHolder(parts, leaseId, caller);
  const { shardId, name } = shard.seal;
  if (parts.open.leases.shardOf(leaseId) !== shard) {
    throw new VramError("INVALID_ARGUMENT", `${leaseId} is no lease on ${name}`, { details: { argument: "lease" } });
  }
  const isMeasured = maxAgeMs !== undefined || salt !== undefined;
  const options = { maxAgeMs: maxAgeMs ?? 0, signal, ...given({ salt }) };
  const verification = isMeasured ? await parts.vram.verify(shardId, options) : undefined;
  return { lease: parts.open.leases.find(leaseId), verification, isOwn: false };
}

/** A lease for the connection: the execute gate, like any other. */
async function acquired(
  parts: Parts,
  { seal: { shardId } }: Shard,
  { maxAgeMs = parts.values["verify.maxAgeMs"], salt, holder }: AttachRequest,
  caller: Caller,
  signal: AbortSignal,
): Promise<Reliance> {
  const durationMs = durationOf(parts, undefined);
  const options = { durationMs, maxAgeMs, signal, holder: holder ?? caller.name, caller: caller.name };
  const granted = await parts.vram.acquire(shardId, { ...options, ...given({ salt }) });
  return { lease: granted.lease, verification: granted.verification, isOwn: true };
}

/** A lease that ends with the connection is renewed by it. */
function keepRenewed(parts: Parts, { lease, isOwn }: Reliance): () => void {
  if (!isOwn) return () => undefined;
  const { leaseId, durationMs } = lease;
  const timer = setInterval(() => {
    // What keeps it from being renewed ends it, and its watchers hear of that.
    void parts.vram.renew(leaseId, { durationMs }).catch(() => undefined);
    // A third: one that fails, as without an audit log for a moment, is made good by the next.
  }, durationMs / 3);
  timer.unref();
  return () => clearInterval(timer);
}

/** Hands the memory of a shard to a process. Whatever fails leaves neither a lease nor a descriptor. */
export async function attach(
  parts: Parts,
  request: AttachRequest,
  caller: Caller,
  peer: Peer,
  signal: AbortSignal,
): Promise<Attached> {
  parts.requireAccepting();
  const expected = request.expect === null ? undefined : parseDigest(request.expect);
  const shard = shardOf(parts, request.shard);
  requireExpected(shard.seal, expected);
  const rely = request.lease === undefined ? acquired : presented;
  const reliance = await rely(parts, shard, request, caller, signal);
  const { lease, verification, isOwn } = reliance;
  const { open, exports } = parts;
  const { leases } = open;
  const giveBack = async (): Promise<void> => {
    // It may have ended by itself.
    if (isOwn) await leases.release(lease.leaseId).catch(() => undefined);
  };
  try {
    const { leaseId } = lease;
    const terms = { leaseId, caller: caller.name, peer, expected: request.expect ?? undefined };
    const { exportId, descriptor, byteLength } = await exports.begin(shard, terms);
    const granted: AttachGranted = {
      ...{ v: PROTOCOL_VERSION, ok: true, exportId, lease, seal: { ...shard.seal } },
      record: recordOf(shard),
      ...(verification === undefined ? {} : { verification }),
      tensors: shard.tensors.map((tensor) => ({ ...tensor, shape: [...tensor.shape] })),
      memory: {
        kind: shard.seal.backend === "emulated" ? "memfd" : "cuda-vmm",
        deviceUuid: shard.seal.deviceUuid,
        byteLength,
      },
    };
    return attachedTo(parts, reliance, { exportId, descriptor, giveBack, granted });
  } catch (error) {
    await giveBack();
    throw error;
  }
}

function attachedTo(
  parts: Parts,
  reliance: Reliance,
  what: Pick<Attached, "granted" | "descriptor"> & {
    readonly exportId: string;
    readonly giveBack: () => Promise<void>;
  },
): Attached {
  const { granted, descriptor, exportId, giveBack } = what;
  const { open, exports } = parts;
  const stopRenewing = keepRenewed(parts, reliance);
  let unwatch = (): void => undefined;
  return {
    granted,
    descriptor,
    onLeaseEnd: (listener) => {
      try {
        unwatch = open.leases.watch(granted.lease.leaseId, listener);
      } catch {
        // Between the grant and now.
        listener("unreliable");
      }
    },
    end: async (because) => {
      stopRenewing();
      unwatch();
      await exports.end(exportId, because);
      await giveBack();
    },
  };
}
