/**
 * An attach socket without a service behind it: takes requests, and answers each as a test has it, descriptors and all.
 * It speaks by the bytes, so that it can also say what no service would.
 */
import { closeSync, readdirSync, readFileSync, writeSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { afterEach, expect } from "vitest";
import { type Attachment, type HostAttachment, openClient } from "../../src/client.ts";
import { duplicate } from "../../src/ffi/descriptors.ts";
import { createMemfd, sealMemfd } from "../../src/ffi/memory.ts";
import { sendWithDescriptor } from "../../src/ffi/passing.ts";
import {
  ATTACH_SUFFIX,
  type AttachGranted,
  type AttachRequest,
  attachGranted,
  attachRequest,
  createMessageReader,
  encodeMessage,
} from "../../src/service/attach/protocol.ts";
import * as is from "./stub-replies.ts";
import { temporaryFolder } from "./vram.ts";

/** One process that attaches, as the service sees it. */
export interface Peer {
  readonly request: AttachRequest;
  readonly socket: Socket;
  /** Sends bytes, all of them, and a descriptor with the first. */
  send(bytes: Uint8Array, fd?: number): void;
  /** Resolves when it is gone. */
  readonly gone: Promise<void>;
}

export interface AttachStub {
  /** Of the service: the attach socket lies beside it. */
  readonly socket: string;
  readonly peers: readonly Peer[];
  /** Resolves when nobody is connected any more. */
  settled(): Promise<void>;
  /** Waits for that, and expects as many descriptors as when it was opened, and no mapping. */
  expectNothingLeft(): Promise<void>;
  close(): Promise<void>;
}

const servers = new Set<Server>();
const sockets = new Set<Socket>();

/** More than the kernel takes at once goes by Node, behind what went by hand. */
function sendAll(socket: Socket, bytes: Uint8Array, fd: number | undefined): void {
  const own = (socket as { readonly _handle?: { readonly fd: number } })._handle?.fd ?? -1;
  const sent = sendWithDescriptor(own, bytes.subarray(0, 60_000), fd);
  if (sent < bytes.byteLength) socket.write(bytes.subarray(sent));
}

/** Listens beside a socket of its own; `answer` is called with each request. Gone after the test. */
export async function openAttachStub(answer: (peer: Peer) => void): Promise<AttachStub> {
  const socket = join(await temporaryFolder(), "vram.sock");
  const peers: Peer[] = [];
  const server = createServer((connection) => {
    sockets.add(connection);
    const gone = new Promise<void>((resolve) => {
      connection.once("close", () => {
        sockets.delete(connection);
        resolve();
      });
    });
    connection.on("error", () => undefined);
    const reader = createMessageReader(2 ** 20);
    connection.on("data", (bytes) => {
      for (const message of reader.push(bytes)) {
        const request = attachRequest.parse(message);
        const send = (reply: Uint8Array, fd?: number): void => sendAll(connection, reply, fd);
        const peer = { request, socket: connection, gone, send };
        peers.push(peer);
        answer(peer);
      }
    });
  });
  servers.add(server);
  await new Promise<void>((resolve) => server.listen(socket + ATTACH_SUFFIX, resolve));
  // Whatever native code keeps open is open now.
  closeSync(duplicate(0));
  const before = descriptorCount();
  const settled = async (): Promise<void> => {
    await Promise.all(peers.map((peer) => peer.gone));
  };
  return {
    ...{ socket, peers, settled },
    expectNothingLeft: async () => {
      await settled();
      expect([descriptorCount(), mappingCount()], "descriptors and mappings").toEqual([before, 0]);
    },
    close: () => closeServer(server),
  };
}

async function closeServer(server: Server): Promise<void> {
  for (const socket of sockets) socket.destroy();
  servers.delete(server);
  await new Promise((resolve) => server.close(resolve));
}

afterEach(async () => {
  for (const server of servers) await closeServer(server);
});

/** Descriptors of this process. */
export const descriptorCount = (): number => readdirSync("/proc/self/fd").length;

/** Mappings of weights in this process. */
export const mappingCount = (): number =>
  readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .filter((line) => line.includes(MEMORY_NAME)).length;

/** One at the beginning of no page, one of nothing, one over several pages of any size. */
export const TENSORS = [
  { name: "embed", dtype: "F32", shape: [2, 4], offset: 100, byteLength: 32 },
  { name: "empty", dtype: "F32", shape: [0], offset: 132, byteLength: 0 },
  { name: "far", dtype: "U8", shape: [70_000], offset: 70_001, byteLength: 70_000 },
] as const;
export const SHARD_BYTES = 150_001;
export const MEMORY_BYTES = 160 * 1024;
const MEMORY_NAME = "vram-test-attach";

/** What is in the shard at this offset. */
export const byteAt = (offset: number): number => (offset * 31) % 251;

/** Sealed memory with a shard in it; the caller closes it. */
export function weights(byteLength = MEMORY_BYTES): number {
  const fd = createMemfd(MEMORY_NAME, byteLength);
  writeSync(
    fd,
    Uint8Array.from({ length: SHARD_BYTES }, (_, offset) => byteAt(offset)),
    0,
    SHARD_BYTES,
    0,
  );
  sealMemfd(fd);
  return fd;
}

/** A grant that the client has nothing against, with what a test changes of it. */
export function grant(change: (granted: AttachGranted) => object = (granted) => granted): AttachGranted {
  const record = is.record({ byteLength: SHARD_BYTES });
  const granted: AttachGranted = {
    v: 1,
    ok: true,
    exportId: "export-1",
    record,
    seal: { version: 1, shardId: record.shardId, digest: record.digest },
    lease: is.lease(),
    verification: is.verification({ record }),
    tensors: TENSORS.map((tensor) => ({ ...tensor, shape: [...tensor.shape] })),
    memory: { kind: "memfd", deviceUuid: record.device.uuid, byteLength: MEMORY_BYTES },
  };
  expect(attachGranted.parse(granted)).toEqual(granted);
  return { ...granted, ...change(granted) };
}

/** Answers with a grant, and the weights in a descriptor of its own. */
export function grantTo(peer: Peer, granted: AttachGranted = grant(), fd: number = weights()): void {
  peer.send(encodeMessage(granted), fd);
  closeSync(fd);
}

/** Attaches to the shard of a grant. */
export const attachTo = ({ socket }: AttachStub, terms: object = {}, signal?: AbortSignal): Promise<Attachment> =>
  openClient({ socket }).attach(is.record().name, { expect: is.DIGEST, ...terms }, { signal });

/** The same, where it is host memory. */
export async function attachHost(stub: AttachStub): Promise<HostAttachment> {
  const attachment = await attachTo(stub);
  if (attachment.kind !== "memfd") throw new Error(attachment.kind);
  return attachment;
}
