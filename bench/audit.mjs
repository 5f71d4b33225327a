/**
 * `npm run bench -- audit`: durable entries per second with 64 writers, lines verified per second, and what the log
 * costs a seal on the EMULATED device. The disk is that of the temporary folder; it is written to the result.
 */
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openAuditLog } from "../dist/audit/audit-log.js";
import { escrowEpochKey, readEpochFile } from "../dist/audit/key-files.js";
import { verifyLog } from "../dist/audit/verify-log.js";
import { systemClock } from "../dist/clock.js";
import { createJournal } from "../dist/journal/journal.js";
import { openTestVram } from "../dist/testing.js";
import { alternate, environment, randomFile, report, round } from "./measure.mjs";

const WRITERS = 64;
const ENTRIES_EACH = 500;
const VERIFIED_LINES = 300_000;

const entry = (n) => ({
  type: "seal_verified",
  device: { ordinal: 0, uuid: "EMU-6f1c9a52-0b7e-4d38-9c41-5e2a8f70d3b6" },
  shardId: "shard-abcdefghijklmnopqrstuvwxyz",
  name: "model-00001-of-00004.safetensors",
  digest: "60669d67fba9f8310b70df1a4e51c0093d108b0ba31c295babb88be4027b0f95",
  bytesCovered: 4_294_967_296 + n,
  durationMs: 5.25,
});

function open(stateDir) {
  return openAuditLog({
    stateDir,
    clock: systemClock,
    boot: randomBytes(16),
    mode: "required",
    note: () => undefined,
    retentionDays: 365,
    maxBytes: 8 * 2 ** 30,
  });
}

/** Seconds for `writers` that each append `each` entries, one after the other. */
async function append(stateDir, writers, each) {
  mkdirSync(stateDir, { mode: 0o700, recursive: true });
  const journal = createJournal(systemClock);
  const log = await open(stateDir);
  journal.attach(log.reader);
  const start = performance.now();
  const write = async () => {
    for (let n = 0; n < each; n += 1) await journal.append(entry(n));
  };
  await Promise.all(Array.from({ length: writers }, write));
  const seconds = (performance.now() - start) / 1000;
  await log.close();
  return seconds;
}

/** Lines per second of the offline verifier, every mac checked. */
async function verifySpeed(folder, runs) {
  const stateDir = join(folder, "long");
  const escrow = join(folder, "escrow");
  mkdirSync(stateDir, { mode: 0o700 });
  await escrowEpochKey(stateDir, escrow);
  // Fewer, larger batches: this is about reading.
  await append(stateDir, 2000, VERIFIED_LINES / 2000);
  const rates = [];
  for (let run = 0; run < runs; run += 1) {
    const epochKeys = await readEpochFile(escrow);
    const start = performance.now();
    const { verdict, entries } = await verifyLog(join(stateDir, "audit"), { epochKeys });
    if (verdict !== "intact") throw new Error("the log must be intact");
    rates.push(entries / ((performance.now() - start) / 1000));
  }
  return rates.sort((a, b) => a - b)[Math.floor(runs / 2)];
}

async function sealer(folder, name, mode, file, expected) {
  const stateDir = join(folder, name);
  const { vram } = await openTestVram({
    stateDir,
    audit: { mode },
    emulated: { byteLength: 2 * file.byteLength + 2 ** 28 },
  });
  const run = async () => {
    const start = performance.now();
    const { record } = await vram.seal(file.path, { format: "raw", ...expected });
    const seconds = (performance.now() - start) / 1000;
    await vram.evict(record.shardId);
    return seconds;
  };
  await run();
  return { contender: { name, byteLength: file.byteLength, run }, close: () => vram.close() };
}

export async function benchAudit({ mib, runs, json }) {
  const folder = mkdtempSync(join(tmpdir(), "vram-bench-"));
  const file = randomFile(mib);
  const disk = String(spawnSync("df", ["--output=fstype,source", folder]).stdout)
    .trim()
    .split("\n")
    .at(-1);
  try {
    const rates = [];
    for (let run = 0; run < runs; run += 1) {
      rates.push((WRITERS * ENTRIES_EACH) / (await append(join(folder, `state-${run}`), WRITERS, ENTRIES_EACH)));
    }
    const perSecond = rates.sort((a, b) => a - b)[Math.floor(runs / 2)];
    const one = 1 / ((await append(join(folder, "single"), 1, 200)) / 200);
    const linesPerSecond = await verifySpeed(folder, runs);
    const off = await sealer(folder, "seal, no audit log", "off", file, {});
    const on = await sealer(folder, "seal, audit log required", "required", file, {});
    const results = await alternate([off.contender, on.contender], Math.max(runs, 9));
    await off.close();
    await on.close();
    const [without, withLog] = results.map(({ medianSeconds }) => medianSeconds);
    const figures = {
      [`durable entries per second, ${WRITERS} writers`]: Math.round(perSecond),
      "durable entries per second, 1 writer": Math.round(one),
      "lines verified per second, all macs": Math.round(linesPerSecond),
      "seal with the log, times without": round(withLog / without),
    };
    report({ bench: "audit", backend: "emulated", ...environment(), disk, mib, runs, results, figures }, json);
  } finally {
    rmSync(folder, { recursive: true, force: true });
    file.remove();
  }
}
