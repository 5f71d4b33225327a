/**
 * The fake libcuda without a driver around it: bare calls with out-parameters made easy, for tests that judge the fake
 * itself, and for those that need to see what the driver left behind.
 */
import { DRIVER_PROTOTYPES } from "../../src/cuda/native/prototypes.ts";
import { allocateNative, openLibrary } from "../../src/ffi/library.ts";
import { configureFakeCuda } from "./fake-cuda.ts";

/** What the fake has and the driver does not bind. */
const MORE_PROTOTYPES = {
  setFlags: "int cuDevicePrimaryCtxSetFlags_v2(int device, uint32_t flags)",
  funcGetAttribute: "int cuFuncGetAttribute(void *value, int attribute, uint64_t function)",
  getErrorName: "int cuGetErrorName(int error, void *name)",
};

/** A module with the two entries that the fake can run. */
export const PTX = [
  ".version 6.3",
  ".target sm_75",
  ".address_size 64",
  ".visible .entry vram_hash_blocks(.param .u64 a)",
  "{ ret; }",
  ".visible .entry vram_probe_store(.param .u64 a)",
  "{ ret; }",
].join("\n");

/** Most devices the fake can have. */
const DEVICES_MAX = 8;

const words = (...values: number[]): Uint8Array => new Uint8Array(Int32Array.from(values).buffer);

/** `CUmemAllocationProp`: pinned, shareable by fd, on the device. */
const properties = (device: number): Uint8Array => words(1, 1, 1, device, 0, 0, 0, 0);

function must(what: string, status: number): void {
  if (status !== 0) throw new Error(`${what}: ${status}`);
}

export type BareFake = ReturnType<typeof openFake>;

/** Loads the fake, and calls cuInit under these settings; `started` is what that answered. */
export function openFake(path: string, settings: Readonly<Record<string, string | number>> = {}) {
  configureFakeCuda(settings);
  const cu = openLibrary(path).bind({ ...DRIVER_PROTOTYPES, ...MORE_PROTOTYPES });
  const { bytes, view } = allocateNative(64);
  const started = cu.init(0);

  /** A call that writes 8 bytes to its first argument: those bytes. */
  const ask = (call: keyof typeof cu, ...args: (number | bigint | Uint8Array)[]): bigint => {
    bytes.fill(0);
    must(call, cu[call](bytes, ...args));
    return view.getBigUint64(0, true);
  };
  /** Launches an entry of `PTX` on the default stream; parameters as they lie in memory, 8 bytes each. */
  const launch = (name: string, parameters: readonly bigint[], grid = 1, block = 32): number => {
    const module = ask("moduleLoadDataEx", Buffer.from(`${PTX}\0`), 0, new Uint8Array(8), new Uint8Array(8));
    const entry = ask("moduleGetFunction", module, Buffer.from(`${name}\0`));
    const room = allocateNative(parameters.length * 16 + 8);
    parameters.forEach((value, index) => {
      room.view.setBigUint64(index * 8, value, true);
      room.view.setBigUint64((parameters.length + index) * 8, room.address + BigInt(index * 8), true);
    });
    const table = room.address + BigInt(parameters.length * 8);
    return cu.launchKernel(entry, grid, 1, 1, block, 1, 1, 0, 0n, table, 0n);
  };
  return {
    cu,
    started,
    ask,
    launch,
    properties,
    /** Makes the device's primary context current. */
    retain: (device = 0): void => must("ctxSetCurrent", cu.ctxSetCurrent(ask("primaryCtxRetain", device))),
    create: (byteLength: number, device = 0): bigint => ask("memCreate", byteLength, properties(device), 0n),
    /** Maps a handle at an address range of its own. */
    map: (handle: bigint, byteLength: number, flags: number, device = 0): bigint => {
      const address = ask("memAddressReserve", byteLength, 0, 0n, 0n);
      must("memMap", cu.memMap(address, byteLength, 0, handle, 0n));
      must("memSetAccess", cu.memSetAccess(address, byteLength, words(1, device, flags), 1));
      return address;
    },
    /** Undoes `map` and releases the handle. */
    unmap: (address: bigint, byteLength: number, handle: bigint): void => {
      must("memUnmap", cu.memUnmap(address, byteLength));
      must("memAddressFree", cu.memAddressFree(address, byteLength));
      must("memRelease", cu.memRelease(handle));
    },
    info: (): { free: number; total: number } => {
      must("memGetInfo", cu.memGetInfo(bytes, bytes.subarray(8)));
      return { free: Number(view.getBigUint64(0, true)), total: Number(view.getBigUint64(8, true)) };
    },
    /** Ends what a test began: contexts, a dead one too. */
    end: (): void => {
      configureFakeCuda({ DEVICES: DEVICES_MAX });
      must("init", cu.init(0));
      must("ctxSetCurrent", cu.ctxSetCurrent(0n));
      for (let device = 0; device < DEVICES_MAX; device += 1) while (cu.primaryCtxRelease(device) === 0);
    },
  };
}
