/**
 * The native driver: `CudaDriver` over `libcuda.so.1`, no toolkit and no compiler needed. Plain synchronous calls on
 * the main thread; nothing here waits for the device. Each file beside this one holds one group of calls; here they
 * are put together, and what cannot start is refused in words.
 */
import { toVramError, type VramError } from "../../errors.ts";
import { CUDA_LIBRARY, type CudaDriver } from "../driver.ts";
import { contextCalls, deviceCalls } from "./device.ts";
import { type DriverLibrary, openDriverLibrary } from "./library.ts";
import { memoryCalls } from "./memory.ts";
import { moduleCalls } from "./module.ts";
import { lacksSymbols, notLoadable } from "./refusals.ts";
import { eventCalls, streamCalls } from "./stream.ts";

function explain(error: VramError, path: string): VramError {
  if (error.code !== "DEVICE_UNUSABLE") return error;
  if ("symbols" in error.details) return lacksSymbols(error, path);
  return "missing" in error.details ? notLoadable(error, path) : error;
}

/** The library alone, loaded and initialised. Throws `DEVICE_UNUSABLE` with the fix. */
export function openChecked(path: string): DriverLibrary {
  try {
    return openDriverLibrary(path);
  } catch (thrown) {
    throw explain(toVramError(thrown), path);
  }
}

/**
 * Opens the driver in `library` (default: the loader's `libcuda.so.1`; any other is `cuda-substituted`). Throws
 * `DEVICE_UNUSABLE` with the fix.
 */
export function openNativeDriver(library: string = CUDA_LIBRARY): CudaDriver {
  const cu = openChecked(library);
  return {
    backend: library === CUDA_LIBRARY ? "cuda" : "cuda-substituted",
    version: cu.version,
    device: deviceCalls(cu),
    context: contextCalls(cu),
    memory: memoryCalls(cu),
    stream: streamCalls(cu),
    event: eventCalls(cu),
    module: moduleCalls(cu),
    // The library stays loaded: drivers do not survive unloading.
    close: async () => undefined,
  };
}
