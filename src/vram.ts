/**
 * The library: seal models into VRAM and verify them there. Everything a caller hands in is checked here; everything
 * handed out is plain data. What happens inside is told in `residency/seal-model.ts` and `verify/verify.ts`.
 */
import { setMaxListeners } from "node:events";
import { basename } from "node:path";
import type {
  DeviceStatus,
  PolicyReport,
  SealOptions,
  SealSetOptions,
  SealSource,
  VerifyOptions,
  Vram,
} from "./api.ts";
import type { BackendDecision } from "./device/detect.ts";
import { closedError } from "./dispose.ts";
import { toVramError, VramError } from "./errors.ts";
import { type NamedDigest, parseDigest, parseSalt } from "./hash/descriptor.ts";
import type { Operation } from "./journal/entry.ts";
import { inOperation, inWorker } from "./journal/scope.ts";
import type { OpenSystem } from "./open.ts";
import {
  checkIdOrName,
  checkReason,
  checkSealOptions,
  checkSealSetOptions,
  checkSource,
  checkVerifyOptions,
} from "./options.ts";
import { type EvictResult, evict } from "./residency/evict.ts";
import type { Capacity } from "./residency/ledger.ts";
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
import type { FormatOptions, SourceSpec } from "./source/source.ts";
import type { VerificationReport } from "./verify/report.ts";
import { type VerifyRequest, verify } from "./verify/verify.ts";
import { type SetReport, verifySet } from "./verify/verify-set.ts";

function toSpec(source: SealSource, roots: readonly string[]): SourceSpec {
  if (typeof source === "string") return { kind: "path", path: source, roots };
  if (source instanceof Uint8Array) return { kind: "bytes", bytes: source };
  if ("path" in source) return { kind: "path", path: source.path, roots };
  if ("bytes" in source) return { kind: "bytes", ...source };
  return { kind: "chunks", ...source };
}

function toFormat({ format, maxHeaderBytes }: Pick<SealOptions, "format" | "maxHeaderBytes">): FormatOptions {
  return {
    ...(format === undefined ? {} : { format }),
    ...(maxHeaderBytes === undefined ? {} : { maxSafetensorsHeaderBytes: maxHeaderBytes }),
  };
}

function toRequest(source: SealSource, given: SealOptions, roots: readonly string[]): SealRequest {
  const options = checkSealOptions(given);
  const expected: NamedDigest | undefined = options.expected === undefined ? undefined : parseDigest(options.expected);
  return {
    spec: toSpec(checkSource(source), roots),
    format: toFormat(options),
    name: options.name,
    shardId: options.shardId,
    shardIndex: 0,
    totalShards: 1,
    expected,
    sha256: options.sha256 ?? false,
    maxAgeMs: options.maxAgeMs ?? 0,
    signal: options.signal,
  };
}

class OpenVram implements Vram {
  readonly #open: OpenSystem;
  readonly #closing = new AbortController();
  readonly #inFlight = new Set<Promise<unknown>>();
  #closed: Promise<void> | undefined;

  constructor(open: OpenSystem) {
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
    return given === undefined ? closing : AbortSignal.any([given, closing]);
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
          signal: this.#signal(options.signal),
        },
      );
    });
  }

  verifySet(set: SetSeal, given: Omit<VerifyOptions, "seal"> = {}): Promise<SetReport> {
    return this.#enter("verify_set", async () => {
      const { system, workers } = this.#open;
      return verifySet(system, workers, set, this.#verifyRequest(checkVerifyOptions(given)));
    });
  }

  #verifyRequest(options: Omit<VerifyOptions, "seal">): Omit<VerifyRequest, "presented"> {
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
export function createVram(open: OpenSystem): Vram {
  return new OpenVram(open);
}
