/**
 * Descriptors from the process of a device to the service. They cannot go over the channel, which Node reads; they have
 * a socket of their own beside it. One is sent before the call it belongs to is answered, so that whoever has the answer
 * finds it there and nobody waits. The service trusts none of it: what is not exactly one descriptor for this very call
 * ends the process.
 */
import { closeSync } from "node:fs";
import { VramError } from "../errors.ts";
import { receiveWithDescriptors, sendWithDescriptor } from "../ffi/passing.ts";

/** Where the process finds its end. */
export const DESCRIPTOR_FD = 4;

/** A message is the number of the call, as 8 bytes, least significant first. */
const TAG_BYTES = 8;

function tagBytes(tag: number): Buffer {
  const bytes = Buffer.alloc(TAG_BYTES);
  bytes.writeBigUInt64LE(BigInt(tag));
  return bytes;
}

/** Sends a descriptor, which is then closed here. Throws, with it closed all the same, if the other end takes none. */
export function sendDescriptor(socket: number, tag: number, descriptor: number): void {
  try {
    if (sendWithDescriptor(socket, tagBytes(tag), descriptor) === TAG_BYTES) return;
    throw new VramError("DEVICE_BUSY", "too many descriptors are on their way to the service");
  } finally {
    closeSync(descriptor);
  }
}

export interface DescriptorInbox {
  /** The descriptor that was sent for this call; it is the caller's. Throws `INTERNAL` unless it has come. */
  take(tag: number): number;
  /** Closes the socket, and with it what was on its way. May be called twice. */
  close(): void;
}

const broken = (what: string): VramError => new VramError("INTERNAL", `the device's process sent ${what}`);

/** The service's end of the socket. It is closed with the inbox. */
export function openDescriptorInbox(socket: number): DescriptorInbox {
  let isOpen = true;
  const next = (): { readonly tag: number; readonly descriptor: number } => {
    const received = isOpen ? receiveWithDescriptors(socket, TAG_BYTES) : undefined;
    if (received === undefined) throw broken("no descriptor with its answer");
    const { bytes, descriptors, truncated } = received;
    const [descriptor, ...more] = descriptors;
    if (descriptor !== undefined && more.length === 0 && !truncated && bytes.byteLength === TAG_BYTES) {
      return { tag: Number(Buffer.from(bytes).readBigUInt64LE()), descriptor };
    }
    for (const one of descriptors) closeSync(one);
    throw broken(`${descriptors.length} descriptors in ${bytes.byteLength} bytes`);
  };
  return {
    take: (tag) => {
      for (;;) {
        const message = next();
        if (message.tag === tag) return message.descriptor;
        // Of a call that was given up: its answer found nobody.
        closeSync(message.descriptor);
      }
    },
    close: () => {
      if (!isOpen) return;
      isOpen = false;
      closeSync(socket);
    },
  };
}
