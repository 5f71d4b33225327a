/**
 * A process that has sealed, verified and written its log over several epochs, and still runs: no key of it is a
 * JavaScript string, and of the epochs that are over no key is anywhere in its memory. Keys live outside of the heap, as
 * KeyObjects and in buffers that are overwritten.
 */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { epochOf, findSecrets, plantState, type Secret, secretsOf } from "../helpers/secrets.ts";
import { MIB, randomFile, temporaryFolder } from "../helpers/vram.ts";

const dist = (file: string): string => JSON.stringify(new URL(`../../dist/${file}`, import.meta.url).href);

/** Travels on `dist`, does `then` while all is open, says so, and closes once its input ends. */
const program = (then: string): string => `
  import { readFileSync } from "node:fs";
  import { writeHeapSnapshot } from "node:v8";
  import { createMetrics } from ${dist("metrics/metrics.js")};
  import { createNarrator } from ${dist("narrate/narrator.js")};
  import { openTestVram } from ${dist("testing.js")};
  const [stateDir, model, snapshot] = process.argv.slice(1);
  const closing = new Promise((resolve) => process.stdin.on("end", resolve).resume());
  const read = (file) => readFileSync(stateDir + "/" + file, "latin1");
  let ahead = 0;
  const clock = {
    wallMs: () => Date.now(),
    monotonicMs: () => performance.now() + ahead,
    sleep: () => new Promise((resolve) => setImmediate(resolve)),
  };
  const told = [];
  const narrator = await createNarrator({ format: "json", level: "debug", write: (text) => told.push(text) });
  const metrics = await createMetrics();
  const readers = [narrator, metrics.reader];
  const options = { stateDir, hashThreads: 0, emulated: { byteLength: 128 * 2 ** 20 }, readers };
  const first = await openTestVram(options, { clock });
  await first.vram.close();
  const { vram, flipBit } = await openTestVram(options, { clock });
  for (const salt of ["ab", "cd", "ef"]) {
    const { seal } = await vram.seal(model, { name: "m" });
    await vram.verify("m", { seal, salt });
    await vram.evict("m");
    ahead += 15 * 60_000;
  }
  const kept = [await vram.seal(model, { name: "m" }), await vram.sealSet(model, { name: "s" })];
  await flipBit("m", 5, 5);
  kept.push(await vram.verify("m").catch((error) => error), await metrics.text());
  globalThis.kept = [kept, told];
  ${then}
  process.stdout.write("ready\\n");
  await closing;
  await vram.close();
`;

interface Journey {
  readonly pid: number;
  readonly snapshot: string;
  readonly secrets: readonly Secret[];
  /** The one that runs. */
  readonly epoch: number;
}

/** Runs the program over a state whose keys are known; `look` is called while it is open. */
async function during<T>(then: string, look: (journey: Journey) => T | Promise<T>): Promise<T> {
  const folder = await temporaryFolder();
  const [stateDir, snapshot] = [join(folder, "state"), join(folder, "heap.heapsnapshot")];
  const [root, k0] = [randomBytes(32), randomBytes(32)];
  await plantState(stateDir, root, k0);
  const { path } = await randomFile(MIB);
  // Long strings are cut in a snapshot, unless it is told otherwise.
  const flags = ["--heap-snapshot-string-limit=16777216", "--input-type=module", "-e", program(then)];
  const child = spawn(process.execPath, [...flags, stateDir, path, snapshot], { stdio: ["pipe", "pipe", "inherit"] });
  const ended = once(child, "close");
  try {
    const [said] = (await Promise.race([once(child.stdout, "data"), ended])) as [unknown];
    expect(String(said)).toBe("ready\n");
    const secrets = await secretsOf(stateDir, root, k0);
    return await look({ pid: child.pid ?? 0, snapshot, secrets, epoch: await epochOf(stateDir) });
  } finally {
    child.stdin.end();
    expect((await ended)[0]).toBe(0);
  }
}

/** Every string on the heap. */
async function stringsOf({ snapshot }: Journey): Promise<string> {
  const { strings } = JSON.parse(await readFile(snapshot, "utf8")) as { strings: string[] };
  return strings.join("\n");
}

const SNAPSHOT = "writeHeapSnapshot(snapshot);";

describe("a snapshot of the heap", () => {
  it("[VR-AUD-01] [VR-NAR-02] [VR-SEAL-03] has no root key, no derived key, and no key of the log", async () => {
    await during(SNAPSHOT, async (journey) => {
      const text = await stringsOf(journey);
      // It is the heap of that journey: what is public is there.
      for (const found of ["vram_sealed", "MEASUREMENT_MISMATCH", "audit-epoch.key"]) expect(text).toContain(found);
      expect(journey.epoch).toBe(5);
      const names = journey.secrets.map(({ name }) => name);
      for (const name of ["root key", "set key", "K(0)", "K(5)", "mac key of epoch 1", "log's seed"]) {
        expect(names).toContain(name);
      }
      expect(findSecrets(text, journey.secrets)).toEqual([]);
    });
  });

  it("shows a key that is kept as a string, in each form of it", async () => {
    const plant = `
      const current = Buffer.from(read("audit-epoch.key").split(" ")[1].trim(), "hex");
      const seed = read("audit-log.key").split("\\n")[1];
      globalThis.planted = [read("root.key"), current.toString("latin1"), current.toString("base64"), { seed }];
    `;
    await during(plant + SNAPSHOT, async (journey) => {
      const { secrets, epoch } = journey;
      expect(findSecrets(await stringsOf(journey), secrets).toSorted()).toEqual(
        [`K(${epoch}): base64`, `K(${epoch}): raw`, "log's seed: base64", "root key: hex"].toSorted(),
      );
    });
  });
});

const PIECE = 16 * MIB;
/** A key that lies across two pieces is in one of both. */
const OVERLAP = 128;

/** What a process can read of its own memory, piece by piece. */
function* memoryOf(pid: number, memory: number): Generator<Buffer> {
  for (const line of readFileSync(`/proc/${pid}/maps`, "latin1").split("\n")) {
    const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) r\S+ (?!.*\[v)/.exec(line) ?? [];
    if (from === undefined || to === undefined) continue;
    const end = BigInt(`0x${to}`);
    for (let at = BigInt(`0x${from}`); at < end; at += BigInt(PIECE)) {
      const piece = Buffer.alloc(Math.min(PIECE + OVERLAP, Number(end - at)));
      try {
        yield piece.subarray(0, readSync(memory, piece, 0, piece.byteLength, at));
      } catch {
        // Mapped, and nothing behind it.
      }
    }
  }
}

/** The memory of another process; undefined where that may not be read. */
function openMemory(pid: number): number | undefined {
  try {
    return openSync(`/proc/${pid}/mem`, "r");
  } catch {
    return undefined;
  }
}

describe("the memory of the process", () => {
  it("[VR-AUD-02] has no key of an epoch that is over, raw or in hex, although nothing was collected", async ({
    skip,
  }) => {
    await during("", ({ pid, secrets, epoch }) => {
      const memory = openMemory(pid);
      if (memory === undefined) return skip("the memory of another process cannot be read here");
      const found = new Set<string>();
      const keys = secrets.filter(({ name }) => /^K\(/.test(name));
      try {
        for (const piece of memoryOf(pid, memory)) {
          for (const { name, bytes } of keys) {
            const hex = Buffer.from(Buffer.from(bytes).toString("hex"));
            if (piece.includes(Buffer.from(bytes)) || piece.includes(hex)) found.add(name);
          }
        }
      } finally {
        closeSync(memory);
      }
      // The key of the epoch that runs is there, which shows that the search finds keys.
      expect([...found]).toEqual([`K(${epoch})`]);
    });
  });
});
