/**
 * The emulated driver: the same calls as `libcuda.so.1`, over host memory. It is the default where there is no GPU,
 * and it is what most tests run on, so it models what finds our bugs rather than what makes them work: dirty memory,
 * effects at execution time, errors that come late and stay, rules about contexts and access. Each file beside this
 * one says what it leaves out. Nothing here says anything about the speed of a GPU.
 *
 * Here the calls on devices and contexts are, and the parts are put together.
 */
import type { CudaDriver } from "../driver.ts";
import type { Context } from "./context.ts";
import { EmulatorLint } from "./lint.ts";
import { memoryCalls } from "./memory-calls.ts";
import { attributeOf, DRIVER_VERSION, type EmulatedDriver, type EmulatedOptions, type Emulation } from "./options.ts";
import { openParts, type Parts } from "./parts.ts";
import { eventCalls, moduleCalls, streamCalls } from "./stream-calls.ts";

function deviceCalls({ enter, device, devices, faults }: Parts): CudaDriver["device"] {
  return {
    count: enter("device.count", () => devices.length),
    get: enter("device.get", (ordinal) => device(ordinal, "device.get").ordinal),
    name: enter("device.name", (cuDevice) => device(cuDevice, "device.name").name),
    uuid: enter("device.uuid", (cuDevice) => device(cuDevice, "device.uuid").spec.uuid),
    totalMemory: enter("device.totalMemory", (cuDevice) => device(cuDevice, "device.totalMemory").spec.byteLength),
    attribute: enter("device.attribute", (cuDevice, attribute) => {
      const value = attributeOf(device(cuDevice, "device.attribute").spec, attribute);
      return faults.deviceAttribute?.(attribute, value) ?? value;
    }),
  };
}

function contextCalls(parts: Parts): CudaDriver["context"] {
  const { enter, device, contexts, allocations } = parts;
  return {
    retainPrimary: enter("context.retainPrimary", (cuDevice) => {
      return contexts.retain(device(cuDevice, "context.retainPrimary").ordinal).cuContext;
    }),
    releasePrimary: enter("context.releasePrimary", (cuDevice) => {
      const gone = contexts.release(device(cuDevice, "context.releasePrimary").ordinal);
      if (gone === undefined) return;
      const ofContext = ({ context }: { readonly context: Context }): boolean => context === gone;
      for (const table of [parts.streams, parts.events, parts.modules, parts.functions]) table.removeWhere(ofContext);
      parts.pinned.freeOf(gone);
    }),
    setCurrent: enter("context.setCurrent", (cuContext) => contexts.setCurrent(cuContext)),
    memoryInfo: enter("context.memoryInfo", () => {
      const { ordinal } = contexts.current("context.memoryInfo");
      const here = device(ordinal, "context.memoryInfo");
      return { bytesFree: allocations.bytesFree(here), bytesTotal: here.spec.byteLength };
    }),
  };
}

function emulationOf(parts: Parts): Emulation {
  const { allocations, space, pinned } = parts;
  return {
    closeExportedFd: (fd) => allocations.closeFd(fd),
    allocations: () =>
      [...allocations.values()].map(({ serial, ordinal, physical }) => ({
        allocation: serial,
        ordinal,
        byteLength: physical.byteLength,
      })),
    storedBytes: () => [...allocations.values()].reduce((sum, { physical }) => sum + physical.storedBytes(), 0),
    live: () => {
      const counts = {
        contexts: parts.contexts.size,
        allocations: [...allocations.values()].length,
        reservations: space.reservations,
        mappings: space.mappings().length,
        fds: allocations.liveFds,
        pinned: pinned.size,
        streams: parts.streams.size,
        events: parts.events.size,
        modules: parts.modules.size,
      };
      return Object.fromEntries(Object.entries(counts).filter(([, count]) => count > 0));
    },
    pendingLint: () => parts.lints.pending(),
  };
}

/** Opens an emulated machine. Devices are numbered as listed. */
export function openEmulatedDriver(options: EmulatedOptions): EmulatedDriver {
  const parts = openParts(options);
  return {
    backend: "emulated",
    version: DRIVER_VERSION,
    device: deviceCalls(parts),
    context: contextCalls(parts),
    memory: memoryCalls(parts),
    stream: streamCalls(parts),
    event: eventCalls(parts),
    module: moduleCalls(parts),
    lint: {
      setExtent: (cuPointer, byteLength) => {
        const mapping = parts.space.find(cuPointer);
        const valid = Number.isSafeInteger(byteLength) && byteLength > 0;
        if (mapping?.start !== cuPointer || !valid || byteLength > mapping.byteLength) {
          throw new EmulatorLint("lint.setExtent: not the start of a mapping that holds so many bytes");
        }
        mapping.allocation.extent = byteLength;
      },
    },
    emulation: emulationOf(parts),
    close: async () => {
      parts.close();
      parts.contexts.endAll();
    },
  };
}
