/**
 * A device in a process of its own, behind the same interface as one in this process. Calls are sent when it is their
 * turn, so that a deadline counts the work and not the queue. Ids are of this side: those of an earlier process of the
 * same GPU never name what a later one holds.
 */
import { present, requireInteger } from "../assert.ts";
import { type GpuMonitor, requireNonce } from "../cuda/monitor.ts";
import type {
  AllocationId,
  Device,
  DeviceInfo,
  FreeResult,
  LocateRequest,
  SourceId,
  UploadRequest,
  UploadWatch,
} from "../device/device.ts";
import { closedError, Mutex } from "../dispose.ts";
import { throwIfAborted, toVramError, VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { CallOptions } from "./calls.ts";
import type { Link, ProcessEnd } from "./link.ts";
import { type LinkStart, openLink } from "./open-link.ts";
import type { CallArguments, CallResult, Method, OpenRequest } from "./protocol.ts";

/** Which device, and what its process is given. Sizes in bytes. */
export interface RemoteDeviceOptions extends OpenRequest, LinkStart {
  /** The position of the GPU on this machine: its own process sees no other. Default: what the process says. */
  readonly ordinal?: number;
  /** Who is asked about the GPU's health and evidence; without, the process is, and starts nothing to find out. */
  readonly monitor?: GpuMonitor;
  /** The next id of an allocation; the same for all processes of one GPU. Default: 1, 2, … */
  readonly nextId?: () => AllocationId;
}

export interface RemoteDevice extends Device {
  readonly pid: number;
  /** Resolves when the process is gone, or was killed and will not go. */
  readonly ended: Promise<ProcessEnd>;
}

interface RemoteAllocation {
  readonly remoteId: AllocationId;
  readonly byteLength: number;
}

class OpenRemoteDevice implements RemoteDevice {
  readonly info: DeviceInfo;
  readonly #link: Link;
  readonly #monitor: GpuMonitor | undefined;
  readonly #nextId: () => AllocationId;
  readonly #allocations = new Map<AllocationId, RemoteAllocation>();
  /** Streams of the caller's, by the source they became. */
  readonly #streams = new Map<SourceId, number>();
  readonly #uploading = new Mutex();
  readonly #measuring = new Mutex();
  #inFlight = 0;
  #closed: Promise<void> | undefined;

  constructor(info: DeviceInfo, link: Link, options: RemoteDeviceOptions) {
    this.info = info;
    this.#link = link;
    this.#monitor = options.monitor;
    let lastId = 0;
    this.#nextId =
      options.nextId ??
      (() => {
        lastId += 1;
        return lastId;
      });
  }

  get pid(): number {
    return this.#link.pid;
  }

  get ended(): Promise<ProcessEnd> {
    return this.#link.ended;
  }

  onLost(listener: (error: VramError) => void): void {
    this.#link.onLost(listener);
  }

  /** Lets in as many calls as there may be. */
  async #enter<T>(task: () => Promise<T>): Promise<T> {
    if (this.#closed !== undefined) throw closedError("the device");
    this.#link.requireUsable();
    if (this.#inFlight >= LIMITS.deviceCallsInFlight) {
      throw new VramError("DEVICE_BUSY", `${this.#inFlight} calls to the device are under way already`);
    }
    this.#inFlight += 1;
    try {
      return await task();
    } finally {
      this.#inFlight -= 1;
    }
  }

  #call<K extends Method>(method: K, args: CallArguments[K], options?: CallOptions): Promise<CallResult<K>> {
    return this.#link.call(method, args, options);
  }

  #allocation(id: AllocationId): RemoteAllocation {
    return present(this.#allocations.get(id), `allocation ${id}`);
  }

  memory() {
    return this.#enter(() => this.#call("memory", []));
  }

  async health() {
    if (this.#monitor === undefined) return this.#enter(() => this.#call("health", [])).catch(() => ({}));
    const health = await this.#monitor.read(this.info.uuid);
    const { processes } = health;
    // As with a device in this process: what we hold ourselves is nobody else's.
    return processes === undefined ? health : { ...health, processes: processes.filter(({ pid }) => pid !== this.pid) };
  }

  async evidence(nonce: Uint8Array) {
    requireNonce(nonce);
    if (this.#monitor !== undefined) return this.#monitor.evidence(this.info.uuid, nonce);
    return this.#enter(() => this.#call("evidence", [nonce])).catch(() => undefined);
  }

  openSource(...[spec, options, signal]: Parameters<Device["openSource"]>) {
    return this.#enter(async () => {
      throwIfAborted(signal);
      const { streams } = this.#link;
      const source = streams.cross(spec);
      try {
        const opened = await this.#call("openSource", [source, options], { sourcePaced: true, signal });
        if (source.kind === "stream") this.#streams.set(opened.sourceId, source.streamId);
        return opened;
      } catch (error) {
        if (source.kind === "stream") streams.drop(source.streamId);
        throw error;
      }
    });
  }

  async closeSource(sourceId: SourceId): Promise<void> {
    const streamId = this.#streams.get(sourceId);
    this.#streams.delete(sourceId);
    if (streamId !== undefined) this.#link.streams.drop(streamId);
    // What its process held open is closed with it.
    if (this.#closed !== undefined || this.#link.fatal !== undefined) return;
    await this.#call("closeSource", [sourceId]).catch((thrown: unknown) => {
      if (this.#link.fatal === undefined) throw thrown;
    });
  }

  allocate(byteLength: number) {
    return this.#enter(async () => {
      requireInteger(byteLength, "byteLength", 1, Number.MAX_SAFE_INTEGER);
      const remoteId = await this.#call("allocate", [byteLength], { byteLength, blocking: true });
      const id = this.#nextId();
      this.#allocations.set(id, { remoteId, byteLength });
      return id;
    });
  }

  upload(request: UploadRequest, { signal, onProgress }: UploadWatch) {
    const task = () => {
      const { remoteId } = this.#allocation(request.allocationId);
      const options = { sourcePaced: true, signal, onProgress };
      return this.#call("upload", [{ ...request, allocationId: remoteId }], options);
    };
    return this.#enter(() => this.#uploading.run(task, signal));
  }

  digestSource(sourceId: SourceId, sha256: boolean, { signal, onProgress }: UploadWatch) {
    return this.#enter(async () => {
      throwIfAborted(signal);
      return this.#call("digestSource", [sourceId, sha256], { sourcePaced: true, signal, onProgress });
    });
  }

  facts(allocationId: AllocationId) {
    return this.#enter(() => this.#call("facts", [this.#allocation(allocationId).remoteId]));
  }

  measure(allocationId: AllocationId, salt?: Uint8Array) {
    const task = () => {
      const { remoteId, byteLength } = this.#allocation(allocationId);
      return this.#call("measure", [remoteId, salt], { byteLength });
    };
    return this.#enter(() => this.#measuring.run(task));
  }

  locate({ source, ...request }: LocateRequest) {
    const task = () => {
      const { remoteId } = this.#allocation(request.allocationId);
      const wire = { ...request, allocationId: remoteId, ...(source?.kind === "path" ? { source } : {}) };
      return this.#call("locate", [wire], { sourcePaced: true });
    };
    return this.#enter(() => this.#measuring.run(task));
  }

  exportMemory(allocationId: AllocationId) {
    return this.#enter(() => this.#call("exportMemory", [this.#allocation(allocationId).remoteId]));
  }

  async free(allocationId: AllocationId, heldBy?: string): Promise<FreeResult> {
    const allocation = this.#allocations.get(allocationId);
    if (allocation === undefined) return { zeroed: false, reason: "it was freed before" };
    this.#allocations.delete(allocationId);
    const { remoteId, byteLength } = allocation;
    try {
      return await this.#call("free", [remoteId, heldBy], { byteLength, blocking: true });
    } catch (thrown) {
      return { zeroed: false, reason: toVramError(thrown).message };
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const byteLength = [...this.#allocations.values()].reduce((sum, allocation) => sum + allocation.byteLength, 0);
    try {
      await this.#call("close", [], { byteLength, blocking: true });
    } catch {
      // It is lost, and what it held with it.
    }
    await this.#link.end();
  }
}

/**
 * Starts a process and opens the device in it. Rejects as opening it here would, with `DEVICE_BUSY` if another process
 * has it, and with `DEVICE_LOST` or `DEVICE_STALLED` if the process ends or does not answer; then there is none.
 */
export async function openRemoteDevice(options: RemoteDeviceOptions): Promise<RemoteDevice> {
  const { backend, library, uuid, runtimeDir, libraryPath, byteLength, hashThreads } = options;
  const request: OpenRequest = {
    ...{ backend, uuid, runtimeDir },
    ...(library === undefined ? {} : { library }),
    ...(libraryPath === undefined ? {} : { libraryPath }),
    ...(byteLength === undefined ? {} : { byteLength }),
    ...(hashThreads === undefined ? {} : { hashThreads }),
  };
  const { link, answer } = await openLink(request, options, async (asked) => {
    const info = await asked.open(request);
    if (info.uuid === uuid && info.backend === backend) return info;
    throw new VramError("INTERNAL", `the process opened ${info.uuid} on ${info.backend}, not ${uuid} on ${backend}`);
  });
  return new OpenRemoteDevice({ ...answer, ordinal: options.ordinal ?? answer.ordinal }, link, options);
}
