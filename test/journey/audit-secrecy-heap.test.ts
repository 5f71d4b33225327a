/**
 * The heap of a process that has sealed, verified and written its log over several epochs, and still runs: no key of it
 * is a JavaScript string. Keys live outside of that heap, as KeyObjects and in buffers that are overwritten.
 */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { epochOf, findSecrets, plantState, type Secret, secretsOf } from "../helpers/secrets.ts";
import { MIB, randomFile, temporaryFolder } from "../helpers/vram.ts";

const dist = (file: string): string => JSON.stringify(new URL(`../../dist/${file}`, import.meta.url).href);

/** Travels on `dist`, writes a snapshot of its heap while all is open, and ends. `plant` is run before. */
const program = (plant: string): string => `
  import { readFileSync } from "node:fs";
  import { writeHeapSnapshot } from "node:v8";
  import { createMetrics } from ${dist("metrics/metrics.js")};
  import { createNarrator } from ${dist("narrate/narrator.js")};
  import { openTestVram } from ${dist("testing.js")};
  const [stateDir, model, snapshot] = process.argv.slice(1);
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
  ${plant}
  writeHeapSnapshot(snapshot);
  await vram.close();
`;

interface Snapshot {
  /** Every string on the heap. */
  readonly text: string;
  readonly secrets: readonly Secret[];
  readonly epoch: number;
}

/** Runs the program over a state whose keys are known. */
async function snapshotOf(plant = ""): Promise<Snapshot> {
  const folder = await temporaryFolder();
  const [stateDir, snapshot] = [join(folder, "state"), join(folder, "heap.heapsnapshot")];
  const [root, k0] = [randomBytes(32), randomBytes(32)];
  await plantState(stateDir, root, k0);
  const { path } = await randomFile(MIB);
  // Long strings are cut in a snapshot, unless it is told otherwise.
  const flags = ["--heap-snapshot-string-limit=16777216", "--input-type=module", "-e", program(plant)];
  await promisify(execFile)(process.execPath, [...flags, stateDir, path, snapshot]);
  const { strings } = JSON.parse(await readFile(snapshot, "utf8")) as { strings: string[] };
  return { text: strings.join("\n"), secrets: await secretsOf(stateDir, root, k0), epoch: await epochOf(stateDir) };
}

describe("a snapshot of the heap", () => {
  it("[VR-AUD-01] [VR-NAR-02] [VR-SEAL-03] has no root key, no derived key, and no key of the log", async () => {
    const { text, secrets, epoch } = await snapshotOf();
    // It is the heap of that journey: what is public is there.
    for (const found of ["vram_sealed", "MEASUREMENT_MISMATCH", "audit-epoch.key"]) expect(text).toContain(found);
    expect(epoch).toBe(5);
    const names = secrets.map(({ name }) => name);
    for (const name of ["root key", "set key", "K(0)", "K(5)", "mac key of epoch 1", "log's seed"]) {
      expect(names).toContain(name);
    }
    expect(findSecrets(text, secrets)).toEqual([]);
  });

  it("shows a key that is kept as a string, in each form of it", async () => {
    const { text, secrets, epoch } = await snapshotOf(`
      const current = Buffer.from(read("audit-epoch.key").split(" ")[1].trim(), "hex");
      const seed = read("audit-log.key").split("\\n")[1];
      globalThis.planted = [read("root.key"), current.toString("latin1"), current.toString("base64"), { seed }];
    `);
    expect(findSecrets(text, secrets).toSorted()).toEqual(
      [`K(${epoch}): base64`, `K(${epoch}): raw`, "log's seed: base64", "root key: hex"].toSorted(),
    );
  });
});
