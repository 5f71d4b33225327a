/**
 * The one door to native code: open a shared library, bind a table of C prototypes, hold native memory. Nothing here
 * knows CUDA. Calls are synchronous; koffi's `.async` is never used (facts of the border: design §7).
 *
 * What koffi does not check is checked here or by the caller: an argument that does not fit its C type is truncated
 * silently, so wrappers pass integers that were range-checked, and 64-bit values as `bigint`.
 */
import { getSystemErrorName } from "node:util";
import koffi from "koffi";
import { assert, requireInteger } from "../assert.ts";
import { VramError } from "../errors.ts";

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

/**
 * The address of memory that JavaScript made and that does not move: of a `SharedArrayBuffer`, or of a buffer that can be
 * resized, which V8 keeps on pages of its own for its whole life.
 */
export function addressOf(bytes: Uint8Array): bigint {
  const { buffer } = bytes;
  assert(buffer instanceof SharedArrayBuffer || buffer.resizable, "only such memory keeps its address");
  return koffi.address(bytes);
}

/** The errno of the last call of this thread, by its name: `EAGAIN`. */
export const lastError = (): string => getSystemErrorName(-koffi.errno());

/**
 * Calls `listener` whenever there is something to read, or the other end is gone; until it is closed. It keeps the process
 * alive. The listener is called a phase of the event loop later: koffi calls back without a callback scope (Node-API,
 * `napi_make_callback`), so promises that were settled there would wait until something else happened in this process.
 */
export function watchReadable(fd: number, listener: () => void): { unref(): void; close(): void } {
  let pending: NodeJS.Immediate | undefined;
  const handle = koffi.node.poll(fd, { readable: true, disconnect: true }, () => {
    pending ??= setImmediate(() => {
      pending = undefined;
      listener();
    });
  });
  return {
    unref: () => handle.unref(),
    close: () => {
      clearImmediate(pending);
      handle.close();
    },
  };
}
