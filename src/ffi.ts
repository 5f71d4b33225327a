/**
 * The one door to native code: open a shared library, bind a table of C prototypes, hold native memory. Nothing here
 * knows CUDA. Calls are synchronous; koffi's `.async` is never used (facts of the border: design §7).
 *
 * What koffi does not check is checked here or by the caller: an argument that does not fit its C type is truncated
 * silently, so wrappers pass integers that were range-checked, and 64-bit values as `bigint`.
 */
import koffi from "koffi";
import { assert, requireInteger } from "./assert.ts";
import { VramError } from "./errors.ts";

/** Driver compilers recurse deeply: with koffi's 2 MiB a PTX JIT may overflow. Must be set before the first load. */
const STACK_BYTES = 8 * 1024 * 1024;
/** koffi's own default: less was never tried. */
const STACK_BYTES_MIN = 2 * 1024 * 1024;
/** A view longer than 4 GiB aborts the process, uncatchably; nothing here needs more than this. */
const VIEW_BYTES_MAX = 2 ** 30;

let configured = false;

/** What may be handed to C: integers that fit, addresses as `bigint`, bytes, NUL-terminated text, `null`. */
export type NativeArgument = number | bigint | Uint8Array | string | null;
/** A bound C function that returns an `int`. */
export type StatusFunction = (...args: readonly NativeArgument[]) => number;
/** C prototypes by a name of ours, in koffi's syntax: `int cuInit(uint32_t flags)`. All return `int`. */
export type Prototypes = Readonly<Record<string, string>>;
export type Bound<Table extends Prototypes> = { readonly [Name in keyof Table]: StatusFunction };

/** The C symbol a prototype names. */
export function symbolOf(prototype: string): string {
  const symbol = /^\s*int\s+(\w+)\s*\(/.exec(prototype)?.[1];
  if (symbol === undefined)
    throw new VramError("INTERNAL", `not a prototype of a function that returns int: ${prototype}`);
  return symbol;
}

export interface NativeLibrary {
  readonly path: string;
  /** Binds every prototype. Throws `DEVICE_UNUSABLE` naming all symbols that are missing. */
  bind<Table extends Prototypes>(table: Table): Bound<Table>;
  /** Binds what is there; symbols that are missing are undefined. */
  bindPresent<Table extends Prototypes>(table: Table): Partial<Bound<Table>>;
}

/**
 * Loads a shared library by name or path, as the loader finds it. Throws `DEVICE_UNUSABLE` with the loader's words;
 * `details.missing` says whether it is not there at all. Libraries are never unloaded: drivers do not survive it.
 */
export function openLibrary(path: string): NativeLibrary {
  configure();
  const library = load(path);
  const bindPresent = <Table extends Prototypes>(table: Table): Partial<Bound<Table>> => {
    const bound: Record<string, StatusFunction> = {};
    for (const [name, prototype] of Object.entries(table)) {
      const found = bindOne(library, prototype);
      if (found !== undefined) bound[name] = found;
    }
    return bound as Partial<Bound<Table>>;
  };
  return {
    path,
    bindPresent,
    bind: (table) => {
      const bound = bindPresent(table);
      const missing = Object.keys(table).filter((name) => !(name in bound));
      if (missing.length === 0) return bound as Bound<typeof table>;
      const symbols = missing.map((name) => symbolOf(table[name] ?? ""));
      throw new VramError("DEVICE_UNUSABLE", `${path} lacks ${symbols.join(", ")}`, {
        details: { library: path, symbols },
      });
    },
  };
}

/** Another user of koffi in this process may have loaded a library already; then the stack stays what it is. */
function configure(): void {
  if (configured) return;
  try {
    koffi.config({ sync_stack_size: STACK_BYTES });
  } catch (cause) {
    const stackBytes = koffi.config().sync_stack_size ?? 0;
    if (stackBytes < STACK_BYTES_MIN) {
      throw new VramError("DEVICE_UNUSABLE", `native calls would have a stack of ${stackBytes} bytes only`, {
        cause,
        fix: "this process configured koffi in another way: open vram-residency before that",
      });
    }
  }
  configured = true;
}

function load(path: string): ReturnType<typeof koffi.load> {
  try {
    return koffi.load(path);
  } catch (cause) {
    const words =
      cause instanceof Error ? cause.message.replace(/^Failed to load shared library: /, "") : String(cause);
    const missing = words.includes("No such file or directory");
    throw new VramError("DEVICE_UNUSABLE", words, { cause, details: { library: path, missing } });
  }
}

function bindOne(library: ReturnType<typeof koffi.load>, prototype: string): StatusFunction | undefined {
  symbolOf(prototype);
  try {
    return library.func(prototype) as StatusFunction;
  } catch (cause) {
    if (cause instanceof Error && cause.message.startsWith("Cannot find function")) return undefined;
    throw cause;
  }
}

/** Memory outside the JavaScript heap, zeroed: what C is given an address of. */
export interface NativeMemory {
  readonly address: bigint;
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** Allocates `byteLength` bytes that live until the process ends: for what is made once per driver. */
export function allocateNative(byteLength: number): NativeMemory {
  const pointer: unknown = koffi.alloc("uint8_t", requireInteger(byteLength, "byteLength", 1, VIEW_BYTES_MAX));
  const buffer = koffi.view(pointer, byteLength);
  const bytes = new Uint8Array(buffer).fill(0);
  return { address: koffi.address(pointer), bytes, view: new DataView(buffer) };
}

/** Views memory that C owns, without a copy. The caller drops the view before the memory goes. */
export function viewNative(address: bigint, byteLength: number): Uint8Array {
  requireInteger(byteLength, "byteLength of a view", 1, VIEW_BYTES_MAX);
  return new Uint8Array(koffi.view(address, byteLength));
}

/** The address of memory that JavaScript made and that does not move: of a `SharedArrayBuffer`. */
export function addressOf(bytes: Uint8Array): bigint {
  assert(bytes.buffer instanceof SharedArrayBuffer, "only shared memory keeps its address");
  return koffi.address(bytes);
}

const LOCK_EX_NB = 2 | 4;

/**
 * `flock(fd, LOCK_EX | LOCK_NB)`: whether this open file is ours alone now. It stays so until it is closed, and the
 * kernel closes it for a process that dies.
 */
export function lockFile(fd: number): boolean {
  return openLibrary("libc.so.6").bind({ flock: "int flock(int fd, int operation)" }).flock(fd, LOCK_EX_NB) === 0;
}

const F_SETFD = 2;
const FD_CLOEXEC = 1;

/** `fcntl(fd, F_SETFD, FD_CLOEXEC)`: a process that is started later does not inherit it. */
export function setCloseOnExec(fd: number): void {
  const libc = openLibrary("libc.so.6").bind({ fcntl: "int fcntl(int fd, int command, ...)" });
  if (libc.fcntl(fd, F_SETFD, "int", FD_CLOEXEC) !== 0) throw new VramError("INTERNAL", "fcntl refused FD_CLOEXEC");
}

/** Levels, names and values of `getsockopt` (asm-generic/socket.h, linux/socket.h). */
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SO_DOMAIN = 39;
const AF_UNIX = 1;
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
function unixAddress(name: string): Uint8Array {
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

/** `PR_SET_PDEATHSIG`, `PR_SET_DUMPABLE` (linux/prctl.h), `SIGKILL` (signal.h), `RLIMIT_CORE` (asm-generic/resource.h). */
const PR_SET_PDEATHSIG = 1;
const PR_SET_DUMPABLE = 4;
const SIGKILL = 9n;
const RLIMIT_CORE = 4;

/**
 * Has the kernel kill this process when its parent dies: one that hangs in a driver call never learns that the channel
 * to its parent is gone (measured: it outlived it by 6 s). Does nothing where there is no glibc on Linux.
 */
export function dieWithParent(parentPid: number): void {
  try {
    const { prctl } = openLibrary("libc.so.6").bindPresent({ prctl: "int prctl(int option, uint64_t argument)" });
    prctl?.(PR_SET_PDEATHSIG, SIGKILL);
  } catch {
    // Without it the end of the channel has to do.
  }
  // It may have died before it was asked to be watched.
  if (process.ppid !== parentPid) process.exit();
}

/**
 * Neither a core file nor another process of this user (`ptrace`, `/proc/PID/mem`) gets at what is in memory here. Does
 * nothing where there is no glibc on Linux.
 */
export function keepMemoryPrivate(): void {
  try {
    const libc = openLibrary("libc.so.6").bindPresent({
      prctl: "int prctl(int option, uint64_t argument)",
      setrlimit: "int setrlimit(int resource, void *limits)",
    });
    libc.setrlimit?.(RLIMIT_CORE, new Uint8Array(16));
    libc.prctl?.(PR_SET_DUMPABLE, 0n);
  } catch {
    // A machine without them keeps to its own rules.
  }
}
