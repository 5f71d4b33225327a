/**
 * What the process of a device does with what it is told: calls become calls of the device it has, answers go back. It
 * decides nothing. Whatever was not agreed ends the process: it is cheaper to start another than to guess.
 */
import type { Device, UploadWatch } from "../device/device.ts";
import { toVramError, VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { SourceSpec } from "../source/source.ts";
import type { Channel } from "./channel.ts";
import { fromWire, toWire } from "./checks.ts";
import {
  type Call,
  type CallArguments,
  type Method,
  RELEASES,
  type Reply,
  type Request,
  type WireResult,
  type WireSource,
} from "./protocol.ts";

/** What stands behind a call beside its arguments. */
interface CallWatch extends UploadWatch {
  readonly signal: AbortSignal;
  /** The source that was named. */
  readonly sourceOf: (source: WireSource) => SourceSpec;
  /** Ends the device and all that was opened with it. */
  readonly close: () => Promise<void>;
  /** Hands a descriptor to the other side, and closes it here. */
  readonly sendDescriptor: (descriptor: number) => void;
}

/** Each method, called. */
const DISPATCH: {
  readonly [K in Method]: (device: Device, args: CallArguments[K], watch: CallWatch) => Promise<WireResult<K>>;
} = {
  memory: (device) => device.memory(),
  health: (device) => device.health(),
  evidence: (device, [nonce]) => device.evidence(nonce),
  openSource: (device, [source, options], { sourceOf, signal }) => device.openSource(sourceOf(source), options, signal),
  closeSource: (device, [sourceId]) => device.closeSource(sourceId),
  allocate: (device, [byteLength]) => device.allocate(byteLength),
  upload: (device, [request], watch) => device.upload(request, watch),
  digestSource: (device, [sourceId, sha256], watch) => device.digestSource(sourceId, sha256, watch),
  facts: (device, [allocationId]) => device.facts(allocationId),
  measure: (device, [allocationId, salt]) => device.measure(allocationId, salt),
  locate: (device, [request]) => device.locate(request),
  exportMemory: async (device, [allocationId], { sendDescriptor }) => {
    const { descriptor, byteLength } = await device.exportMemory(allocationId);
    sendDescriptor(descriptor);
    return { byteLength };
  },
  free: (device, [allocationId, heldBy]) => device.free(allocationId, heldBy),
  close: (_device, _args, { close }) => close(),
};

/** The caller's streams, pulled from the other side a piece at a time. */
function openPulls(send: (reply: Reply) => void) {
  interface Puller {
    resolve(result: IteratorResult<Uint8Array, undefined>): void;
    reject(error: Error): void;
  }
  const pulling = new Map<number, Puller>();
  const take = (streamId: number): Puller | undefined => {
    const puller = pulling.get(streamId);
    pulling.delete(streamId);
    return puller;
  };
  return {
    open: (streamId: number): AsyncIterable<Uint8Array> => ({
      [Symbol.asyncIterator]: () => ({
        next: () =>
          new Promise<IteratorResult<Uint8Array, undefined>>((resolve, reject) => {
            pulling.set(streamId, { resolve, reject });
            send({ kind: "pull", streamId });
          }),
        return: async () => {
          send({ kind: "drop", streamId });
          return { done: true, value: undefined };
        },
      }),
    }),
    /** What comes for a pull that nobody waits for any more was on its way when it was given up. */
    onChunk: (streamId: number, bytes: Uint8Array | undefined): void =>
      take(streamId)?.resolve(bytes === undefined ? { done: true, value: undefined } : { done: false, value: bytes }),
    onBroken: (streamId: number, error: Error): void => take(streamId)?.reject(error),
  };
}

export interface ServedDevice {
  readonly device: Device;
  /** Closes it and all that was opened with it. Never rejects. */
  readonly close: () => Promise<void>;
}

/** Sends a failure; without its details if they have no clone. */
function sendFailure(send: (reply: Reply) => void, id: number, thrown: unknown): void {
  const error = toWire(toVramError(thrown));
  try {
    send({ kind: "failure", id, error });
  } catch {
    send({ kind: "failure", id, error: { ...error, details: {} } });
  }
}

/**
 * Serves a device: the function returned takes every request but the one to open it, and throws `INTERNAL` for what was
 * not agreed. `onLost` is called when the device is lost and every answer that was ready has been sent;
 * `sendDescriptor` before the call that it belongs to is answered.
 */
export function serveDevice(
  { device, close }: ServedDevice,
  channel: Channel,
  onLost: () => void,
  sendDescriptor: (callId: number, descriptor: number) => void,
): (request: Request) => void {
  const send = (reply: Reply): void => channel.send(reply);
  const calls = new Map<number, { readonly method: Method; readonly abort: AbortController }>();
  const pulls = openPulls(send);
  const sourceOf = (source: WireSource): SourceSpec => {
    if (source.kind === "path") return source;
    return { kind: "chunks", chunks: pulls.open(source.streamId), byteLength: source.byteLength, name: source.name };
  };
  device.onLost((error) => {
    send({ kind: "lost", error: toWire(error) });
    // The call that it came from is answered within this turn; what else is under way is not waited for.
    setImmediate(() => void channel.flush().then(onLost));
  });

  const run = async <K extends Method>(method: K, args: CallArguments[K], id: number, abort: AbortController) => {
    const onProgress = (bytesDone: number): void => send({ kind: "progress", id, bytesDone });
    try {
      const watch: CallWatch = {
        ...{ signal: abort.signal, onProgress, sourceOf, close },
        sendDescriptor: (descriptor) => sendDescriptor(id, descriptor),
      };
      const value = await DISPATCH[method](device, args, watch);
      calls.delete(id);
      send({ kind: "result", id, value });
    } catch (thrown) {
      calls.delete(id);
      sendFailure(send, id, thrown);
    }
  };
  const start = ({ id, method, args }: Call): void => {
    const waiting = [...calls.values()].filter((call) => !RELEASES.has(call.method));
    if (calls.has(id) || (!RELEASES.has(method) && waiting.length >= LIMITS.deviceCallsInFlight)) {
      throw new VramError("INTERNAL", `call ${id} is one too many`);
    }
    const abort = new AbortController();
    calls.set(id, { method, abort });
    void run(method, args, id, abort);
  };

  return (request) => {
    switch (request.kind) {
      case "open":
      case "list":
        throw new VramError("INTERNAL", "a device's process opens one device");
      case "call":
        start(request);
        break;
      case "abort":
        // It may have ended meanwhile.
        calls.get(request.id)?.abort.abort();
        break;
      case "ping":
        send({ kind: "pong", id: request.id });
        break;
      case "chunk":
        pulls.onChunk(request.streamId, request.bytes);
        break;
      case "broken":
        pulls.onBroken(
          request.streamId,
          request.error === undefined ? new Error("the stream failed") : fromWire(request.error),
        );
        break;
    }
  };
}
