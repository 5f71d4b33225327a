/** A peer on the attach socket as anybody could write one: raw messages, and whatever comes with them. */
import { closeSync, fstatSync, readdirSync, readFileSync, readSync } from "node:fs";
import { afterEach } from "vitest";
import { watchReadable } from "../../src/ffi/library.ts";
import { connectSocket, receiveWithDescriptors, sendWithDescriptor } from "../../src/ffi/passing.ts";
import {
  ATTACH_SUFFIX,
  type AttachGranted,
  type AttachReply,
  createMessageReader,
  encodeMessage,
} from "../../src/service/attach/protocol.ts";

/** Descriptors of this process, or of another. */
export const descriptorsOf = (pid: number | "self" = "self"): number => readdirSync(`/proc/${pid}/fd`).length;

export interface RawPeer {
  /** Messages that have come. */
  readonly messages: unknown[];
  readonly descriptors: number[];
  /** The next message; rejects when the other end goes first. */
  next(): Promise<unknown>;
  /** Resolves when the other end has gone. */
  readonly gone: Promise<void>;
  send(bytes: Uint8Array, descriptor?: number): void;
  /** Closes the connection; descriptors that came stay open. */
  leave(): void;
  /** Closes everything. */
  close(): void;
}

const open = new Set<RawPeer>();
afterEach(() => {
  for (const peer of [...open]) peer.close();
});

/** Connects to the attach socket beside this one. */
export function connectRaw(socket: string): RawPeer {
  const fd = connectSocket(socket + ATTACH_SUFFIX);
  const reader = createMessageReader(64 * 1024 * 1024);
  const messages: unknown[] = [];
  const descriptors: number[] = [];
  const waiting: { resolve: (message: unknown) => void; reject: (error: Error) => void }[] = [];
  let given = 0;
  let isOpen = true;
  let settleGone = (): void => undefined;
  const gone = new Promise<void>((resolve) => {
    settleGone = resolve;
  });
  const leave = (): void => {
    if (!isOpen) return;
    isOpen = false;
    watch.close();
    closeSync(fd);
    settleGone();
    for (const { reject } of waiting.splice(0)) reject(new Error("the other end has gone"));
  };
  const watch = watchReadable(fd, () => {
    for (let got = receiveWithDescriptors(fd); got !== undefined; got = receiveWithDescriptors(fd)) {
      descriptors.push(...got.descriptors);
      if (got.bytes.byteLength === 0) {
        leave();
        return;
      }
      for (const message of reader.push(got.bytes)) {
        messages.push(message);
        const next = waiting.shift();
        if (next === undefined) continue;
        given = messages.length;
        next.resolve(message);
      }
    }
  });
  const peer: RawPeer = {
    messages,
    descriptors,
    gone,
    next: () =>
      new Promise((resolve, reject) => {
        if (given < messages.length) {
          given += 1;
          resolve(messages[given - 1]);
        } else if (isOpen) waiting.push({ resolve, reject });
        else reject(new Error("the other end has gone"));
      }),
    send: (bytes, descriptor) => void sendWithDescriptor(fd, bytes, descriptor),
    leave,
    close: () => {
      leave();
      for (const one of descriptors.splice(0)) closeSync(one);
      open.delete(peer);
    },
  };
  open.add(peer);
  return peer;
}

/** Asks to attach. */
export async function askRaw(socket: string, request: object): Promise<RawPeer & { readonly reply: AttachReply }> {
  const peer = connectRaw(socket);
  peer.send(encodeMessage({ v: 1, expect: null, ...request } as never));
  const reply = (await peer.next()) as AttachReply;
  return { ...peer, reply };
}

/** What was granted; throws what was refused. */
export function grantedOf({ reply }: { readonly reply: AttachReply }): AttachGranted {
  if (reply.ok) return reply;
  throw new Error(`refused: ${reply.problem.code}: ${reply.problem.detail}`);
}

/** The bytes behind a descriptor. */
export function bytesOf(descriptor: number): Buffer {
  const bytes = Buffer.alloc(fstatSync(descriptor).size);
  for (let at = 0; at < bytes.byteLength; ) {
    const read = readSync(descriptor, bytes, at, bytes.byteLength - at, at);
    if (read === 0) break;
    at += read;
  }
  return bytes;
}

/** Lines of the maps of a process that name memory of ours. */
export const mappingsOf = (pid: number): number =>
  readFileSync(`/proc/${pid}/maps`, "utf8")
    .split("\n")
    .filter((line) => line.includes("memfd:vram-residency")).length;
