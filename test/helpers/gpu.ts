/**
 * A GPU for the tests of test/device, or why there is none. The loader's own `libcuda.so.1` with a device makes them
 * run. Another library (`VRAM_LIBCUDA`) runs them only when `VRAM_DEVICE_TESTS=1` says so: that exercises the tests and
 * shows nothing about hardware, and their titles say it. `VRAM_DEVICE_TESTS=1` also makes a missing GPU a failure.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { afterEach, describe } from "vitest";
import { present } from "../../src/assert.ts";
import { systemClock } from "../../src/clock.ts";
import { CUDA_LIBRARY, type CudaDriver } from "../../src/cuda/driver.ts";
import { openNativeDriver } from "../../src/cuda/native/driver.ts";
import { requireRealDriver } from "../../src/device/detect.ts";
import { optionsFromEnvironment, prepareForCuda } from "../../src/environment.ts";
import { type DeviceContext, openContext } from "../../src/handles/context.ts";
import type { Mapped } from "../../src/handles/mapped.ts";
import { openPinned } from "../../src/handles/pinned.ts";
import { openStream, type Stream, settled } from "../../src/handles/stream.ts";
import type { Entry } from "../../src/journal/entry.ts";
import { type OpenSystem, openSystem, type TestOptions, type VramOptions } from "../../src/open.ts";
import { flipShardBit } from "../../src/tamper.ts";
import { createVram } from "../../src/vram.ts";
import { reportHardware } from "./counts.ts";
import { MIB } from "./vram.ts";

export interface TestGpu {
  readonly driver: CudaDriver;
  /** The loader's own library, not a substituted one. */
  readonly isReal: boolean;
  readonly name: string;
}

function find(): TestGpu | undefined {
  const wanted = process.env["VRAM_DEVICE_TESTS"] === "1";
  const named = process.env["VRAM_LIBCUDA"] ?? "";
  if (named !== "" && !wanted) return undefined;
  prepareForCuda(process.env);
  try {
    const driver = openNativeDriver(named === "" ? CUDA_LIBRARY : named);
    // Somebody's substitute in the loader's way must not run as hardware.
    if (driver.backend === "cuda") requireRealDriver(process.env["LD_LIBRARY_PATH"]);
    return { driver, isReal: driver.backend === "cuda", name: driver.device.name(driver.device.get(0)) };
  } catch (error) {
    if (wanted) throw error;
    return undefined;
  }
}

const found = find();
// `npm test` hands on which GPU its figures are of; a substituted library is none.
if (found?.isReal === true) reportHardware(found.name);

/** The GPU; only inside tests of `onGpu`. */
export const gpu = (): TestGpu => present(found, "a GPU");
/** Whether there is one, and whether it is no substituted library. */
export const hasGpu = found !== undefined;
export const isHardware = found?.isReal === true;

/** What a test does on hardware, and its small stand-in over a substituted library. */
export const sized = <T>(onHardware: T, substituted: T): T => (gpu().isReal ? onHardware : substituted);

/** Tests that need a GPU. Without one they are skipped and say so. */
export function onGpu(subject: string, tests: () => void): void {
  const where =
    found?.isReal === true ? found.name : "a substituted libcuda, in small: this shows nothing about hardware";
  if (found === undefined) describe.skip(`${subject} (no GPU)`, tests);
  else describe(`${subject}, on ${where}`, tests);
}

/** By how much free memory may be off on hardware: the driver keeps tables of its own, and takes them in pieces. */
export const slackBytes = (): number => sized(64 * MIB, 0);

export interface Opened {
  readonly vram: ReturnType<typeof createVram>;
  readonly open: OpenSystem;
  readonly entries: readonly Entry[];
  /** Handles of all device memory made since, in order: how a test gets at a shard's. */
  readonly cuHandles: readonly bigint[];
  /** Flips one bit of a shard in VRAM. Offset in bytes. */
  readonly flipBit: (idOrName: string, offset: number, bit: number) => Promise<void>;
}

const opened: Opened[] = [];

/** The product on this GPU, closed after the test. Digests of the host are computed by this thread. */
export async function openOnGpu(options: VramOptions = {}, test: TestOptions = {}): Promise<Opened> {
  const entries: Entry[] = [];
  const reader = { required: true, accept: (entry: Entry) => void entries.push(entry) };
  const small = gpu().isReal ? {} : { ringSlotBytes: MIB, measureWindowBytes: 4 * MIB };
  const open = await openSystem(
    {
      ...optionsFromEnvironment(process.env),
      backend: "cuda",
      nvmlLibrary: "/nonexistent/libnvidia-ml.so.1",
      hashThreads: 0,
      ...options,
      readers: [reader, ...(options.readers ?? [])],
    },
    { ...small, ...test },
  );
  const cuHandles: bigint[] = [];
  const { memory } = open.driver;
  const create = memory.create.bind(memory);
  const remember = (...args: Parameters<typeof create>): bigint => {
    const cuHandle = create(...args);
    cuHandles.push(cuHandle);
    return cuHandle;
  };
  Object.assign(memory, { create: remember });
  const flipBit: Opened["flipBit"] = (...args) => flipShardBit(open, ...args);
  const one = { vram: createVram(open), open, entries, cuHandles, flipBit };
  opened.push(one);
  return one;
}

export interface Handles {
  readonly context: DeviceContext;
  readonly stream: Stream;
  /** Releases that failed. */
  readonly reports: readonly string[];
  /** Writes to, and reads from, device memory; resolves when that is done. */
  upload(to: Mapped, offset: number, bytes: Uint8Array): Promise<void>;
  download(from: Mapped, offset: number, byteLength: number): Promise<Buffer>;
}

/** Runs `task` with a context and a stream of its own, which are closed afterwards. */
export async function withHandles<T>(task: (handles: Handles) => Promise<T>): Promise<T> {
  const reports: string[] = [];
  const context = openContext(gpu().driver, 0, systemClock, (what) => reports.push(what));
  const stream = openStream(context);
  const withRoom = async <R>(byteLength: number, use: (room: ReturnType<typeof openPinned>) => Promise<R>) => {
    const room = openPinned(context, byteLength);
    try {
      return await use(room);
    } finally {
      room.close();
    }
  };
  try {
    return await task({
      context,
      stream,
      reports,
      upload: (to, offset, bytes) =>
        withRoom(bytes.byteLength, async (room) => {
          room.bytes.set(bytes);
          await settled(stream, bytes.byteLength, () => stream.copyToDevice(to, offset, room, 0, bytes.byteLength));
        }),
      download: (from, offset, byteLength) =>
        withRoom(byteLength, async (room) => {
          await settled(stream, byteLength, () => stream.copyToHost(room, 0, from, offset, byteLength));
          return Buffer.from(room.bytes);
        }),
    });
  } finally {
    stream.close();
    context.close();
  }
}

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const WATCHDOG_MS = 60_000;

/** What a question of scripts/gpu found out, in a process of its own: `data` by key. */
export interface Answered {
  readonly done: string;
  readonly error?: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** Runs `node ARGS` from the repository; `fd`, if given, becomes its descriptor 4. Rejects unless it ends well. */
export function runScript(args: readonly string[], fd?: number): Promise<string> {
  const child = spawn(process.execPath, args, {
    cwd: ROOT,
    stdio: ["ignore", "pipe", "inherit", "ignore", fd ?? "ignore"],
    timeout: WATCHDOG_MS,
    killSignal: "SIGKILL",
  });
  let out = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    out += text;
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => {
      if (code === 0) resolve(out);
      else reject(new Error(`${args.join(" ")} ended with ${signal ?? `exit ${code}`}: ${out}`));
    });
  });
}

/** Asks one question of `scripts/gpu/STEP.mjs`, in small. */
export async function ask(step: string, question: string): Promise<Answered> {
  const out = await runScript(["scripts/gpu/question.mjs", step, question, "--quick"]);
  const lines = out
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { key?: string; value?: unknown; done?: string; error?: string });
  const { done = "cut short", error } = lines.at(-1) ?? {};
  const data = Object.fromEntries(lines.flatMap(({ key, value }) => (key === undefined ? [] : [[key, value]])));
  return { done, ...(error === undefined ? {} : { error }), data };
}

/** Bytes without a pattern, the same for the same key. */
export function bytesOf(byteLength: number, key: string): Buffer {
  const seed = createHash("shake256", { outputLength: Math.max(byteLength, 1) });
  return seed.update(key).digest().subarray(0, byteLength);
}

afterEach(async () => {
  for (const { vram } of opened.splice(0)) await vram.close();
});
