/**
 * Descriptors that go from one process to another over a Unix socket (`SCM_RIGHTS`, unix(7)). Node's own sockets read
 * such messages and lose what came with them, so who expects a descriptor has a socket that Node does not read.
 */
import { closeSync } from "node:fs";
import { requireInteger } from "../assert.ts";
import { VramError } from "../errors.ts";
import { allocateNative, type Bound, lastError, type NativeMemory, openLibrary } from "./library.ts";
import { AF_UNIX, unixAddress } from "./sockets.ts";

const SOCK_STREAM = 1;
const SOCK_SEQPACKET = 5;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CTRUNC = 0x08;
const MSG_TRUNC = 0x20;
const MSG_CMSG_CLOEXEC = 0x4000_0000;

/** `struct msghdr`, `struct iovec` and `struct cmsghdr` on LP64 (facts of the border: bits/socket.h). */
const MSGHDR = { byteLength: 56, iov: 16, iovCount: 24, control: 32, controlBytes: 40, flags: 48 } as const;
const CMSGHDR_BYTES = 16;
/** More than one is received only to be closed: a message may carry 253. */
const DESCRIPTORS_MAX = 253;
const CONTROL_BYTES = CMSGHDR_BYTES + 4 * DESCRIPTORS_MAX + 4;
/** Bytes of one message. */
const MESSAGE_BYTES = 64 * 1024;

const PROTOTYPES = {
  socket: "int socket(int domain, int type, int protocol)",
  socketpair: "int socketpair(int domain, int type, int protocol, void *pair)",
  connect: "int connect(int fd, const void *address, uint32_t length)",
  sendmsg: "int sendmsg(int fd, uint64_t message, int flags)",
  recvmsg: "int recvmsg(int fd, uint64_t message, int flags)",
} as const;

interface Workspace {
  readonly libc: Bound<typeof PROTOTYPES>;
  readonly header: NativeMemory;
  readonly iov: NativeMemory;
  readonly control: NativeMemory;
  readonly payload: NativeMemory;
}

let workspace: Workspace | undefined;

/** Made once: every call here is synchronous, and leaves nothing in it that is needed later. */
function prepared(byteLength: number, controlBytes: number): Workspace {
  workspace ??= {
    libc: openLibrary("libc.so.6").bind(PROTOTYPES),
    header: allocateNative(MSGHDR.byteLength),
    iov: allocateNative(16),
    control: allocateNative(CONTROL_BYTES),
    payload: allocateNative(MESSAGE_BYTES),
  };
  const { header, iov, control, payload } = workspace;
  header.bytes.fill(0);
  control.bytes.fill(0);
  iov.view.setBigUint64(0, payload.address, true);
  iov.view.setBigUint64(8, BigInt(byteLength), true);
  header.view.setBigUint64(MSGHDR.iov, iov.address, true);
  header.view.setBigUint64(MSGHDR.iovCount, 1n, true);
  if (controlBytes > 0) header.view.setBigUint64(MSGHDR.control, control.address, true);
  header.view.setBigUint64(MSGHDR.controlBytes, BigInt(controlBytes), true);
  return workspace;
}

const refused = (what: string): VramError => new VramError("INTERNAL", `${what}: ${lastError()}`);

/**
 * A pair of connected sockets that keep messages apart, and do not wait. Whoever makes them closes them; one that is to
 * be inherited is handed over at the start of a process.
 */
export function socketPair(): readonly [number, number] {
  const pair = new Int32Array(2);
  const { libc } = prepared(1, 0);
  const type = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK;
  if (libc.socketpair(AF_UNIX, type, 0, new Uint8Array(pair.buffer)) !== 0) {
    throw refused("no pair of sockets can be made");
  }
  const [one = -1, other = -1] = pair;
  return [one, other];
}

/** A stream socket that is connected to a path; it never waits. The caller closes it. `SERVICE_UNREACHABLE`, `SERVICE_BUSY`. */
export function connectSocket(path: string): number {
  const { libc } = prepared(1, 0);
  const address = unixAddress(path);
  const fd = libc.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) throw refused("no socket can be made");
  if (libc.connect(fd, address, address.byteLength) === 0) return fd;
  // Without waiting: a queue that is full says so at once (unix(7)).
  const error =
    lastError() === "EAGAIN"
      ? new VramError("SERVICE_BUSY", `too many wait to connect to ${path}`)
      : new VramError("SERVICE_UNREACHABLE", `nobody answers on ${path}: ${lastError()}`);
  closeSync(fd);
  throw error;
}

/**
 * Sends a message of at most 64 KiB, and a descriptor with its first byte. The other end gets one of its own; ours stays
 * ours. Never waits: returns how many bytes the kernel took, which on a stream may be fewer, and 0 if it takes none now.
 */
export function sendWithDescriptor(fd: number, bytes: Uint8Array, passed?: number): number {
  requireInteger(bytes.byteLength, "byteLength of a message", 1, MESSAGE_BYTES);
  const controlBytes = passed === undefined ? 0 : CMSGHDR_BYTES + 8;
  const { libc, header, control, payload } = prepared(bytes.byteLength, controlBytes);
  payload.bytes.set(bytes);
  if (passed !== undefined) {
    control.view.setBigUint64(0, BigInt(CMSGHDR_BYTES + 4), true);
    control.view.setInt32(8, SOL_SOCKET, true);
    control.view.setInt32(12, SCM_RIGHTS, true);
    control.view.setInt32(CMSGHDR_BYTES, passed, true);
  }
  const sent = libc.sendmsg(fd, header.address, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent >= 0) return sent;
  if (lastError() === "EAGAIN") return 0;
  throw new VramError("SERVICE_UNREACHABLE", `the other end takes no message: ${lastError()}`);
}

/** What came: no bytes when the other end is gone. The descriptors are the caller's, to close or to keep. */
export interface Received {
  readonly bytes: Uint8Array;
  readonly descriptors: readonly number[];
  /** Whether the kernel dropped part of the message, or descriptors that there was no room for. */
  readonly truncated: boolean;
}

function descriptorsIn({ header, control }: Workspace): number[] {
  const controlBytes = Number(header.view.getBigUint64(MSGHDR.controlBytes, true));
  const descriptors: number[] = [];
  for (let at = 0; at + CMSGHDR_BYTES <= controlBytes; ) {
    const length = Number(control.view.getBigUint64(at, true));
    if (length < CMSGHDR_BYTES) break;
    const isRights = control.view.getInt32(at + 8, true) === SOL_SOCKET;
    if (isRights && control.view.getInt32(at + 12, true) === SCM_RIGHTS) {
      for (let offset = CMSGHDR_BYTES; offset + 4 <= length; offset += 4) {
        descriptors.push(control.view.getInt32(at + offset, true));
      }
    }
    at += (length + 7) & ~7;
  }
  return descriptors;
}

/** Takes what has come, at most `byteLength` bytes of it; undefined if that is nothing yet. Never waits. */
export function receiveWithDescriptors(fd: number, byteLength: number = MESSAGE_BYTES): Received | undefined {
  requireInteger(byteLength, "byteLength of a message", 1, MESSAGE_BYTES);
  const work = prepared(byteLength, CONTROL_BYTES);
  const got = work.libc.recvmsg(fd, work.header.address, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) {
    if (lastError() === "EAGAIN") return undefined;
    if (lastError() === "ECONNRESET") return { bytes: new Uint8Array(0), descriptors: [], truncated: false };
    throw refused("no message can be received");
  }
  const flags = work.header.view.getInt32(MSGHDR.flags, true);
  return {
    bytes: work.payload.bytes.slice(0, got),
    descriptors: descriptorsIn(work),
    truncated: (flags & (MSG_CTRUNC | MSG_TRUNC)) !== 0,
  };
}
