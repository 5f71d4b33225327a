/**
 * A device in this process: handles behind ids, one upload and one measurement at a time, and one memory of a fatal
 * error. After a fatal error every call is refused with it; frees then only drop references, because a lost context
 * cannot zero anything. After a stall nothing is released at all (`context.abandon`): the device may still be writing.
 */
import { present, requireInteger, requireRange } from "../assert.ts";
import { requireNonce } from "../cuda/monitor.ts";
import { Mutex, type ReleaseFailureReporter, UndoStack } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import { type Allocation, openAllocation } from "../handles/allocation.ts";
import type { Mapped } from "../handles/mapped.ts";
import { settled } from "../handles/stream.ts";
import { type OpenedSource, openSource } from "../source/source.ts";
import { digestOpened } from "../staging/digest.ts";
import { pump } from "../staging/pump.ts";
import { createWitness, type Witness } from "../staging/witness.ts";
import type {
  AllocationId,
  Device,
  DeviceInfo,
  FreeResult,
  SourceId,
  UploadRequest,
  UploadResult,
  UploadWatch,
} from "./device.ts";
import { readAllocationFacts, readDeviceInfo } from "./facts.ts";
import { type LocalDeviceOptions, type LocalParts, openLocalParts } from "./local-parts.ts";
import { locateDamage } from "./locate.ts";

/** A device of this process; `flipBit` is how tests and `vram try --tamper` change sealed bytes. */
export interface LocalDevice extends Device {
  /** Flips one bit of an allocation through a writable alias. Offset in bytes, bit 0–7. */
  flipBit(allocationId: AllocationId, offset: number, bit: number): Promise<void>;
}

/** Where a release that failed fatally goes: it ends the device like any other call. */
interface FatalReleases {
  onFatal: (error: VramError) => void;
}

function uploadResult(byteLength: number, durationMs: number, witness: Witness): UploadResult {
  const { tree, sha256 } = witness.result();
  return {
    byteLength,
    durationMs,
    ...(tree === undefined ? {} : { digest: tree.digest }),
    ...(sha256 === undefined ? {} : { sha256 }),
  };
}

class OpenLocalDevice implements LocalDevice {
  readonly info: DeviceInfo;
  readonly #options: LocalDeviceOptions;
  readonly #parts: LocalParts;
  readonly #undo: UndoStack;
  readonly #allocations = new Map<AllocationId, Allocation>();
  readonly #sources = new Map<SourceId, OpenedSource>();
  readonly #onLost: ((error: VramError) => void)[] = [];
  readonly #uploading = new Mutex();
  readonly #measuring = new Mutex();
  readonly #blockUse = new Mutex();
  #lastId = 0;
  #fatal: VramError | undefined;
  #open = true;

  constructor(
    info: DeviceInfo,
    options: LocalDeviceOptions,
    parts: LocalParts,
    undo: UndoStack,
    releases: FatalReleases,
  ) {
    this.info = info;
    this.#options = options;
    this.#parts = parts;
    this.#undo = undo;
    releases.onFatal = (error) => this.#lose(error);
  }

  /** Refuses after a fatal error, and remembers the first one. */
  async #guard<T>(task: () => Promise<T>): Promise<T> {
    if (!this.#open) throw new VramError("CLOSED", "the device is closed");
    if (this.#fatal !== undefined) {
      throw new VramError("DEVICE_LOST", "the device was lost earlier", { cause: this.#fatal });
    }
    try {
      return await task();
    } catch (thrown) {
      const error = toVramError(thrown);
      if (error.fatal) this.#lose(error);
      throw error;
    }
  }

  #lose(error: VramError): void {
    if (this.#fatal !== undefined) return;
    this.#fatal = error;
    for (const listener of this.#onLost) listener(error);
  }

  onLost(listener: (error: VramError) => void): void {
    this.#onLost.push(listener);
  }

  #allocation(id: AllocationId): Allocation {
    return present(this.#allocations.get(id), `allocation ${id}`);
  }

  memory() {
    return this.#guard(async () => this.#parts.context.run((driver) => driver.context.memoryInfo()));
  }

  health() {
    return this.#options.monitor.read(this.info.uuid);
  }

  async evidence(nonce: Uint8Array) {
    return this.#options.monitor.evidence(this.info.uuid, requireNonce(nonce));
  }

  openSource(...[spec, options, signal]: Parameters<Device["openSource"]>) {
    return this.#guard(async () => {
      const source = await openSource(spec, options, this.#options.fs, signal);
      this.#lastId += 1;
      this.#sources.set(this.#lastId, source);
      return { ...source.info, sourceId: this.#lastId };
    });
  }

  async closeSource(sourceId: SourceId): Promise<void> {
    const source = this.#sources.get(sourceId);
    this.#sources.delete(sourceId);
    await source?.close();
  }

  allocate(byteLength: number) {
    return this.#guard(async () => {
      requireInteger(byteLength, "byteLength", 1, Number.MAX_SAFE_INTEGER);
      const allocation = openAllocation(this.#parts.context, byteLength, "read");
      this.#lastId += 1;
      this.#allocations.set(this.#lastId, allocation);
      return this.#lastId;
    });
  }

  upload(request: UploadRequest, watch: UploadWatch) {
    const { context, uploads, ring } = this.#parts;
    const task = () =>
      this.#guard(async () => {
        const source = present(this.#sources.get(request.sourceId), "the source");
        const allocation = this.#allocation(request.allocationId);
        requireRange(0, source.info.byteLength, allocation.byteLength, "upload");
        const start = context.clock.monotonicMs();
        const witness = createWitness(this.#options.pool, source.info.byteLength, {
          tree: request.witness,
          sha256: request.sha256,
        });
        await allocation.withWritableAlias(uploads, (alias) => pump(source, alias, uploads, ring, witness, watch));
        return uploadResult(source.info.byteLength, context.clock.monotonicMs() - start, witness);
      });
    return this.#uploading.run(task, watch.signal);
  }

  digestSource(sourceId: SourceId, sha256: boolean, watch: UploadWatch) {
    return this.#guard(async () => {
      const source = present(this.#sources.get(sourceId), "the source");
      const start = this.#options.clock.monotonicMs();
      const digested = await digestOpened(source, this.#options.pool, { tree: true, sha256 }, watch);
      const durationMs = this.#options.clock.monotonicMs() - start;
      return uploadResult(source.info.byteLength, durationMs, {
        start: async () => undefined,
        finish: async () => undefined,
        result: () => digested,
      });
    });
  }

  facts(allocationId: AllocationId) {
    return this.#guard(async () => readAllocationFacts(this.#allocation(allocationId), this.#parts.context.cuDevice));
  }

  measure(allocationId: AllocationId, salt?: Uint8Array) {
    return this.#measuring.run(() =>
      this.#guard(() => this.#parts.meter.measure(this.#allocation(allocationId), salt)),
    );
  }

  locate(request: Parameters<Device["locate"]>[0]) {
    const { chores: stream, block: pinned, meter } = this.#parts;
    const tools = { meter, stream, pinned, fs: this.#options.fs };
    const task = () => locateDamage(this.#allocation(request.allocationId), request, tools);
    return this.#blockUse.run(() => this.#measuring.run(() => this.#guard(task)));
  }

  flipBit(allocationId: AllocationId, offset: number, bit: number): Promise<void> {
    const { chores, block } = this.#parts;
    const flip = async (alias: Mapped): Promise<void> => {
      await settled(chores, 1, () => chores.copyToHost(block, 0, alias, offset, 1));
      block.bytes[0] = (block.bytes[0] ?? 0) ^ (1 << requireInteger(bit, "bit", 0, 7));
      chores.copyToDevice(alias, offset, block, 0, 1);
    };
    return this.#blockUse.run(() => this.#guard(() => this.#allocation(allocationId).withWritableAlias(chores, flip)));
  }

  exportMemory(allocationId: AllocationId) {
    const task = async () => {
      const allocation = this.#allocation(allocationId);
      const descriptor = await allocation.exportMemory(this.#parts.chores);
      return { descriptor, byteLength: allocation.mappedBytes };
    };
    return this.#blockUse.run(() => this.#guard(task));
  }

  async free(allocationId: AllocationId, heldBy?: string): Promise<FreeResult> {
    const allocation = this.#allocations.get(allocationId);
    if (allocation === undefined) return { zeroed: false, reason: "it was freed before" };
    this.#allocations.delete(allocationId);
    const result = heldBy === undefined ? await this.#zero(allocation) : { zeroed: false as const, reason: heldBy };
    allocation.close();
    return result;
  }

  async #zero(allocation: Allocation): Promise<FreeResult> {
    const { chores } = this.#parts;
    try {
      await this.#guard(() =>
        allocation.withWritableAlias(chores, async (alias) => chores.fill(alias, 0, 0, alias.byteLength)),
      );
      return { zeroed: true };
    } catch (thrown) {
      return { zeroed: false, reason: toVramError(thrown).message };
    }
  }

  async close(): Promise<void> {
    if (!this.#open) return;
    for (const id of [...this.#allocations.keys()]) await this.free(id);
    for (const id of [...this.#sources.keys()]) await this.closeSource(id);
    this.#open = false;
    await this.#undo.unwind();
  }
}

/** Opens the device with this ordinal: context, streams, ring, kernel and scratch. On failure nothing stays behind. */
export async function openLocalDevice(options: LocalDeviceOptions): Promise<LocalDevice> {
  const releases: FatalReleases = { onFatal: () => undefined };
  const report: ReleaseFailureReporter = (what, thrown) => {
    options.report(what, thrown);
    const error = toVramError(thrown);
    if (error.fatal) releases.onFatal(error);
  };
  const undo = new UndoStack(report);
  try {
    const info = readDeviceInfo(options.driver, options.ordinal, options.wddm ?? false);
    const parts = await openLocalParts({ ...options, report }, info.bytesTotal, undo);
    return new OpenLocalDevice(info, options, parts, undo, releases);
  } catch (error) {
    await undo.unwind();
    throw error;
  }
}
