/** Step 6: how fast bytes come in, what sealing and verifying cost on top, and what both do to the event loop. */
import { readFileSync } from "node:fs";
import { answerOf, GIB, MIB, openGpu, randomSource, Unsupported } from "./driver.mjs";
import { gigabytesPerSecond, median } from "./hashing.mjs";
import { openProduct, peakBytes, randomFile, watched } from "./system.mjs";

const PORTABLE = 1;

/** Copies both ways between `cuPointer` and the device, GB/s, the median of ten. */
function copies(gpu, cuPointer, byteLength, runs) {
  const memory = gpu.allocate(byteLength);
  const { stream } = gpu.driver;
  const ways = {
    toDevice: (cuStream) => stream.copyToDevice(cuStream, memory.address, cuPointer, byteLength),
    toHost: (cuStream) => stream.copyToHost(cuStream, cuPointer, memory.address, byteLength),
  };
  const figures = Object.entries(ways).map(([name, enqueue]) => {
    gpu.timed(enqueue);
    const ms = median(Array.from({ length: runs }, () => gpu.timed(enqueue)));
    return [name, gigabytesPerSecond(byteLength, ms)];
  });
  memory.close();
  return Object.fromEntries(figures);
}

const SIZES = (quick) => (quick ? [MIB] : [MIB, 32 * MIB, 256 * MIB]);

function registered({ quick, report }) {
  const gpu = openGpu();
  for (const byteLength of SIZES(quick)) {
    const begin = performance.now();
    const { cuPointer, bytes } = gpu.driver.memory.allocatePinned(byteLength);
    const allocateMs = performance.now() - begin;
    bytes.fill(0x5a);
    const figures = copies(gpu, cuPointer, byteLength, quick ? 2 : 10);
    const freeing = performance.now();
    gpu.driver.memory.freePinned(cuPointer);
    const freeMs = performance.now() - freeing;
    report(`${byteLength / MIB} MiB`, { ...figures, allocateMs: median([allocateMs]), freeMs: median([freeMs]) });
  }
}

function hostAlloc({ quick, report }) {
  const gpu = openGpu();
  if (!gpu.bare.has("memHostAlloc")) throw new Unsupported("this libcuda has no memHostAlloc");
  for (const byteLength of SIZES(quick)) {
    const begin = performance.now();
    const cuPointer = gpu.bare.ask("memHostAlloc", byteLength, PORTABLE);
    const allocateMs = performance.now() - begin;
    const figures = copies(gpu, cuPointer, byteLength, quick ? 2 : 10);
    gpu.bare.status("memFreeHost", cuPointer);
    report(`${byteLength / MIB} MiB`, { ...figures, allocateMs: median([allocateMs]) });
  }
}

/** Every call that memory takes from its making to its end, milliseconds, the median of five. */
function memoryCalls({ quick, report }) {
  const gpu = openGpu();
  const { memory, context } = gpu.driver;
  for (const byteLength of quick ? [2 * MIB] : [2 * MIB, GIB, 8 * GIB, 64 * GIB]) {
    if (byteLength + GIB > context.memoryInfo().bytesFree && !quick) {
      report(`${byteLength / MIB} MiB`, "does not fit");
      continue;
    }
    const times = {};
    const time = (name, task) => {
      const begin = performance.now();
      const value = task();
      times[name] ??= [];
      times[name].push(performance.now() - begin);
      return value;
    };
    for (let left = quick ? 1 : 5; left > 0; left -= 1) {
      const handle = time("create", () => memory.create(byteLength, gpu.cuDevice));
      const at = time("reserveAddress", () => memory.reserveAddress(byteLength));
      time("map", () => memory.map(at, byteLength, handle));
      time("setAccess", () => memory.setAccess(at, byteLength, gpu.cuDevice, "read"));
      time("getAccess", () => memory.getAccess(at, gpu.cuDevice));
      time("memoryInfo", () => context.memoryInfo());
      time("unmap", () => memory.unmap(at, byteLength));
      time("freeAddress", () => memory.freeAddress(at, byteLength));
      time("release", () => memory.release(handle));
    }
    report(
      `${byteLength / MIB} MiB`,
      Object.fromEntries(Object.entries(times).map(([name, all]) => [name, median(all)])),
    );
  }
}

/** Uploads without any digest: the ring alone, from a file in the page cache and from memory. */
async function upload({ quick, report }) {
  const { vram, device } = await openProduct();
  const file = randomFile(quick ? 4 * MIB : 4 * GIB, "upload");
  const once = async (spec) => {
    const { sourceId, byteLength } = await device.openSource(spec, { format: "raw" });
    const allocationId = await device.allocate(byteLength);
    const request = { sourceId, allocationId, witness: false, sha256: false };
    const { value, ms, loop } = await watched(() => device.upload(request, {}));
    await device.closeSource(sourceId);
    await device.free(allocationId);
    return {
      ms: median([ms]),
      durationMs: median([value.durationMs]),
      gigabytesPerSecond: gigabytesPerSecond(byteLength, ms),
      loop,
    };
  };
  try {
    const fromFile = { kind: "path", path: file.path, roots: ["/"] };
    const bytes = quick ? readFileSync(file.path) : randomSource("memory").bytes(GIB);
    for (let run = 0; run < (quick ? 1 : 3); run += 1) report(`file, run ${run}`, await once(fromFile));
    for (let run = 0; run < (quick ? 1 : 3); run += 1)
      report(`memory, run ${run}`, await once({ kind: "bytes", bytes }));
  } finally {
    file.remove();
    await vram.close();
  }
}

/** The whole product: seal both ways, and verify. Peak memory is of this process, with its ring and its threads. */
async function seal({ quick, report }) {
  const { vram } = await openProduct();
  const file = randomFile(quick ? 4 * MIB : 4 * GIB, "seal");
  const runs = quick ? 1 : 3;
  const figures = ({ ms, loop }) => ({
    ms: median([ms]),
    gigabytesPerSecond: gigabytesPerSecond(file.byteLength, ms),
    loop,
  });
  try {
    report("idle", { loop: (await watched(() => new Promise((resolve) => setTimeout(resolve, 300)))).loop });
    report("peakBytesBefore", peakBytes());
    let digest;
    for (let run = 0; run < runs; run += 1) {
      const sealed = await watched(() => vram.seal(file.path, { format: "raw" }));
      report(`witnessed, run ${run}`, figures(sealed));
      ({ digest } = sealed.value.record);
      await vram.evict(sealed.value.record.shardId);
    }
    const expected = `fsverity:${digest}`;
    for (let run = 0; run < runs; run += 1) {
      const sealed = await watched(() => vram.seal(file.path, { format: "raw", expected }));
      report(`expected, run ${run}`, figures(sealed));
      if (run < runs - 1) await vram.evict(sealed.value.record.shardId);
    }
    const [{ shardId }] = vram.list();
    for (let run = 0; run < runs + 2; run += 1) {
      const verified = await watched(() => vram.verify(shardId));
      const { durationMs, readFrom } = verified.value;
      report(`verify, run ${run}`, { ...figures(verified), durationMs: median([durationMs]), readFrom });
    }
    const salted = await watched(() => vram.verify(shardId, { salt: "ab".repeat(32) }));
    report("verify with a salt", figures(salted));
    report("evict", { ms: median([(await watched(() => vram.evict(shardId))).ms]) });
    report("peakBytesAfter", peakBytes());
  } finally {
    file.remove();
    await vram.close();
  }
}

/** From a process without CUDA to a device that can seal. */
async function opening({ report }) {
  const begin = performance.now();
  const gpu = answerOf(() => openGpu());
  report("driver and context", { answer: gpu, ms: median([performance.now() - begin]) });
  for (const run of [0, 1]) {
    const { value, ms, loop } = await watched(() => openProduct());
    const closing = await watched(() => value.vram.close());
    report(`product, run ${run}`, { openMs: median([ms]), closeMs: median([closing.ms]), loop });
  }
}

export const title = "transfers, sealing and verifying, and the event loop meanwhile";
export const questions = {
  opening: { limitS: 30, ask: opening },
  registered: { limitS: 30, ask: registered },
  "host-alloc": { limitS: 30, ask: hostAlloc },
  "memory-calls": { limitS: 40, ask: memoryCalls },
  upload: { limitS: 60, ask: upload },
  seal: { limitS: 90, ask: seal },
};
