/**
 * `libcuda.so.1` with its functions bound: one place where statuses become errors, arguments are checked against the
 * width of their C type, and out-parameters have their room. Calls are synchronous and not reentrant, so one room is
 * enough; what it holds is read before the next call.
 */
import { requireInteger } from "../../assert.ts";
import { VramError } from "../../errors.ts";
import {
  allocateNative,
  type Bound,
  type NativeArgument,
  type NativeMemory,
  openLibrary,
  symbolOf,
} from "../../ffi/library.ts";
import { cudaError, STATUS } from "../status.ts";
import { DRIVER_PROTOTYPES, type DriverCall } from "./prototypes.ts";
import { refusedInit, tooOld, untoldVersion } from "./refusals.ts";

/** CUDA 11.4 (R470): the first driver with all symbols of the table, `cuDeviceGetUuid_v2` last. */
export const MIN_DRIVER_VERSION = 11040;

const OUT_BYTES = 64;
/** One for the process: native memory is never freed, and no two calls overlap. */
let outRoom: NativeMemory | undefined;

export interface DriverLibrary {
  /** cuDriverGetVersion: 13000 is CUDA 13.0. */
  readonly version: number;
  /** Calls, and throws what `status.ts` makes of any answer but success. */
  call(name: DriverCall, ...args: readonly NativeArgument[]): void;
  /** Calls, and returns the status. */
  status(name: DriverCall, ...args: readonly NativeArgument[]): number;
  /** The error for a status of `name`. */
  error(name: DriverCall, status: number): VramError;
  /** Room for out-parameters: 64 bytes. */
  readonly out: DataView;
  /** The same room from byte `offset` on, zeroed: what a call is given. */
  room(offset?: number): Uint8Array;
}

/** A C `size_t`: a number of bytes. */
export const size = (bytes: number): number => requireInteger(bytes, "a size", 0, Number.MAX_SAFE_INTEGER);
/** A C `int`. */
export const int = (value: number): number => requireInteger(value, "an int", -(2 ** 31), 2 ** 31 - 1);
/** A C `unsigned char`. */
export const u8 = (value: number): number => requireInteger(value, "an unsigned char", 0, 2 ** 8 - 1);
/** A C `unsigned int`. */
export const u32 = (value: number): number => requireInteger(value, "an unsigned int", 0, 2 ** 32 - 1);
/** A handle or address of 8 bytes. */
export function u64(value: bigint): bigint {
  if (BigInt.asUintN(64, value) !== value) throw new VramError("INTERNAL", "a handle does not fit in 64 bits");
  return value;
}

/** A 64-bit count of bytes that the driver reported, as a number. */
export function byteCount(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new VramError("CUDA_FAILED", "the driver reports an absurd size");
  return Number(value);
}

/** Loads the library, checks its age, binds it and initialises it. Throws `DEVICE_UNUSABLE` with the fix. */
export function openDriverLibrary(path: string): DriverLibrary {
  const library = openLibrary(path);
  outRoom ??= allocateNative(OUT_BYTES);
  const memory = outRoom;
  const { init, driverGetVersion } = DRIVER_PROTOTYPES;
  const first = library.bind({ init, driverGetVersion });
  const asked = first.driverGetVersion(memory.bytes);
  const version = asked === STATUS.SUCCESS ? memory.view.getInt32(0, true) : 0;
  if (asked === STATUS.SUCCESS && version < MIN_DRIVER_VERSION) throw tooOld(version, MIN_DRIVER_VERSION);
  const bound: Bound<typeof DRIVER_PROTOTYPES> = library.bind(DRIVER_PROTOTYPES);
  const initialised = bound.init(0);
  if (initialised !== STATUS.SUCCESS) throw refusedInit(initialised);
  if (asked !== STATUS.SUCCESS) throw untoldVersion(asked);

  const error = (name: DriverCall, status: number): VramError => cudaError(symbolOf(DRIVER_PROTOTYPES[name]), status);
  const status: DriverLibrary["status"] = (name, ...args) => bound[name](...args);
  return {
    version,
    status,
    error,
    call: (name, ...args) => {
      const answer = status(name, ...args);
      if (answer !== STATUS.SUCCESS) throw error(name, answer);
    },
    out: memory.view,
    room: (offset = 0) => memory.bytes.subarray(offset).fill(0),
  };
}
