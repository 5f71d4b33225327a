/** Options from the environment or a configuration. Apart, so that a command that opens no device loads nothing for one. */
import { requireInteger } from "./assert.ts";
import type { ConfigValues } from "./config/table.ts";
import { VramError } from "./errors.ts";
import type { VramOptions } from "./open.ts";

/**
 * Options the environment gives: `VRAM_BACKEND`, `VRAM_EMULATED_BYTES`, `VRAM_HASH_THREADS`, `VRAM_LIBCUDA` and
 * `VRAM_LIBNVML` (other libraries than the loader's), `LD_LIBRARY_PATH`.
 */
export function optionsFromEnvironment(env: Readonly<Record<string, string | undefined>>): VramOptions {
  const integer = (name: string, max: number): number | undefined => {
    const text = env[name];
    if (text === undefined || text === "") return undefined;
    if (!/^\d+$/.test(text)) throw new VramError("INVALID_ARGUMENT", `${name} must be a whole number`);
    return requireInteger(Number(text), name, 0, max);
  };
  const backend = env["VRAM_BACKEND"];
  if (backend !== undefined && backend !== "" && backend !== "auto" && backend !== "cuda" && backend !== "emulated") {
    throw new VramError("INVALID_ARGUMENT", "VRAM_BACKEND must be auto, cuda or emulated");
  }
  const byteLength = integer("VRAM_EMULATED_BYTES", Number.MAX_SAFE_INTEGER);
  const named = (name: string): string | undefined => (env[name] === "" ? undefined : env[name]);
  const cudaLibrary = named("VRAM_LIBCUDA");
  const nvmlLibrary = named("VRAM_LIBNVML");
  const hashThreads = integer("VRAM_HASH_THREADS", 256);
  const libraryPath = env["LD_LIBRARY_PATH"];
  return {
    ...(libraryPath === undefined ? {} : { libraryPath }),
    ...(cudaLibrary === undefined ? {} : { cudaLibrary }),
    ...(nvmlLibrary === undefined ? {} : { nvmlLibrary }),
    ...(backend === undefined || backend === "" ? {} : { backend }),
    ...(byteLength === undefined ? {} : { emulated: { byteLength } }),
    ...(hashThreads === undefined ? {} : { hashThreads }),
  };
}

/** Options a configuration gives. Which devices are used, and by whom, is the service's to say. */
export function optionsFromConfig(
  values: ConfigValues,
  env: Readonly<Record<string, string | undefined>>,
): VramOptions {
  const { backend, requireGpu, allowMps, onMismatch, maxModelBytes } = values;
  const { stateDir, modelRoots, headroomBytes, hashThreads, libcuda, libnvml } = values;
  const libraryPath = env["LD_LIBRARY_PATH"];
  return {
    ...{ backend, requireGpu, allowMps, onMismatch, maxModelBytes },
    emulated: { devices: values["emulated.devices"], byteLength: values["emulated.bytes"] },
    audit: {
      mode: values["audit.mode"],
      retentionDays: values["audit.retentionDays"],
      maxBytes: values["audit.maxBytes"],
    },
    ...(stateDir === undefined ? {} : { stateDir }),
    ...(modelRoots === undefined ? {} : { modelRoots }),
    ...(headroomBytes === undefined ? {} : { headroomBytes }),
    ...(hashThreads === undefined ? {} : { hashThreads }),
    ...(libcuda === undefined ? {} : { cudaLibrary: libcuda }),
    ...(libnvml === undefined ? {} : { nvmlLibrary: libnvml }),
    ...(libraryPath === undefined ? {} : { libraryPath }),
  };
}

/**
 * Sets what the CUDA driver reads when it is loaded, in this process's environment (design §7): no JIT cache, which any
 * process of the same user could write to; and modules loaded when they are asked for, not at their first launch.
 * Only the main thread's environment reaches the driver.
 */
export function prepareForCuda(env: Record<string, string | undefined>): void {
  env["CUDA_CACHE_DISABLE"] = "1";
  env["CUDA_MODULE_LOADING"] = "EAGER";
}
