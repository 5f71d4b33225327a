/** Addresses cross the border to the driver and come back; none goes further, in whatever form. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { inspect } from "node:util";
import { describe, expect, it } from "vitest";
import type { CudaDriver } from "../../src/cuda/driver.ts";
import { POINTER_ATTRIBUTE } from "../../src/cuda/driver.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { fakeLog, openNative, reconfigureFake, runNative } from "../helpers/native.ts";
import { MIB, randomFile, temporaryFolder } from "../helpers/vram.ts";

/** Smaller values are sizes, flags and ordinals. The fake's contexts begin at 0xc047e000. */
const SMALLEST_ADDRESS = 0x8000_0000n;
const ALL_FAULTS = [STATUS.INVALID_VALUE, STATUS.OUT_OF_MEMORY, STATUS.ILLEGAL_ADDRESS];

/** Every form in which a value could be printed or sent. */
function everyForm(value: unknown): string {
  const jsonable = (_key: string, part: unknown): unknown => (typeof part === "bigint" ? part.toString() : part);
  const forms = [inspect(value, { depth: 12, showHidden: true, getters: true }), String(value)];
  forms.push(JSON.stringify(value, jsonable));
  if (value instanceof Error) forms.push(value.stack ?? "", JSON.stringify(Object.entries(value), jsonable));
  return forms.join("\n");
}

function bigintsIn(value: unknown): bigint[] {
  if (typeof value === "bigint") return [value];
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return [];
  return Object.values(value).flatMap(bigintsIn);
}

/** Collects every 64-bit value that is handed to the driver or comes from it, from now on. */
function watchBorder(driver: CudaDriver, seen: Set<bigint>): void {
  for (const noun of ["memory", "stream", "event", "module", "context"] as const) {
    const calls = driver[noun] as unknown as Record<string, (...args: unknown[]) => unknown>;
    for (const [verb, call] of Object.entries(calls)) {
      calls[verb] = (...args: unknown[]) => {
        const result = call(...args);
        for (const value of bigintsIn([args, result])) if (value >= SMALLEST_ADDRESS) seen.add(value);
        return result;
      };
    }
  }
}

/** Throws if one of the addresses occurs. */
function expectNone(addresses: ReadonlySet<bigint>, text: string): void {
  const lower = text.toLowerCase();
  const found = [...addresses].filter((at) => lower.includes(at.toString(16)) || lower.includes(at.toString(10)));
  expect(found, "addresses that were shown").toEqual([]);
}

describe.skipIf(fakeCuda() === undefined)(`what the native driver knows stays there${whyNoFakeCuda()}`, () => {
  it("[VR-MEM-07] no address in records, reports, errors, entries, devices or inspections, for a whole journey", async () => {
    const { path } = await randomFile(3 * MIB);
    const seen = new Set<bigint>();
    const { vram, open, entries, flipBit } = await openNative({ DEVICES: 2 });
    watchBorder(open.driver, seen);
    const sealed = await vram.seal(path, { name: "m" });
    const shown: unknown[] = [sealed, structuredClone(sealed), String(sealed.record)];
    shown.push(await vram.verify("m", { seal: sealed.seal, salt: "ab" }), vram.inspect("m"), vram.list(), vram);
    shown.push(vram.devices(), vram.checkPolicy(), await vram.capacity(), vram.backend, open.system, open.workers);
    await flipBit("m", 5, 5);
    shown.push(await vram.verify("m").catch((error: unknown) => error));
    shown.push(await vram.evict("m"));
    await vram.resume("seen");
    expect(seen.size).toBeGreaterThan(10);
    const text = [...shown, entries].map(everyForm).join("\n");
    expect(text.length).toBeGreaterThan(10_000);
    expectNone(seen, text);
  });

  it.each(ALL_FAULTS)(
    "[VR-MEM-07] [VR-IN-04] no address in any error of a seal, whichever call answers %d",
    async (status) => {
      const { path } = await randomFile(MIB);
      const clean = await fakeLog();
      const whole = await openNative({ LOG: clean.LOG });
      clean.take();
      await whole.vram.evict((await whole.vram.seal(path)).record.shardId);
      const symbols = [...new Set(clean.take().map(({ symbol }) => symbol))];
      await whole.vram.close();
      expect(symbols.length).toBeGreaterThan(15);

      const shown: unknown[] = [];
      const seen = new Set<bigint>();
      for (const symbol of symbols) {
        const log = await fakeLog();
        const { vram, open, entries } = await openNative({ LOG: log.LOG });
        watchBorder(open.driver, seen);
        reconfigureFake({ LOG: log.LOG, FAULTS: `${symbol}:${log.count(symbol) + 1}:${status}` });
        shown.push(await vram.seal(path).catch((error: unknown) => error));
        for (const { shardId } of vram.list()) shown.push(await vram.evict(shardId));
        await vram.close();
        shown.push(entries, vram.devices());
      }
      expect(shown.filter((value) => value instanceof Error).length).toBeGreaterThan(symbols.length / 2);
      expectNone(seen, shown.map(everyForm).join("\n"));
    },
  );

  it("[VR-MEM-07] the figures that a driver gives for a policy's facts are named, not printed", async () => {
    const { path } = await randomFile(MIB);
    const lie = 0x7eee_dead_b000n;
    const attributes = [POINTER_ATTRIBUTE.memoryType, POINTER_ATTRIBUTE.rangeSize, POINTER_ATTRIBUTE.accessFlags];
    for (const attribute of attributes) {
      const { vram, entries } = await openNative({ POINTER_ATTRIBUTES: `${attribute}=${lie}` });
      const error: unknown = await vram.seal(path).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: "POLICY_VIOLATION" });
      expectNone(new Set([lie, lie & 0xffff_ffffn]), [error, entries].map(everyForm).join("\n"));
    }
  });

  it("[VR-MEM-07] [VR-DEV-03] the JSON of try is stamped, names no path but those given, and holds nothing like an address", async () => {
    const path = join(await temporaryFolder(), "tiny.safetensors");
    const data = Uint8Array.from({ length: 700_000 }, (_, index) => index % 251);
    await writeFile(path, buildSafetensors([{ name: "w", dtype: "U8", shape: [data.length], data }]));
    const runs = [
      await runNative(["try", "--tamper", "--json", path]),
      await runNative(["try", "--json", path], { FAULTS: "cuMemcpyHtoDAsync_v2:9:700" }),
      await runNative(["try", "--json", path], { FAULTS: "cuMemCreate:2:2" }),
    ];
    expect(runs.map(({ code }) => code)).toEqual([0, 8, 1]);
    const library = fakeCuda()?.library;
    for (const { out } of runs) {
      const document = JSON.parse(out) as Record<string, unknown>;
      expect(document).toMatchObject({ schema: "vram-residency/try/v1", backend: { backend: "cuda-substituted" } });
      expect(new Set([...out.matchAll(/"backend": "([^"]+)"/g)].map(([, name]) => name))).toEqual(
        new Set(["cuda-substituted"]),
      );
      const paths = [...out.matchAll(/"(\/[^"]+)"/g)].map(([, found]) => found);
      expect(paths.filter((found) => found !== path && found !== library)).toEqual([]);
      // The fake's VRAM and the host's memory are mapped at 0x7…; as decimal that has 15 digits. A UUID or a
      // fraction may end alike.
      expect(out).not.toMatch(/(?<![-.\w])(0x[0-9a-f]+|7[0-9a-f]{11}|1[34]\d{13})\b/i);
    }
    expect(JSON.parse(runs[0]?.out ?? "{}")).toMatchObject({
      evidence: expect.stringContaining("SUBSTITUTED") as string,
    });
  });
});
