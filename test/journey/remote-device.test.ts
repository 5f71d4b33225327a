/** A device in a process of its own behaves like one in this process: same digests, same refusals, same entries. */
import { randomBytes, randomUUID } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { Device } from "../../src/device/device.ts";
import { toVramError } from "../../src/errors.ts";
import { inOperation } from "../../src/journal/scope.ts";
import { openProcessDevice } from "../../src/process/open-device.ts";
import { evict } from "../../src/residency/evict.ts";
import { sealModel } from "../../src/residency/seal-model.ts";
import type { SealRequest } from "../../src/residency/seal-request.ts";
import { createMemoryState } from "../../src/residency/state.ts";
import { readCapacity, resumeWorker } from "../../src/residency/worker.ts";
import { verify } from "../../src/verify/verify.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { digestOf } from "../helpers/reference.ts";
import { inProcess, openBench, openProcess, openRemote, remoteOptions, SIZES, sealRequest } from "../helpers/remote.ts";
import { MIB, temporaryFolder } from "../helpers/vram.ts";

/** Nobody else has memory on it. */
const UUID = `EMU-${randomUUID()}`;
const MODEL = buildSafetensors([
  { name: "a", dtype: "F32", shape: [256, 1024], data: randomBytes(MIB) },
  { name: "b", dtype: "F32", shape: [512, 1024], data: randomBytes(2 * MIB) },
]);
const RAW = randomBytes(9 * MIB + 4097);

/** What differs from run to run. */
const TIMES = new Set(
  ["seq", "timeMs", "measuredAtMs", "durationMs", "mac", "sealedAtMs", "instanceId", "correlationId"].concat([
    "ageMs",
    "bytesPerSecond",
  ]),
);

/** Without times; bytes as hex, in whatever kind of array they came. */
function comparable(value: unknown): unknown {
  if (value instanceof Uint8Array) return toHex(value);
  if (Array.isArray(value)) return value.map(comparable);
  if (typeof value !== "object" || value === null) return value;
  const fields = Object.entries(value).filter(([name]) => !TIMES.has(name) && !/At$/.test(name));
  return Object.fromEntries(fields.map(([name, field]) => [name, comparable(field)]));
}

const outcomeOf = async (task: Promise<unknown>): Promise<unknown> =>
  task.then(comparable, (thrown: unknown) => {
    const { code, message, fix, details, fatal } = toVramError(thrown);
    return comparable({ code, message, fix, details, fatal });
  });

async function* inPieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size);
}

interface Setting {
  readonly device: Device;
  readonly state: ReturnType<typeof createMemoryState>;
  readonly folder: string;
  /** Flips a bit of the nth allocation. */
  readonly flip: (index: number, offset: number, bit: number) => Promise<unknown>;
}

/** The whole journey; everything that came of it. */
async function journey({ device, state, folder, flip }: Setting): Promise<unknown> {
  const { system, worker, entries } = await openBench(device, state);
  const model = join(folder, "model.safetensors");
  const outcomes: unknown[] = [];
  const keep = async (task: () => Promise<unknown>): Promise<void> => {
    outcomes.push(await outcomeOf(inOperation(task)));
  };
  const seal = (given: Partial<SealRequest>, path = model) =>
    keep(() => sealModel(system, worker, sealRequest(path, given)));
  const check = (name: string, salt?: Uint8Array) => {
    const request = { presented: undefined, maxAgeMs: undefined, salt, signal: undefined };
    return keep(() => verify(system, worker, system.registry.find(name), request));
  };

  await seal({ name: "one", shardId: "shard-1", sha256: true });
  await seal({ name: "two", shardId: "shard-2", expected: { kind: "fsverity", bytes: digestOf(MODEL) } });
  await seal({ name: "three", shardId: "shard-3", spec: { kind: "bytes", bytes: RAW }, format: { format: "raw" } });
  const chunks = { kind: "chunks", chunks: inPieces(RAW, 5 * MIB), byteLength: RAW.byteLength } as const;
  await seal({ name: "four", shardId: "shard-4", spec: chunks });
  await seal({ name: "five", shardId: "shard-5", expected: { kind: "fsverity", bytes: new Uint8Array(32) } });
  const short = { kind: "chunks", chunks: inPieces(RAW, MIB), byteLength: RAW.byteLength + 1, name: "six" } as const;
  await seal({ spec: short, shardId: "shard-6" });
  await seal({ name: "seven", shardId: "shard-7" }, join(folder, "nothing.bin"));
  await seal({ name: "one", shardId: "shard-1", sha256: true });
  await check("one", new Uint8Array(16).fill(7));
  await check("four");
  await flip(0, 600_000, 3);
  await check("one");
  await seal({ name: "eight", shardId: "shard-8" });
  await keep(() => resumeWorker(system, worker, "seen to"));
  await keep(async () => evict(system, worker, system.registry.find("one")));
  await keep(() => readCapacity(worker));
  await keep(() => device.health());
  // How far a stream got before it failed is a matter of timing.
  const told = entries.filter((entry) => !(entry.type === "upload_progressed" && entry.name === "six"));
  return { outcomes, entries: told.map(comparable), scoped: told.map((entry) => "correlationId" in entry) };
}

/** The device of this process: what the others are held against. */
async function openHere() {
  const report = (): never => expect.fail("a release failed");
  const { device, close } = await openProcessDevice(await remoteOptions({ uuid: UUID }), report, { sizes: SIZES });
  const held: number[] = [];
  const allocate = device.allocate.bind(device);
  device.allocate = async (byteLength) => {
    held.push(await allocate(byteLength));
    return held.at(-1) ?? 0;
  };
  const flip: Setting["flip"] = (index, ...where) => device.flipBit(held[index] ?? 0, ...where);
  return { device, flip, close };
}

describe("the journey over a device of another process", () => {
  const state = createMemoryState();

  async function run(device: Device, flip: Setting["flip"]): Promise<unknown> {
    const folder = await temporaryFolder();
    await writeFile(join(folder, "model.safetensors"), MODEL);
    const outcome = await journey({ device, state, folder, flip });
    return JSON.parse(JSON.stringify(outcome).replaceAll(folder, "…"));
  }

  it("[VR-SEAL-05] [VR-DEV-05] is the journey over one of this process: digests, refusals, damage, entries", async () => {
    const here = await openHere();
    const expected = await run(here.device, here.flip);
    await here.close();
    expect(JSON.stringify(expected)).toContain("MEASUREMENT_MISMATCH");
    expect(JSON.stringify(expected)).toContain('"precision":"block"');

    const { device, tell } = await openProcess({ uuid: UUID });
    expect(await run(device, (...where) => tell("flip", ...where))).toEqual(expected);
    // As with a GPU: what one process has is not free for another.
    await device.close();

    let flip: Setting["flip"] = () => expect.fail("no device");
    const { start } = inProcess(async (request, report) => {
      const opened = await openProcessDevice(request, report, { sizes: SIZES });
      // Ids of allocations and sources are drawn in turn: the first allocation is the second.
      flip = (_index, ...where) => opened.device.flipBit(2, ...where);
      return opened;
    });
    const piped = await openRemote(await remoteOptions({ uuid: UUID, start }));
    expect(await run(piped, (...where) => flip(...where))).toEqual(expected);
  });
});
