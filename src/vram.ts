/**
 * The library: seal models into VRAM and verify them there. Everything a caller hands in is checked here; everything
 * handed out is plain data. What happens inside is told in `residency/seal-model.ts` and `verify/verify.ts`.
 */
import { setMaxListeners } from "node:events";
import { requireInteger } from "./assert.ts";
import type { BackendDecision } from "./device/detect.ts";
import type { DeviceInfo } from "./device/device.ts";
import { closedError } from "./dispose.ts";
import { VramError } from "./errors.ts";
import { type NamedDigest, parseDigest, parseSalt } from "./hash/descriptor.ts";
import type { OpenSystem } from "./open.ts";
import { type EvictResult, evict } from "./residency/evict.ts";
import type { Capacity } from "./residency/ledger.ts";
import { checkDevice, type Violation } from "./residency/policy.ts";
import { type SealResult, sealModel } from "./residency/seal-model.ts";
import type { SealRequest } from "./residency/seal-request.ts";
import { recordOf, type Shard, type ShardRecord } from "./residency/shard.ts";
import { findWorker, readCapacity, resumeWorker, type Worker } from "./residency/worker.ts";
import type { Seal } from "./seal/encoding.ts";
import { createShardId, requireName, requireShardId } from "./seal/names.ts";
import { nodeFileSystem } from "./source/file.ts";
import { expandSource } from "./source/sets.ts";
import type { SourceSpec } from "./source/source.ts";
import type { SourceFormat } from "./source/tensors.ts";
import type { VerificationReport } from "./verify/report.ts";
import { verify } from "./verify/verify.ts";

/** What can be sealed: a path, bytes, or an async iterable of known length. */
export type SealSource =
  | string
  | Uint8Array
  | { readonly path: string }
  | { readonly bytes: Uint8Array; readonly name?: string }
  | { readonly chunks: AsyncIterable<Uint8Array>; readonly byteLength: number; readonly name?: string };

export interface SealOptions {
  /** What people call it; default the file's base name. */
  readonly name?: string;
  /** Default: generated. */
  readonly shardId?: string;
  /** Ordinal or UUID; default the first device. */
  readonly device?: number | string;
  /** `fsverity:HEX` (fast: nothing is hashed on the host), `sha256:HEX` (witnessed), or 64 bare hex digits: fsverity. */
  readonly expected?: string;
  /** Also compute the plain SHA-256; the seal is then witnessed. */
  readonly sha256?: boolean;
  /** Verifications older than this are never relied on; 0 or absent = none. */
  readonly maxAgeMs?: number;
  /** How to read the header; default by content and extension. */
  readonly format?: "auto" | SourceFormat;
  /** Header limit of safetensors, up to 100 MiB. */
  readonly maxHeaderBytes?: number;
  readonly signal?: AbortSignal;
}

export interface VerifyOptions {
  /** A seal from an earlier call; it must be the shard's current one. */
  readonly seal?: Seal;
  /** Settle for a measurement by this instance no older than this. */
  readonly maxAgeMs?: number;
  /** Hex, 1–32 bytes: also measure with this salt. */
  readonly salt?: string;
  readonly signal?: AbortSignal;
}

/** A device and the state of its worker. */
export interface DeviceStatus extends DeviceInfo {
  readonly state: "running" | "stopped" | "lost";
  /** Why it is stopped. */
  readonly reason?: string;
}

/** What the policy says of a device. */
export interface PolicyReport {
  readonly device: { readonly ordinal: number; readonly uuid: string };
  readonly policyDigest: string;
  readonly violations: readonly Violation[];
}

/** Sealed weights on the devices of this process. Close it, or use `await using`. */
export interface Vram {
  /** Which backend answers, and why. Nothing measured on `emulated` is evidence about a GPU. */
  readonly backend: BackendDecision;
  /** Reads a source once into VRAM, measures it there, seals it. A call that fails has done nothing. */
  seal(source: SealSource, options?: SealOptions): Promise<SealResult>;
  /** Seals every file of a directory or index; all or none. Name and digest options belong to single files. */
  sealSet(
    path: string,
    options?: Pick<SealOptions, "device" | "sha256" | "maxAgeMs" | "signal">,
  ): Promise<SealResult[]>;
  /** Measures a shard where it lies. Throws, or returns a report. */
  verify(idOrName: string, options?: VerifyOptions): Promise<VerificationReport>;
  inspect(idOrName: string): ShardRecord;
  list(): ShardRecord[];
  /** The account of one device; default the first. */
  capacity(device?: number | string): Promise<Capacity>;
  /** Zeroes and frees a shard. */
  evict(idOrName: string): Promise<EvictResult>;
  /** Lets a stopped worker seal again. `reason` goes on record. */
  resume(reason: string, device?: number | string): Promise<void>;
  /** What the VRAM-only policy says of every device. A violation throws already when opening. */
  checkPolicy(): PolicyReport[];
  devices(): DeviceStatus[];
  /** Evicts everything and closes. May be called twice. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

function toSpec(source: SealSource, roots: readonly string[]): SourceSpec {
  if (typeof source === "string") return { kind: "path", path: source, roots };
  if (source instanceof Uint8Array) return { kind: "bytes", bytes: source };
  if ("path" in source) return { kind: "path", path: source.path, roots };
  if ("bytes" in source) return { kind: "bytes", ...source };
  return { kind: "chunks", ...source };
}

const MAX_AGE_MS = 366 * 24 * 3600 * 1000;

function toRequest(source: SealSource, options: SealOptions, roots: readonly string[]): SealRequest {
  const expected: NamedDigest | undefined = options.expected === undefined ? undefined : parseDigest(options.expected);
  return {
    spec: toSpec(source, roots),
    format: {
      ...(options.format === undefined ? {} : { format: options.format }),
      ...(options.maxHeaderBytes === undefined ? {} : { maxSafetensorsHeaderBytes: options.maxHeaderBytes }),
    },
    name: options.name === undefined ? undefined : requireName(options.name),
    shardId: options.shardId === undefined ? createShardId() : requireShardId(options.shardId),
    shardIndex: 0,
    totalShards: 1,
    expected,
    sha256: options.sha256 ?? false,
    maxAgeMs: requireInteger(options.maxAgeMs ?? 0, "maxAgeMs", 0, MAX_AGE_MS),
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
  async #enter<T>(task: () => Promise<T>): Promise<T> {
    if (this.#closing.signal.aborted) throw closedError("this Vram");
    const running = task();
    const settled = running.catch(() => undefined);
    this.#inFlight.add(settled);
    void settled.then(() => this.#inFlight.delete(settled));
    return running;
  }

  #signal(given: AbortSignal | undefined): AbortSignal {
    const closing = this.#closing.signal;
    return given === undefined ? closing : AbortSignal.any([given, closing]);
  }

  #workerOf(shard: Shard): Worker {
    return findWorker(this.#open.workers, shard.device.uuid);
  }

  seal(source: SealSource, options: SealOptions = {}): Promise<SealResult> {
    return this.#enter(async () => {
      const { system, workers } = this.#open;
      const worker = findWorker(workers, options.device);
      const request = toRequest(source, options, system.modelRoots);
      if (request.spec.kind !== "path")
        return sealModel(system, worker, withSignal(request, this.#signal(options.signal)));
      const members = await expandSource(request.spec.path, system.modelRoots, nodeFileSystem);
      const [only, second] = members;
      if (only === undefined || second !== undefined) {
        throw new VramError(
          "INVALID_ARGUMENT",
          `${request.spec.path} is a set of ${members.length} files; use sealSet`,
        );
      }
      const spec = { ...request.spec, path: only };
      return sealModel(system, worker, { ...withSignal(request, this.#signal(options.signal)), spec });
    });
  }

  sealSet(path: string, options: Parameters<Vram["sealSet"]>[1] = {}): Promise<SealResult[]> {
    return this.#enter(async () => {
      const { system, workers } = this.#open;
      const worker = findWorker(workers, options.device);
      const members = await expandSource(path, system.modelRoots, nodeFileSystem);
      const before = new Set(system.registry.all());
      const results: SealResult[] = [];
      try {
        for (const [shardIndex, member] of members.entries()) {
          const request = toRequest(member, options, system.modelRoots);
          const place = { shardIndex, totalShards: members.length, signal: this.#signal(options.signal) };
          results.push(await sealModel(system, worker, { ...request, ...place }));
        }
      } catch (error) {
        for (const { record } of results) {
          const shard = system.registry.find(record.shardId);
          if (!before.has(shard)) await evict(system, worker, shard);
        }
        throw error;
      }
      return results;
    });
  }

  verify(idOrName: string, options: VerifyOptions = {}): Promise<VerificationReport> {
    return this.#enter(async () => {
      const shard = this.#open.system.registry.find(idOrName);
      return verify(this.#open.system, this.#workerOf(shard), shard, {
        presented: options.seal,
        maxAgeMs:
          options.maxAgeMs === undefined ? undefined : requireInteger(options.maxAgeMs, "maxAgeMs", 0, MAX_AGE_MS),
        salt: options.salt === undefined ? undefined : parseSalt(options.salt),
        signal: this.#signal(options.signal),
      });
    });
  }

  inspect(idOrName: string): ShardRecord {
    return recordOf(this.#open.system.registry.find(idOrName));
  }

  list(): ShardRecord[] {
    return this.#open.system.registry.all().map(recordOf);
  }

  capacity(device?: number | string): Promise<Capacity> {
    return this.#enter(() => readCapacity(findWorker(this.#open.workers, device)));
  }

  evict(idOrName: string): Promise<EvictResult> {
    return this.#enter(async () => {
      const shard = this.#open.system.registry.find(idOrName);
      return evict(this.#open.system, this.#workerOf(shard), shard);
    });
  }

  resume(reason: string, device?: number | string): Promise<void> {
    return this.#enter(async () => {
      await resumeWorker(this.#open.system, findWorker(this.#open.workers, device), requireName(reason));
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
    for (const shard of this.#open.system.registry.all()) {
      await evict(this.#open.system, this.#workerOf(shard), shard, "closed");
    }
    await this.#open.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

const withSignal = (request: SealRequest, signal: AbortSignal): SealRequest => ({ ...request, signal });

/** The library over an open system, which it closes. */
export function createVram(open: OpenSystem): Vram {
  return new OpenVram(open);
}
