/**
 * The calls on streams, events and modules. All but `event.query` need a current context, and an object of another
 * one is refused. Real drivers take a copy on a stream of another context; here it is INVALID_CONTEXT, because it is
 * never what we mean.
 */
import type { CudaDriver } from "../driver.ts";
import { HASH_KERNEL } from "../kernel-abi.ts";
import { cudaError, STATUS } from "../status.ts";
import { holdReferences } from "./access.ts";
import { type Context, isLive } from "./context.ts";
import { holdLaunch, isEmulatedImage, readLaunch, runHashKernel } from "./kernels.ts";
import type { Parts } from "./parts.ts";
import { openStream, queryMarker, recordMarker, type Stream } from "./queue.ts";
import type { HandleTable } from "./table.ts";

interface OfContext {
  readonly context: Context;
}

/** The object, provided it belongs to the current context. */
function own<T extends OfContext>(parts: Parts, table: HandleTable<T>, handle: bigint, call: string): T {
  const context = parts.contexts.current(call);
  const value = table.get(handle, call);
  if (value.context !== context) throw cudaError(call, STATUS.INVALID_CONTEXT);
  return value;
}

function requireLength(byteLength: number, call: string): void {
  if (!Number.isSafeInteger(byteLength) || byteLength <= 0) throw cudaError(call, STATUS.INVALID_VALUE);
}

type Transfers = Pick<CudaDriver["stream"], "copyToDevice" | "copyToHost" | "fill">;

function transferCalls(parts: Parts): Transfers {
  const { enter, access, pinned, streams } = parts;
  const streamFor = (cuStream: bigint, byteLength: number, call: string): Stream => {
    const stream = own(parts, streams, cuStream, call);
    requireLength(byteLength, call);
    return stream;
  };
  return {
    copyToDevice: enter("stream.copyToDevice", (cuStream, cuTo, cuFrom, byteLength) => {
      const stream = streamFor(cuStream, byteLength, "stream.copyToDevice");
      const block = pinned.require(cuFrom, byteLength, "stream.copyToDevice");
      const settle = holdReferences([block, access.expect(cuTo, byteLength, "stream.copyToDevice")]);
      const at = Number(cuFrom - block.start);
      const run = (): void => {
        const { physical, offset } = access.reach(cuTo, byteLength, stream.context.ordinal, "readWrite");
        physical.write(offset, block.bytes.subarray(at, at + byteLength));
      };
      stream.enqueue({ kind: "copyToDevice", run, settle });
    }),
    copyToHost: enter("stream.copyToHost", (cuStream, cuTo, cuFrom, byteLength) => {
      const stream = streamFor(cuStream, byteLength, "stream.copyToHost");
      const block = pinned.require(cuTo, byteLength, "stream.copyToHost");
      const settle = holdReferences([block, access.expect(cuFrom, byteLength, "stream.copyToHost")]);
      const at = Number(cuTo - block.start);
      const run = (): void => {
        const { physical, offset } = access.reach(cuFrom, byteLength, stream.context.ordinal, "read");
        physical.read(offset, block.bytes.subarray(at, at + byteLength));
      };
      stream.enqueue({ kind: "copyToHost", run, settle });
    }),
    fill: enter("stream.fill", (cuStream, cuTo, value, byteLength) => {
      const stream = streamFor(cuStream, byteLength, "stream.fill");
      const isByte = Number.isInteger(value) && value >= 0 && value <= 0xff;
      if (!isByte) throw cudaError("stream.fill", STATUS.INVALID_VALUE);
      const settle = holdReferences([access.expect(cuTo, byteLength, "stream.fill")]);
      const run = (): void => {
        const { physical, offset } = access.reach(cuTo, byteLength, stream.context.ordinal, "readWrite");
        physical.fill(offset, value, byteLength);
      };
      stream.enqueue({ kind: "fill", run, settle });
    }),
  };
}

export function streamCalls(parts: Parts): CudaDriver["stream"] {
  const { enter, contexts, streams, functions, execution, access, lints, pool } = parts;
  return {
    ...transferCalls(parts),
    create: enter("stream.create", () => streams.add(openStream(contexts.current("stream.create"), execution))),
    destroy: enter("stream.destroy", (cuStream) => {
      own(parts, streams, cuStream, "stream.destroy");
      streams.remove(cuStream, "stream.destroy").retire();
    }),
    launch: enter("stream.launch", (cuStream, cuFunction, launch) => {
      const stream = own(parts, streams, cuStream, "stream.launch");
      const { context } = stream;
      if (functions.get(cuFunction, "stream.launch").context !== context) {
        throw cudaError("stream.launch", STATUS.INVALID_HANDLE);
      }
      const hashLaunch = readLaunch(launch);
      const settle = holdLaunch(hashLaunch, access);
      const environment = { access, lints, pool, ordinal: context.ordinal, isLive: () => isLive(context) };
      stream.enqueue({ kind: "launch", run: () => runHashKernel(hashLaunch, environment), settle });
    }),
  };
}

export function eventCalls(parts: Parts): CudaDriver["event"] {
  const { enter, contexts, events, streams } = parts;
  return {
    create: enter("event.create", () => {
      return events.add({ context: contexts.current("event.create"), latest: undefined });
    }),
    destroy: enter("event.destroy", (cuEvent) => {
      own(parts, events, cuEvent, "event.destroy");
      events.remove(cuEvent, "event.destroy");
    }),
    record: enter("event.record", (cuEvent, cuStream) => {
      const stream = own(parts, streams, cuStream, "event.record");
      const marker = events.get(cuEvent, "event.record");
      if (marker.context !== stream.context) throw cudaError("event.record", STATUS.INVALID_HANDLE);
      recordMarker(marker, stream);
    }),
    query: enter("event.query", (cuEvent) => queryMarker(events.get(cuEvent, "event.query"))),
  };
}

export function moduleCalls(parts: Parts): CudaDriver["module"] {
  const { enter, contexts, modules, functions } = parts;
  return {
    load: enter("module.load", (image) => {
      const context = contexts.current("module.load");
      if (!isEmulatedImage(image)) throw cudaError("module.load", STATUS.INVALID_PTX);
      return modules.add({ context });
    }),
    unload: enter("module.unload", (cuModule) => {
      own(parts, modules, cuModule, "module.unload");
      modules.remove(cuModule, "module.unload");
      functions.removeWhere((loaded) => loaded.cuModule === cuModule);
    }),
    getFunction: enter("module.getFunction", (cuModule, name) => {
      const { context } = own(parts, modules, cuModule, "module.getFunction");
      if (name !== HASH_KERNEL) throw cudaError("module.getFunction", STATUS.NOT_FOUND);
      return functions.add({ context, cuModule });
    }),
  };
}
