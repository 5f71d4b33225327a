#!/usr/bin/env node
/**
 * The library in a program of your own: no service, the devices are opened by this process. It seals a model, holds a
 * lease on it, verifies it again and again, and hears from the journal what happens. Then a bit flips in VRAM, and it does
 * what a program should: it stops using the model, looks at the code of the error, and seals the model anew once somebody
 * has given a reason. Emulated device, temporary folder.
 *
 *     npm run build && node examples/05-library.mjs
 */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setInterval } from "node:timers/promises";
import { VramError } from "vram-residency";
// A program of yours has `openVram` of "vram-residency" here: the same, without the way into the memory.
import { openTestVram } from "vram-residency/testing";
import { writeModel } from "../scripts/make-model.mjs";

/** How often the bytes are measured. As long as nobody looks, nothing is found. */
const EVERY_MS = 100;

const say = (...words) => console.log(...words);

/** Hears of everything that happens, while it happens. `required: true` would make operations wait for it, and fail with it. */
const journal = {
  required: false,
  accept({ type, name, because, reason }) {
    const heard = ["vram_sealed", "lease_granted", "lease_revoked", "worker_stopped", "worker_resumed"];
    if (heard.includes(type)) say(`  journal: ${[type, name, because, reason].filter(Boolean).join(", ")}`);
  },
};

/** Measures the shard until it is not what was sealed; returns the error that says so. */
async function watch(vram, record, seal, onVerified) {
  for await (const _ of setInterval(EVERY_MS)) {
    try {
      // With the seal of ours: nobody can have put another shard in its place, under its name.
      await onVerified(await vram.verify(record.shardId, { seal }));
    } catch (error) {
      if (!(error instanceof VramError)) throw error;
      // `retriable` and `fatal` say what trying again is worth: a busy device is no damage.
      if (error.code !== "MEASUREMENT_MISMATCH") throw error;
      return error;
    }
  }
}

async function main(folder) {
  const path = join(folder, "model.safetensors");
  writeModel(path, 2 * 1024 * 1024);

  const { vram, flipBit } = await openTestVram({ emulated: { byteLength: 64 * 1024 * 1024 }, readers: [journal] });
  try {
    say("# the model is sealed, and measured before anybody relies on it");
    const { record, seal } = await vram.seal(path, { name: "model" });
    const { lease, verification } = await vram.acquire("model", { durationMs: 60_000, holder: "example", maxAgeMs: 0 });
    say(`fsverity:${record.digest}, ${verification.basis} on ${record.device.uuid}, backend ${record.backend}`);
    assert.equal(lease.digest, seal.digest);
    await assert.rejects(vram.evict("model"), { code: "SHARD_BUSY" });
    say("while the lease is held, it is not evicted");

    say("\n# it is verified again and again; after the third time a bit flips");
    let passed = 0;
    const error = await watch(vram, record, seal, async ({ bytesCovered }) => {
      passed += 1;
      say(`verified: ${bytesCovered} bytes measured`);
      if (passed === 3) await flipBit("model", 123_456, 7);
    });
    const [block] = error.details.damage.blocks;
    say(`${error.code} (retriable: ${error.retriable}): byte ${block.byteOffsets} of ${block.tensors}`);
    assert.deepEqual(block.byteOffsets, [123_456]);

    say("\n# nothing may rely on it any more: the lease is gone, and the device seals nothing");
    assert.deepEqual(vram.leases(), []);
    await assert.rejects(vram.seal(path, { name: "again" }), { code: "WORKER_STOPPED" });
    const { zeroed } = await vram.evict("model");
    say(`evicted, zeroed: ${zeroed}`);

    say("\n# somebody knows why; the same file is sealed again, and has to have the digest it had");
    await vram.resume("the example flipped that bit itself");
    const again = await vram.seal(path, { name: "model", expected: `fsverity:${record.digest}` });
    await vram.verify("model", { seal: again.seal });
    return passed;
  } finally {
    await vram.close();
  }
}

const folder = await mkdtemp(join(tmpdir(), "vram-example-"));
try {
  const passed = await main(folder);
  say(`\n✓ ${passed} verifications passed, the next one found the flipped bit, and the model was sealed anew`);
  say("  On the EMULATED device: no GPU was used, and nothing here is evidence about one.");
} finally {
  await rm(folder, { recursive: true });
}
