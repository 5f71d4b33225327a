/**
 * A process that holds memory with a descriptor, as one that attached does: it opens what another process has under
 * `/proc`, or makes memory of its own, maps it if it is told to, and then has either a mapping or a descriptor of it.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** `MFD_CLOEXEC`, `PROT_READ`, `MAP_SHARED`. Answers each line with what it reads at that offset, as one byte. */
const PROGRAM = `
import { closeSync, openSync } from "node:fs";
import { createInterface } from "node:readline";
import koffi from "koffi";
const { path, name, byteLength, isMapped } = JSON.parse(process.argv[1]);
const libc = koffi.load("libc.so.6");
const make = libc.func("int memfd_create(const char *name, unsigned int flags)");
const size = libc.func("int ftruncate(int fd, int64_t length)");
const map = libc.func("void *mmap(void *at, size_t length, int protection, int flags, int fd, int64_t offset)");
const fd = path === undefined ? make(name, 1) : openSync(path, "r");
if (path === undefined) size(fd, byteLength);
let bytes;
if (isMapped) {
  bytes = new Uint8Array(koffi.view(map(null, byteLength, 1, 1, fd, 0), byteLength));
  closeSync(fd);
}
console.log("ready");
createInterface({ input: process.stdin }).on("line", (at) => console.log(String(bytes?.[Number(at)])));
`;

/** What is held: of this process, by a descriptor; or made by the holder, of this name. */
export type Held = { readonly fd: number } | { readonly name: string };

export interface Holder {
  readonly pid: number;
  /** A byte of what it has mapped. */
  read(offset: number): Promise<number>;
  /** Kills it; resolves when it is gone. */
  end(): Promise<void>;
}

const line = async ({ stdout }: ChildProcess): Promise<string> => {
  if (stdout === null) throw new Error("the holder has no output");
  const [text] = (await once(stdout, "data")) as [Buffer];
  return text.toString().trim();
};

/** Starts a holder, and resolves when it holds. `isMapped`: a mapping and no descriptor; else the other way round. */
export async function startHolder(held: Held, byteLength: number, isMapped = true): Promise<Holder> {
  const what = "fd" in held ? { path: `/proc/${process.pid}/fd/${held.fd}` } : held;
  const argument = JSON.stringify({ ...what, byteLength, isMapped });
  const child = spawn(process.execPath, ["--input-type=module", "-e", PROGRAM, argument], {
    cwd: ROOT,
    stdio: ["pipe", "pipe", "inherit"],
  });
  const gone = once(child, "exit");
  const told = await Promise.race([line(child), gone.then(() => "gone")]);
  if (told !== "ready" || child.pid === undefined) throw new Error(`the holder does not hold: ${told}`);
  return {
    pid: child.pid,
    read: (offset) => {
      child.stdin.write(`${offset}\n`);
      return line(child).then(Number);
    },
    end: async () => {
      child.kill("SIGKILL");
      await gone;
    },
  };
}
