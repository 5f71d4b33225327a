/** Who else holds emulated memory: found under /proc, counted once, and not given to anybody else. */
import { randomUUID } from "node:crypto";
import { closeSync } from "node:fs";
import { basename } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { findHolders } from "../../src/cuda/emulated/holders.ts";
import { emulatedMonitor } from "../../src/cuda/emulated/monitor.ts";
import type { EmulatedDeviceSpec } from "../../src/cuda/emulated/options.ts";
import { openShareable } from "../../src/cuda/emulated/shareable.ts";
import type { Tenant } from "../../src/cuda/monitor.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { GRANULE, type Machine, type Mapped, MIB, openMachine, statusOf } from "../helpers/emulated.ts";
import { type Held, type Holder, startHolder } from "../helpers/holder.ts";

const NODE = basename(process.execPath);
const TOTAL = 64 * MIB;
/** Of a process of before. */
const TAG = "0123456789abcdef";

const holders: Holder[] = [];
afterEach(async () => {
  for (const holder of holders.splice(0)) await holder.end();
});

/** A machine with one device that nobody else has, and its specification. */
function shareable(given: Partial<EmulatedDeviceSpec> = {}): {
  readonly spec: EmulatedDeviceSpec;
  readonly open: () => Machine;
} {
  const spec = { uuid: `EMU-${randomUUID()}`, byteLength: TOTAL, shareable: openShareable, ...given };
  return { spec, open: () => openMachine({ devices: [spec] }) };
}

const bytesFree = ({ driver }: Machine): number => driver.context.memoryInfo().bytesFree;

async function hold(held: Held, byteLength: number, isMapped?: boolean): Promise<Holder> {
  const holder = await startHolder(held, byteLength, isMapped);
  holders.push(holder);
  return holder;
}

/** Has other processes hold an allocation, and closes what it was handed over by. */
async function handOver(machine: Machine, mapped: Mapped, ...kinds: readonly boolean[]): Promise<Holder[]> {
  const fd = machine.driver.memory.exportFd(mapped.cuHandle);
  const started: Holder[] = [];
  for (const isMapped of kinds) started.push(await hold({ fd }, mapped.byteLength, isMapped));
  closeSync(fd);
  return started.sort((a, b) => a.pid - b.pid);
}

const row = ({ pid }: Holder, byteLength: number): Tenant => ({ pid, name: NODE, byteLength });

describe("memory that was freed while others hold it", () => {
  test.each([
    ["mapped", true],
    ["behind a descriptor", false],
  ])("[VR-MEM-04] %s is not free before they let go of it", async (_, isMapped) => {
    const { spec, open } = shareable();
    const machine = open();
    const mapped = machine.allocate(4 * GRANULE);
    const [holder = expect.fail()] = await handOver(machine, mapped, isMapped);
    // As long as it is allocated it is in the account of this process, and counts once.
    expect([bytesFree(machine), findHolders(spec.uuid)]).toEqual([TOTAL - 4 * GRANULE, []]);
    const own = machine.driver.memory.exportFd(mapped.cuHandle);
    machine.free(mapped);
    expect(findHolders(spec.uuid)).toEqual([row(holder, 4 * GRANULE)]);
    expect(bytesFree(machine)).toBe(TOTAL - 4 * GRANULE);
    expect(statusOf(() => machine.driver.memory.create(TOTAL, 0))).toBe(STATUS.OUT_OF_MEMORY);
    await holder.end();
    // What this process still has a descriptor of is its own affair.
    expect([bytesFree(machine), findHolders(spec.uuid)]).toEqual([TOTAL, []]);
    closeSync(own);
    machine.driver.memory.release(machine.driver.memory.create(TOTAL, 0));
  });

  test("[VR-MEM-04] counts once, however many hold it, and each memory for itself", async () => {
    const { spec, open } = shareable();
    const machine = open();
    const [one, other] = [machine.allocate(GRANULE), machine.allocate(2 * GRANULE)];
    const [first = expect.fail(), second = expect.fail()] = await handOver(machine, one, true, false);
    machine.free(one);
    expect(findHolders(spec.uuid)).toEqual([row(first, GRANULE)]);
    await first.end();
    expect(findHolders(spec.uuid)).toEqual([row(second, GRANULE)]);
    const [third = expect.fail()] = await handOver(machine, other, true);
    expect(bytesFree(machine)).toBe(TOTAL - 3 * GRANULE);
    machine.free(other);
    expect(bytesFree(machine)).toBe(TOTAL - 3 * GRANULE);
    expect(findHolders(spec.uuid)).toEqual([row(second, GRANULE), row(third, 2 * GRANULE)]);
  });
});

describe("memory of a process that is gone", () => {
  test("[VR-MEM-04] is not free on a device that is opened later, and its holder is named", async () => {
    const { spec, open } = shareable({ tenants: [{ pid: 1, name: "other", byteLength: GRANULE }] });
    const holder = await hold({ name: `vram-residency:${spec.uuid}:${TAG}:7:${6 * MIB}` }, 6 * MIB);
    const machine = open();
    expect(bytesFree(machine)).toBe(TOTAL - GRANULE - 6 * MIB);
    const { processes } = await emulatedMonitor([spec]).read(spec.uuid);
    expect(processes).toEqual([{ pid: 1, name: "other", byteLength: GRANULE }, row(holder, 6 * MIB)]);
    await holder.end();
    expect(bytesFree(machine)).toBe(TOTAL - GRANULE);
    // Who found some goes on looking.
    await hold({ name: `vram-residency:${spec.uuid}:${TAG}:8:${4 * MIB}` }, 4 * MIB);
    expect(bytesFree(machine)).toBe(TOTAL - GRANULE - 4 * MIB);
  });

  test("is looked for at first, and no more where there was none, until memory outlives its allocation", async () => {
    const { spec, open } = shareable();
    const machine = open();
    expect(bytesFree(machine)).toBe(TOTAL);
    await hold({ name: `vram-residency:${spec.uuid}:${TAG}:9:${2 * MIB}` }, 2 * MIB);
    expect(bytesFree(machine)).toBe(TOTAL);
    machine.free(machine.allocate(GRANULE));
    expect(bytesFree(machine)).toBe(TOTAL);
    const mapped = machine.allocate(GRANULE);
    await handOver(machine, mapped);
    expect(bytesFree(machine)).toBe(TOTAL - GRANULE);
    machine.free(mapped);
    expect(bytesFree(machine)).toBe(TOTAL - 2 * MIB);
  });

  test("is told by its whole name: of another device, of no size, or of another kind it is not ours", async () => {
    const { spec } = shareable();
    const names = [
      `vram-residency:${spec.uuid}0:${TAG}:1:4096`,
      `vram-residency:${spec.uuid}:${TAG}:1`,
      `vram-residency:${spec.uuid}:${TAG}:1:x`,
      `vram-residency:${spec.uuid}:1:1:4096`,
      `other-vram-residency:${spec.uuid}:${TAG}:1:4096`,
    ];
    for (const name of names) await hold({ name }, 4096);
    expect(findHolders(spec.uuid)).toEqual([]);
  });

  test("is not looked for where memory cannot be shared", async () => {
    const spec = { ...shareable().spec };
    await hold({ name: `vram-residency:${spec.uuid}:${TAG}:1:${2 * MIB}` }, 2 * MIB);
    const machine = openMachine({ devices: [{ uuid: spec.uuid, byteLength: TOTAL }] });
    expect(bytesFree(machine)).toBe(TOTAL);
    expect(await emulatedMonitor([]).read(spec.uuid)).toEqual({ processes: [] });
  });
});
