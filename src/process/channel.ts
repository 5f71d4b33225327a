/**
 * Messages over a pair of sockets between a device's process and the service: a length (u32, little-endian), then the
 * structured clone of one value. Node's own channel to a child is not used: a process that writes garbage into it ends
 * its parent, in a callback that nobody can catch (measured, Node 20). Here whatever arrives ends the channel at most.
 */
import type { Duplex } from "node:stream";
import v8 from "node:v8";
import { toVramError, VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";

const LENGTH_BYTES = 4;

export interface ChannelEvents {
  /** What arrived, unchecked. What it throws ends the channel as what cannot be read does. */
  readonly onMessage: (message: unknown) => void;
  /** Told once, when nothing arrives any more; why, if it was not the other side that ended it. */
  readonly onEnd: (fault?: VramError) => void;
}

export interface Channel {
  /** Sends a value that can be cloned; nothing once the channel has ended. `INTERNAL` if it is too large or has no clone. */
  send(message: unknown): void;
  /** Resolves when all that was sent has been handed to the kernel, or cannot be any more. */
  flush(): Promise<void>;
  /** Ends it without a word. May be called twice. */
  close(): void;
}

/** Puts frames together from what arrives. Never holds more than one frame and what came with its end. */
function openReader(onFrame: (frame: Uint8Array) => void) {
  let pieces: Buffer[] = [];
  let held = 0;
  let wanted = LENGTH_BYTES;
  let inFrame = false;
  const take = (byteLength: number): Uint8Array => {
    const all = Buffer.concat(pieces, held);
    pieces = byteLength === held ? [] : [all.subarray(byteLength)];
    held -= byteLength;
    return all.subarray(0, byteLength);
  };
  return (chunk: Buffer): void => {
    pieces.push(chunk);
    held += chunk.byteLength;
    while (held >= wanted) {
      const part = take(wanted);
      if (inFrame) {
        wanted = LENGTH_BYTES;
        inFrame = false;
        // A copy with memory of its own: what is read from it may be kept for long.
        onFrame(new Uint8Array(part));
        continue;
      }
      wanted = new DataView(part.buffer, part.byteOffset).getUint32(0, true);
      inFrame = true;
      if (wanted === 0 || wanted > LIMITS.deviceMessageBytes) {
        throw new VramError("INTERNAL", `a message of ${wanted} bytes; at most ${LIMITS.deviceMessageBytes} are taken`);
      }
    }
  };
}

function encode(message: unknown): Buffer {
  let body: Buffer;
  try {
    body = v8.serialize(message);
  } catch (cause) {
    throw new VramError("INTERNAL", "a message has a part that cannot be sent", { cause });
  }
  if (body.byteLength > LIMITS.deviceMessageBytes) {
    const { deviceMessageBytes } = LIMITS;
    throw new VramError("INTERNAL", `a message of ${body.byteLength} bytes; at most ${deviceMessageBytes} are sent`);
  }
  return body;
}

/** A channel over a connected socket, which it closes. */
export function openChannel(socket: Duplex, { onMessage, onEnd }: ChannelEvents): Channel {
  let ended = false;
  let flushed = Promise.resolve();
  const end = (fault?: VramError): void => {
    if (ended) return;
    ended = true;
    socket.destroy();
    onEnd(fault);
  };
  const read = openReader((frame) => {
    if (!ended) onMessage(v8.deserialize(frame));
  });
  socket.on("data", (chunk: Buffer) => {
    try {
      if (!ended) read(chunk);
    } catch (thrown) {
      end(toVramError(thrown));
    }
  });
  socket.on("end", () => end());
  socket.on("close", () => end());
  // It is closed after that: by its own account a socket that fails cannot say more.
  socket.on("error", () => undefined);
  return {
    send: (message) => {
      if (ended) return;
      const body = encode(message);
      const length = Buffer.alloc(LENGTH_BYTES);
      length.writeUInt32LE(body.byteLength);
      socket.cork();
      socket.write(length);
      flushed = new Promise((resolve) => socket.write(body, () => resolve()));
      socket.uncork();
    },
    flush: () => flushed,
    close: () => {
      ended = true;
      socket.destroy();
    },
  };
}
