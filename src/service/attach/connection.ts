/**
 * One connection to the attach socket: a request, its reply with the descriptor, then presence. The end of the connection
 * is the end of the export, however it comes about. A peer that says too much, too little or nothing is ended; what was
 * taken for it is given back.
 */
import { closeSync } from "node:fs";
import type { Socket } from "node:net";
import { toVramError, VramError } from "../../errors.ts";
import { sendWithDescriptor } from "../../ffi/passing.ts";
import { LIMITS } from "../../limits.ts";
import { parseJson, requireShape } from "../http/body.ts";
import { refusal } from "../http/problem.ts";
import type { Attached } from "./attaching.ts";
import {
  type AttachReply,
  type AttachRequest,
  attachRequest,
  createMessageReader,
  encodeMessage,
  PROTOCOL_VERSION,
} from "./protocol.ts";

/** As much as one `sendmsg` is given. */
const FIRST_BYTES = 32 * 1024;

/** The descriptor of a socket of Node's; −1 when it is gone. */
export const descriptorOf = (socket: Socket): number =>
  (socket as { readonly _handle?: { readonly fd?: number } | null })._handle?.fd ?? -1;

/** The one request of a connection. Rejects for anything else, and when none comes in time. */
export function readRequest(socket: Socket): Promise<AttachRequest> {
  const reader = createMessageReader(LIMITS.attachRequestBytes, parseJson);
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      socket.off("data", take).off("end", leave).off("close", leave).pause();
    };
    const fail = (error: unknown): void => {
      stop();
      reject(toVramError(error));
    };
    const leave = (): void => {
      if (reader.pending === 0) fail(new VramError("ABORTED", "the caller went away before it asked for anything"));
      else fail(refusal(400, "the request ends in its middle"));
    };
    const take = (bytes: Buffer): void => {
      try {
        const [first, second] = reader.push(bytes);
        if (first === undefined) return;
        if (second !== undefined || reader.pending > 0) throw refusal(400, "a connection has one request");
        const request = requireShape(attachRequest, first, "the request");
        stop();
        resolve(request);
      } catch (error) {
        fail(error);
      }
    };
    const timer = setTimeout(
      () => fail(refusal(408, "the request took too long to arrive")),
      LIMITS.attachRequestMs,
    ).unref();
    socket.on("data", take).on("end", leave).on("close", leave);
  });
}

/** Sends the reply, and the descriptor with its first byte. Throws if the peer is gone; the descriptor is closed. */
export function sendGranted(socket: Socket, { granted, descriptor }: Attached): void {
  try {
    const message = encodeMessage(granted);
    const first = message.subarray(0, FIRST_BYTES);
    const sent = sendWithDescriptor(descriptorOf(socket), first, descriptor);
    // Nothing was written before: an empty buffer takes at least a byte.
    if (sent === 0) throw new VramError("ABORTED", "the caller takes no reply");
    const rest = message.subarray(sent);
    if (rest.byteLength > 0) socket.write(rest);
  } finally {
    closeSync(descriptor);
  }
}

/**
 * Tells a peer that it is refused, and sees it off: what it still sends is thrown away for a while, so that it reads the
 * refusal, and then the connection ends, whatever the peer does. Resolves when it has.
 */
export function refusePeer(socket: Socket, refused: AttachReply): Promise<void> {
  return new Promise((resolve) => {
    let discarded = 0;
    const timer = setTimeout(() => socket.destroy(), LIMITS.serviceDiscardMs);
    socket.once("close", () => {
      clearTimeout(timer);
      resolve();
    });
    socket.on("data", ({ byteLength }: Buffer) => {
      discarded += byteLength;
      if (discarded > LIMITS.serviceDiscardBytes) socket.destroy();
    });
    if (socket.writable) socket.end(encodeMessage(refused));
    else socket.destroy();
    socket.resume();
    // No event tells of what was over before.
    if (socket.closed) socket.emit("close");
  });
}

/** Ends a peer that takes nothing of what it was sent for so long. */
export function endWhenStalled(socket: Socket, stallMs: number): void {
  if (socket.writableLength === 0) return;
  socket.setTimeout(stallMs, () => socket.destroy());
  socket.once("drain", () => socket.setTimeout(0));
}

/** Watches a peer that has its reply; `onEnd` is called once. It has nothing more to say: whatever comes ends it. */
export function watchPeer(socket: Socket, attached: Attached, onEnd: () => void): void {
  socket.once("close", onEnd);
  socket.once("end", () => socket.destroy());
  socket.on("data", () => socket.destroy());
  attached.onLeaseEnd((because) => {
    const { leaseId } = attached.granted.lease;
    if (!socket.writable) return;
    socket.write(encodeMessage({ v: PROTOCOL_VERSION, event: "lease_ended", leaseId, because }));
  });
  if (socket.destroyed) onEnd();
  else socket.resume();
}
