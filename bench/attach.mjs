/**
 * `npm run bench -- attach`: how long it takes until another process has a sealed model in its memory: by attaching to
 * it, by reading the file, and by having it sealed again. On the EMULATED device. Attaching includes the connection, a
 * lease on a measurement that is fresh enough, and two durable lines of the audit log; a view of every tensor is timed
 * apart, since that goes by the number of tensors and not by bytes. What the bench writes is flushed first: the audit log
 * would wait for it at its own flushes.
 */
import { spawnSync } from "node:child_process";
import { closeSync, fsyncSync, mkdtempSync, openSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openClient } from "../dist/client.js";
import { alternate, environment, report, round } from "./measure.mjs";
import { startService } from "./serve.mjs";

const MAKE = fileURLToPath(new URL("../scripts/make-model.mjs", import.meta.url));
const LARGE_MS = 20;

const seconds = async (task) => {
  const start = performance.now();
  await task();
  return (performance.now() - start) / 1000;
};

function flush(path) {
  const file = openSync(path, "r");
  fsyncSync(file);
  closeSync(file);
}

/** Into one buffer: throwing 1 GiB away each time would have the collector run in what is timed next. */
function readWhole(path, buffer) {
  const file = openSync(path, "r");
  let at = 0;
  for (let read = -1; read !== 0; at += read) read = readSync(file, buffer, at, buffer.byteLength - at, at);
  closeSync(file);
}

export async function benchAttach({ mib, runs, json }) {
  const folder = mkdtempSync(join(tmpdir(), "vram-bench-"));
  const sizes = [1, Math.min(256, mib), mib];
  const service = await startService(folder, 4 * mib * 2 ** 20 + 2 ** 28);
  const client = openClient({ socket: service.socket });
  try {
    const models = [];
    for (const size of new Set(sizes)) {
      const path = join(folder, `${size}.safetensors`);
      const made = spawnSync(process.execPath, [MAKE, path, "--mib", String(size)]);
      if (made.status !== 0) throw new Error(`no model of ${size} MiB: ${made.stderr}`);
      flush(path);
      const { result } = await client.seal({ path, name: `m${size}`, wait: true });
      const { record } = result.shards[0];
      models.push({
        size,
        path,
        name: `m${size}`,
        expect: `fsverity:${record.digest}`,
        byteLength: record.byteLength,
      });
    }
    const attached = async ({ name, expect }, use) => {
      const start = performance.now();
      const attachment = await client.attach(name, { expect, maxAgeMs: 3_600_000 });
      const taken = (performance.now() - start) / 1000;
      try {
        return use === undefined ? taken : await seconds(() => use(attachment));
      } finally {
        await attachment.close();
      }
    };
    const attach = (model) => attached(model);
    const viewEverything = (model) =>
      attached(model, ({ tensors, tensor }) => {
        for (const name of tensors.keys()) tensor(name);
      });
    const large = models.at(-1);
    const buffer = Buffer.alloc(large.byteLength, 1);
    const sealAgain = async () => {
      const taken = await seconds(() => client.seal({ path: large.path, name: "again", wait: true }));
      await client.evict("again");
      return taken;
    };
    for (const model of models) await attach(model);
    await sealAgain();
    const results = await alternate(
      [
        ...models.map((model) => ({ name: `attach to ${model.size} MiB`, run: () => attach(model) })),
        { name: `a view of every tensor of ${large.size} MiB`, run: () => viewEverything(large) },
        {
          name: `read the file of ${large.size} MiB`,
          byteLength: large.byteLength,
          run: () => seconds(() => readWhole(large.path, buffer)),
        },
        { name: `seal ${large.size} MiB again`, byteLength: large.byteLength, run: sealAgain },
      ],
      Math.max(runs, 9),
    );
    const taken = results.slice(0, models.length).map(({ medianSeconds }) => medianSeconds * 1000);
    const figures = {
      "attach, ms, by size": models.map(({ size }, index) => `${size} MiB: ${round(taken[index])}`).join(", "),
      [`largest within ${LARGE_MS} ms`]: taken.at(-1) <= LARGE_MS,
      "largest, times the smallest": round(taken.at(-1) / taken[0]),
    };
    report({ bench: "attach", backend: "emulated", ...environment(), mib, runs, results, figures }, json);
  } finally {
    client.close();
    await service.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}
