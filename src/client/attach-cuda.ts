/**
 * Weights in VRAM, as a process reads them that attached: the same memory, mapped on the same GPU and for reading. What it
 * is given is an address of its own process, the one pointer that leaves the border (VR-MEM-07). Loaded only where it is
 * needed, as the driver is.
 */
import { type Backend, CUDA_LIBRARY } from "../cuda/driver.ts";
import { openChecked } from "../cuda/native/driver.ts";
import { type ImportSource, importMemory } from "../cuda/native/import.ts";
import { closedError, type ReleaseFailureReporter } from "../dispose.ts";
import { VramError } from "../errors.ts";

export interface DeviceMemory {
  /** The device address of this byte of the shard, in this process. `CLOSED` when it is closed. */
  addressOf(offset: number): bigint;
  /** Unmaps it. Nothing of this process may read there any more. May be called twice. */
  close(): void;
}

/** What stands behind a library must be what sealed: a stand-in has nothing to do with a GPU's memory, nor it with one. */
function requireBackend(library: string, backend: Backend): void {
  if (backend === (library === CUDA_LIBRARY ? "cuda" : "cuda-substituted")) return;
  throw new VramError("INVALID_ARGUMENT", `the service's backend is ${backend}, and ${library} is no driver for that`, {
    fix: "name with `library` the libcuda that the service uses; none, if it uses the loader's",
    details: { argument: "library", backend },
  });
}

/** Imports an allocation. Takes the driver as the environment has it: the first time that takes seconds. */
export function openDeviceMemory(
  source: ImportSource & { readonly backend: Backend },
  report: ReleaseFailureReporter,
  library: string = CUDA_LIBRARY,
): DeviceMemory {
  requireBackend(library, source.backend);
  const imported = importMemory(openChecked(library), source, report);
  let open = true;
  return {
    addressOf: (offset) => {
      if (!open) throw closedError("the attachment");
      return imported.cuPointer + BigInt(offset);
    },
    close: () => {
      open = false;
      imported.close(report);
    },
  };
}
