/** Unix sockets beyond what Node has: who is at the other end, and datagrams. */
import { requireInteger } from "../assert.ts";
import { VramError } from "../errors.ts";
import { type Bound, openLibrary } from "./library.ts";

/** Levels, names and values of `getsockopt` (asm-generic/socket.h, linux/socket.h). */
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SO_DOMAIN = 39;
export const AF_UNIX = 1;
/** What the kernel says of a user whom it does not know, or who has no number here. */
const NO_ID = 0xffff_ffff;

/** Who is at the other end of a socket. `pid` is 0 for a process that has no number in this container. */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** Bound once: a service asks for each connection. */
let socketCalls: Bound<{ readonly getsockopt: string }> | undefined;

/** An option of a socket in 32-bit numbers. Throws `INVALID_ARGUMENT` for what is no socket. */
function socketOption(fd: number, name: number, count: number): Uint32Array {
  requireInteger(fd, "descriptor", 0, 2 ** 31 - 1);
  socketCalls ??= openLibrary("libc.so.6").bind({
    getsockopt: "int getsockopt(int fd, int level, int name, void *value, void *length)",
  });
  const value = new Uint32Array(count);
  const length = Uint32Array.of(value.byteLength);
  const bytes = (words: Uint32Array): Uint8Array => new Uint8Array(words.buffer);
  const status = socketCalls.getsockopt(fd, SOL_SOCKET, name, bytes(value), bytes(length));
  if (status !== 0 || length[0] !== value.byteLength) {
    throw new VramError("INVALID_ARGUMENT", `descriptor ${fd} is no socket that can be asked for its peer`);
  }
  return value;
}

/**
 * `getsockopt(fd, SOL_SOCKET, SO_PEERCRED)`: who connected a Unix socket, or made the pair, as the kernel saw it then.
 * Throws `INVALID_ARGUMENT` for any other socket: the kernel answers there, too, and says nothing (unix(7)).
 */
export function peerCredentials(fd: number): PeerCredentials {
  const [domain] = socketOption(fd, SO_DOMAIN, 1);
  const [pid = 0, uid = NO_ID, gid = NO_ID] = socketOption(fd, SO_PEERCRED, 3);
  if (domain !== AF_UNIX || uid === NO_ID || gid === NO_ID) {
    throw new VramError("INVALID_ARGUMENT", `descriptor ${fd} is no Unix socket with a peer`);
  }
  return { pid, uid, gid };
}

/** `SOCK_DGRAM | SOCK_CLOEXEC`, and flags of `sendto`: neither waits nor raises SIGPIPE (bits/socket.h). */
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
const MSG_DONTWAIT_NOSIGNAL = 0x40 | 0x4000;
/** `sun_path`; a path ends with NUL within it, an abstract name need not (unix(7)). */
const SUN_PATH_BYTES = 108;

/** The `sockaddr_un` of a path, or of an abstract name, which begins with `@` here and with NUL there. */
export function unixAddress(name: string): Uint8Array {
  const path = Buffer.from(name.startsWith("@") ? `\0${name.slice(1)}` : `${name}\0`);
  if (!/^[/@]./.test(name) || path.byteLength > SUN_PATH_BYTES) {
    throw new VramError(
      "INVALID_ARGUMENT",
      `the address of a socket is a path, or @ and a name, of at most ${SUN_PATH_BYTES - 1} bytes`,
    );
  }
  return Buffer.concat([new Uint8Array(Uint16Array.of(AF_UNIX).buffer), path]);
}

/**
 * Sends datagrams to a Unix socket, each from a socket of its own: Node has none. A send never waits, and says whether the
 * kernel took it. `INVALID_ARGUMENT` for an address that cannot be one.
 */
export function datagramsTo(name: string): (bytes: Uint8Array) => boolean {
  const address = unixAddress(name);
  const libc = openLibrary("libc.so.6").bind({
    socket: "int socket(int domain, int type, int protocol)",
    sendto: "int sendto(int fd, const void *bytes, size_t length, int flags, const void *to, uint32_t toLength)",
    close: "int close(int fd)",
  });
  return (bytes) => {
    const fd = libc.socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0);
    if (fd < 0) return false;
    const sent = libc.sendto(fd, bytes, bytes.byteLength, MSG_DONTWAIT_NOSIGNAL, address, address.byteLength);
    libc.close(fd);
    return sent === bytes.byteLength;
  };
}
