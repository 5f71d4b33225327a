/** Calls on streams and events: cuda.h's "Stream Management", "Event Management", asynchronous copies and launches. */
import { assert } from "../../assert.ts";
import { allocateNative, type NativeMemory } from "../../ffi/library.ts";
import type { CudaDriver, KernelParameter } from "../driver.ts";
import { STATUS } from "../status.ts";
import { type DriverLibrary, size, u8, u32, u64 } from "./library.ts";

const STREAM_NON_BLOCKING = 1;
const EVENT_DISABLE_TIMING = 2;
const PARAMETERS_MAX = 16;
/** One for the process, like every native memory here. */
let parameterMemory: NativeMemory | undefined;

/**
 * Room for kernel parameters: 8 bytes a value, then the table of their addresses that `cuLaunchKernel` takes. The
 * driver copies the values before it returns.
 */
function parameterRoom(): (parameters: readonly KernelParameter[]) => bigint {
  parameterMemory ??= allocateNative(PARAMETERS_MAX * 16);
  const { address, view } = parameterMemory;
  const tableAt = PARAMETERS_MAX * 8;
  for (let index = 0; index < PARAMETERS_MAX; index += 1) {
    view.setBigUint64(tableAt + index * 8, address + BigInt(index * 8), true);
  }
  return (parameters) => {
    assert(parameters.length <= PARAMETERS_MAX, `a kernel takes at most ${PARAMETERS_MAX} parameters here`);
    parameters.forEach((parameter, index) => {
      if (parameter.kind === "u64") view.setBigUint64(index * 8, u64(parameter.value), true);
      else view.setUint32(index * 8, u32(parameter.value), true);
    });
    return address + BigInt(tableAt);
  };
}

/** The `stream` calls. Host addresses are of pinned memory: copies from anything else would not be asynchronous. */
export function streamCalls(cu: DriverLibrary): CudaDriver["stream"] {
  const place = parameterRoom();
  return {
    create: () => {
      cu.call("streamCreate", cu.room(), STREAM_NON_BLOCKING);
      return cu.out.getBigUint64(0, true);
    },
    destroy: (cuStream) => cu.call("streamDestroy", u64(cuStream)),
    copyToDevice: (cuStream, cuTo, cuFrom, byteLength) =>
      cu.call("memcpyHtoDAsync", u64(cuTo), u64(cuFrom), size(byteLength), u64(cuStream)),
    copyToHost: (cuStream, cuTo, cuFrom, byteLength) =>
      cu.call("memcpyDtoHAsync", u64(cuTo), u64(cuFrom), size(byteLength), u64(cuStream)),
    fill: (cuStream, cuTo, value, byteLength) =>
      cu.call("memsetD8Async", u64(cuTo), u8(value), size(byteLength), u64(cuStream)),
    launch: (cuStream, cuFunction, { gridX, blockX, parameters }) => {
      const table = place(parameters);
      cu.call("launchKernel", u64(cuFunction), u32(gridX), 1, 1, u32(blockX), 1, 1, 0, u64(cuStream), table, 0n);
    },
  };
}

/** The `event` calls. */
export function eventCalls(cu: DriverLibrary): CudaDriver["event"] {
  return {
    create: () => {
      cu.call("eventCreate", cu.room(), EVENT_DISABLE_TIMING);
      return cu.out.getBigUint64(0, true);
    },
    destroy: (cuEvent) => cu.call("eventDestroy", u64(cuEvent)),
    record: (cuEvent, cuStream) => cu.call("eventRecord", u64(cuEvent), u64(cuStream)),
    query: (cuEvent) => {
      const status = cu.status("eventQuery", u64(cuEvent));
      if (status === STATUS.SUCCESS) return "complete";
      if (status === STATUS.NOT_READY) return "not-ready";
      throw cu.error("eventQuery", status);
    },
  };
}
