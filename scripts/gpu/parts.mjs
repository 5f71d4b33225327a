/**
 * What other processes do in a question: `node scripts/gpu/parts.mjs PART JSON`. A part answers in lines of JSON on its
 * standard output and takes orders, a line each, from its descriptor 3; an fd to import is its descriptor 4.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeSync } from "node:fs";
import { Socket } from "node:net";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { prepareForCuda } from "../../dist/environment.js";
import { answerOf, openGpu } from "./driver.mjs";
import { quantile, scan } from "./hashing.mjs";

const FILE = fileURLToPath(import.meta.url);
const FD = 4;
/** The descriptor that orders come from. */
const ORDERS = 3;
const orders = () => createInterface({ input: new Socket({ fd: ORDERS }) });
const tell = (line) => writeSync(1, `${JSON.stringify(line)}\n`);

/** Runs a part to its end; its last line, parsed. `fd` is handed down to it. */
export function runPart(part, options, fd) {
  const stdio = ["ignore", "pipe", "inherit", "ignore", fd ?? "ignore"];
  const child = spawnSync(process.execPath, [FILE, part, JSON.stringify(options)], { stdio, timeout: 60_000 });
  const lines = String(child.stdout).trim().split("\n");
  if (child.status !== 0) throw new Error(`${part} ended with ${child.signal ?? `exit ${child.status}`}`);
  return JSON.parse(lines.at(-1));
}

/**
 * Starts a part. `line()` resolves to the next line it says, parsed; `say` writes one to it. Not by way of its standard
 * input: Node.js closes that when the part ends, and a holder has it from the part it was started by.
 */
export function startPart(part, options) {
  const stdio = ["ignore", "pipe", "inherit", "pipe"];
  const child = spawn(process.execPath, [FILE, part, JSON.stringify(options)], { stdio });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const line = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${part} said nothing more`);
    return JSON.parse(value);
  };
  return {
    line,
    say: (text) => child.stdio[ORDERS].write(`${text}\n`),
    kill: () => child.kill("SIGKILL"),
    ended: once(child, "exit"),
  };
}

/** Imports the fd, says what is in the memory, and with `write` changes it, by a kernel, a copy and a fill. */
function importer({ byteLength, access, pattern, write }) {
  const gpu = openGpu();
  const memory = gpu.importFd(FD, byteLength, access);
  const found = scan(gpu, memory, pattern);
  const answers = {};
  if (write === true) {
    const store = gpu.load("probes").entry("vram_probe_store");
    const values = [
      { kind: "u64", value: memory.address },
      { kind: "u32", value: 0x11111111 },
    ];
    answers.kernel = answerOf(() => gpu.launch(store, 1, 32, values));
    gpu.settle();
    gpu.upload(memory.address + 4096n, Buffer.alloc(4, 0x22));
    gpu.fill(memory.address + 8192n, 0x33, 4);
  }
  tell({ found, answers });
}

/** Fills memory, has a holder keep its fd, and works or idles until it is killed. */
async function owner({ byteLength, pattern, hold, spinCycles }) {
  const gpu = openGpu();
  const memory = gpu.allocate(byteLength);
  gpu.fill(memory.address, pattern, memory.byteLength);
  if (hold) {
    const fd = gpu.driver.memory.exportFd(memory.cuHandle);
    const options = JSON.stringify({ byteLength: memory.byteLength, pattern });
    // It reads and answers in our place: it stays when we are gone.
    spawn(process.execPath, [FILE, "holder", options], { stdio: ["ignore", "inherit", "inherit", ORDERS, fd] });
  }
  tell({ part: "owner", byteLength: memory.byteLength });
  if (spinCycles > 0) {
    const spin = gpu.load("probes").entry("vram_probe_spin");
    tell({ part: "owner", spinning: true });
    gpu.launch(spin, 1, 32, [{ kind: "u64", value: BigInt(spinCycles) }]);
  }
  // Until it is killed.
  await new Promise((resolve) => setTimeout(resolve, 60_000));
}

/** Holds an fd without touching the driver, until it is told to look into the memory. */
async function holder({ byteLength, pattern }) {
  tell({ part: "holder" });
  for await (const line of orders()) {
    if (line !== "look") break;
    const gpu = openGpu();
    tell({ part: "holder", found: scan(gpu, gpu.importFd(FD, byteLength, "read"), pattern) });
  }
}

/** Fills memory with a pattern and frees it, or ends with it. */
function dirtier({ byteLength, pattern, free }) {
  const gpu = openGpu();
  const memory = gpu.allocate(byteLength);
  gpu.fill(memory.address, pattern, memory.byteLength);
  if (free) memory.close();
  tell({ byteLength: memory.byteLength });
}

/**
 * Reads all of its memory over and over, as decoding reads all weights for each token. Says `{ p50, p99, max, count }`
 * of the microseconds since it was last asked, whenever it is sent a line.
 */
async function tenant({ byteLength }) {
  const gpu = openGpu();
  const memory = gpu.allocate(byteLength);
  const target = gpu.allocate(4);
  gpu.fill(memory.address, 0x5a, memory.byteLength);
  const read = gpu.load("probes").entry("vram_probe_read");
  const blocks = gpu.driver.device.attribute(gpu.cuDevice, "multiprocessorCount") * 8;
  const values = [memory.address, BigInt(memory.byteLength / 16), target.address].map((value) => ({
    kind: "u64",
    value,
  }));
  let micros = [];
  let isAsked = false;
  orders().on("line", () => {
    isAsked = true;
  });
  tell({ ready: true });
  for (;;) {
    const begin = performance.now();
    gpu.launch(read, blocks, 256, values);
    gpu.settle();
    micros.push((performance.now() - begin) * 1000);
    if (isAsked) {
      const [p50, p99, max] = [0.5, 0.99, 1].map((share) => quantile(micros, share));
      tell({ p50, p99, max, count: micros.length });
      [micros, isAsked] = [[], false];
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const PARTS = { importer, owner, holder, dirtier, tenant };

if (process.argv[1] === FILE) {
  prepareForCuda(process.env);
  const [part, options] = process.argv.slice(2);
  await PARTS[part](JSON.parse(options));
  process.exit();
}
