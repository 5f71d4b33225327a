/**
 * The library: seal models into VRAM and verify them there. Everything a caller hands in is checked here; everything
 * handed out is plain data. What happens inside is told in `residency/seal-model.ts` and `verify/verify.ts`.
 */

import { setMaxListeners } from "node:events";
import { basename } from "node:path";
import type {
  DeviceStatus,
  LeaseOptions,
  PlanOptions,
  PolicyReport,
  RenewOptions,
  SealOptions,
  SealSetOptions,
  SealSource,
  VerifyOptions,
  Vram,
} from "./api.ts";
import { firstOf } from "./clock.ts";
import type { BackendDecision } from "./device/detect.ts";
import { closedError } from "./dispose.ts";
import { toVramError, VramError } from "./errors.ts";
import { parseDigest, parseSalt } from "./hash/descriptor.ts";
import type { Operation } from "./journal/entry.ts";
import { inOperation, inWorker } from "./journal/scope.ts";
import { acquire, type GrantedLease, type RenewedLease, renew } from "./lease/gate.ts";
import type { Lease } from "./lease/lease.ts";
import type { OpenCore } from "./open.ts";
import { checkIdOrName, checkLeaseOptions, checkReason, checkSealSetOptions, checkVerifyOptions } from "./options.ts";
import { toFormat, toRequest } from "./requests.ts";
import { type EvictResult, evict } from "./residency/evict.ts";
import type { Capacity } from "./residency/ledger.ts";
import { type Plan, plan } from "./residency/plan.ts";
import { checkDevice } from "./residency/policy.ts";
import { type SealResult, sealModel } from "./residency/seal-model.ts";
import type { SealRequest } from "./residency/seal-request.ts";
import { type SetResult, sealSet } from "./residency/seal-set.ts";
import { recordOf, type ShardRecord } from "./residency/shard.ts";
import { findWorker, readCapacity, resumeWorker } from "./residency/worker.ts";
import { cleanName } from "./seal/names.ts";
import type { SetSeal } from "./seal/set.ts";
import { nodeFileSystem } from "./source/file.ts";
import { expandSource } from "./source/sets.ts";
import type { VerificationReport } from "./verify/report.ts";
import { type VerifyRequest, verify } from "./verify/verify.ts";
import { type SetReport, verifySet } from "./verify/verify-set.ts";

class OpenVram implements Vram {
  readonly #open: OpenCore;
  readonly #closing = new AbortController();
  readonly #inFlight = new Set<Promise<unknown>>();
  #closed: Promise<void> | undefined;

  constructor(open: OpenCore) {
    this.#open = open;
    // Every seal in flight listens to it; that many listeners are no leak.
    setMaxListeners(0, this.#closing.signal);
  }

  get backend(): BackendDecision {
    return this.#open.decision;
  }

  /** Refuses after close; close waits for what was let in. */
  async #enter<T>(operation: Operation, task: () => Promise<T>): Promise<T> {
    if (this.#closing.signal.aborted) throw closedError("this Vram");
    const running = inOperation(() => this.#timed(operation, task));
    const settled = running.catch(() => undefined);
    this.#inFlight.add(settled);
    void settled.then(() => this.#inFlight.delete(settled));
    return running;
  }

  /** Tells the journal how it ended, and how long it took. */
  async #timed<T>(operation: Operation, task: () => Promise<T>): Promise<T> {
    // A figure for people: of the machine's own clock, which cannot fail the operation.
    const startMs = performance.now();
    const end = (error?: VramError): void => {
      const argument = error?.details["argument"];
      this.#open.system.journal.note({
        type: "operation_ended",
        operation,
        durationMs: performance.now() - startMs,
        ...(error === undefined ? {} : { code: error.code }),
        ...(typeof argument === "string" ? { argument } : {}),
      });
    };
    try {
      const result = await task();
      end();
      return result;
    } catch (thrown) {
      const error = toVramError(thrown);
      end(error);
      throw error;
    }
  }

  #signal(given: AbortSignal | undefined): AbortSignal {
    const closing = this.#closing.signal;
    return given === undefined ? closing : firstOf(given, closing);
  }

  seal(source: SealSource, options: SealOptions = {}): Promise<SealResult> {
    return this.#enter("seal", async () => {
      const { system, workers } = this.#open;
      const request = { ...toRequest(source, options, system.modelRoots), signal: this.#signal(options.signal) };
      const worker = findWorker(workers, options.device);
      const seal = async (one: SealRequest): Promise<SealResult> =>
        (await inWorker(worker.ref.uuid, () => sealModel(system, worker, one))).result;
      if (request.spec.kind !== "path") return seal(request);
      const members = await expandSource(request.spec.path, system.modelRoots, nodeFileSystem);
      const [only, second] = members;
      if (only === undefined || second !== undefined) {
        throw new VramError(
          "INVALID_ARGUMENT",
          `${request.spec.path} is a set of ${members.length} files; use sealSet`,
        );
      }
      return seal({ ...request, spec: { ...request.spec, path: only } });
    });
  }

  sealSet(path: string, given: SealSetOptions = {}): Promise<SetResult> {
    return this.#enter("seal_set", async () => {
      const { system, workers } = this.#open;
      const options = checkSealSetOptions(given);
      const paths = await expandSource(checkIdOrName(path), system.modelRoots, nodeFileSystem);
      const devices = options.devices ?? [undefined];
      return sealSet(
        system,
        devices.map((device) => findWorker(workers, device)),
        {
          paths,
          name: options.name ?? cleanName(basename(path)),
          shards: options.shards ?? 1,
          expected: options.expected === undefined ? undefined : parseDigest(options.expected),
          format: toFormat(options),
          sha256: options.sha256 ?? false,
          maxAgeMs: options.maxAgeMs ?? 0,
          ...(options.sealed === undefined ? {} : { sealed: options.sealed }),
          signal: this.#signal(options.signal),
        },
      );
    });
  }

  plan(path: string, options: PlanOptions = {}): Promise<Plan> {
    return this.#enter("plan", async () => {
      const { system, workers } = this.#open;
      const given = checkSealSetOptions(options);
      const paths = await expandSource(checkIdOrName(path), system.modelRoots, nodeFileSystem);
      const name = given.name ?? cleanName(basename(path));
      const { device, shards = 1 } = options;
      const request = { paths, name, shards, format: toFormat(given), signal: this.#signal(given.signal) };
      return plan(system, findWorker(workers, device), request);
    });
  }

  acquire(idOrName: string, given: LeaseOptions): Promise<GrantedLease> {
    return this.#enter("lease", async () => {
      const { system, leases } = this.#open;
      const options = checkLeaseOptions(given);
      const shard = system.registry.find(checkIdOrName(idOrName));
      const { durationMs, holder, caller } = options;
      const who = { ...(holder === undefined ? {} : { holder }), ...(caller === undefined ? {} : { caller }) };
      return acquire(system, leases, shard, { durationMs, ...who, ...this.#verifyRequest(options) });
    });
  }

  renew(leaseId: string, given: RenewOptions): Promise<RenewedLease> {
    return this.#enter("renew", async () => {
      const { system, leases } = this.#open;
      const options = checkLeaseOptions(given);
      const { durationMs } = options;
      return renew(system, leases, leaseId, { durationMs, ...this.#verifyRequest(options) });
    });
  }

  release(leaseId: string): Promise<Lease> {
    return inOperation(() => this.#open.leases.release(leaseId));
  }

  leases(): readonly Lease[] {
    return this.#open.leases.all();
  }

  verifySet(set: SetSeal, given: Omit<VerifyOptions, "seal"> = {}): Promise<SetReport> {
    return this.#enter("verify_set", async () => {
      const { system, workers } = this.#open;
      return verifySet(system, workers, set, this.#verifyRequest(checkVerifyOptions(given)));
    });
  }

  #verifyRequest(options: Pick<VerifyOptions, "maxAgeMs" | "salt" | "signal">): Omit<VerifyRequest, "presented"> {
    return {
      maxAgeMs: options.maxAgeMs,
      salt: options.salt === undefined ? undefined : parseSalt(options.salt),
      signal: this.#signal(options.signal),
    };
  }

  verify(idOrName: string, given: VerifyOptions = {}): Promise<VerificationReport> {
    return this.#enter("verify", async () => {
      const options = checkVerifyOptions(given);
      const shard = this.#open.system.registry.find(checkIdOrName(idOrName));
      const request = { presented: options.seal, ...this.#verifyRequest(options) };
      return verify(this.#open.system, shard.worker, shard, request);
    });
  }

  inspect(idOrName: string): ShardRecord {
    return recordOf(this.#open.system.registry.find(checkIdOrName(idOrName)));
  }

  list(): ShardRecord[] {
    return this.#open.system.registry.all().map(recordOf);
  }

  capacity(device?: number | string): Promise<Capacity> {
    return this.#enter("capacity", async () => {
      const worker = findWorker(this.#open.workers, device);
      const capacity = await readCapacity(worker);
      this.#open.system.journal.note({ type: "capacity_queried", device: worker.ref, capacity });
      return capacity;
    });
  }

  evict(idOrName: string): Promise<EvictResult> {
    return this.#enter("evict", async () => {
      const shard = this.#open.system.registry.find(checkIdOrName(idOrName));
      return evict(this.#open.system, shard.worker, shard);
    });
  }

  resume(reason: string, device?: number | string): Promise<void> {
    return this.#enter("resume", async () => {
      await resumeWorker(this.#open.system, findWorker(this.#open.workers, device), checkReason(reason));
    });
  }

  checkPolicy(): PolicyReport[] {
    const { policy, policyDigest } = this.#open.system;
    return this.#open.workers.map(({ ref, device }) => ({
      device: ref,
      policyDigest,
      violations: checkDevice(policy, device.info.facts),
    }));
  }

  devices(): DeviceStatus[] {
    return this.#open.workers.map(({ device, stopped, lost }) => ({
      ...device.info,
      state: lost ? "lost" : stopped === undefined ? "running" : "stopped",
      ...(stopped === undefined ? {} : { reason: stopped }),
    }));
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#closing.abort(closedError("this Vram"));
    await Promise.all(this.#inFlight);
    await inOperation(async () => {
      await this.#open.leases.close();
      await this.#evictAll();
      await this.#open.close();
    });
  }

  async #evictAll(): Promise<void> {
    for (const shard of this.#open.system.registry.all()) {
      await evict(this.#open.system, shard.worker, shard, "closed");
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** The library over an open system, which it closes. */
export function createVram(open: OpenCore): Vram {
  return new OpenVram(open);
}
