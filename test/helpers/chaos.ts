/**
 * Orders of events drawn from a seed: readers of the journal, the file system, timers and work on the device each wait
 * for a number of turns of the event loop. Nothing sleeps.
 */
import { createCipheriv } from "node:crypto";
import { setImmediate } from "node:timers";
import { expect } from "vitest";
import { u64le } from "../../src/bytes.ts";
import { systemClock } from "../../src/clock.ts";
import type { EmulatedFaults } from "../../src/cuda/emulated/faults.ts";
import type { Tenant } from "../../src/cuda/monitor.ts";
import { VramError } from "../../src/errors.ts";
import type { TestOptions, VramOptions } from "../../src/open.ts";
import { type FileSystem, nodeFileSystem } from "../../src/source/file.ts";
import { MIB, openSmall, type Recorded } from "./vram.ts";

/** An order, and what happens in it. */
export interface Chaos {
  /** 0 … n − 1. */
  readonly pick: (n: number) => number;
  /** Waits for some turns of the event loop: mostly few. */
  readonly wait: () => Promise<void>;
  /** Starts `task` after a wait; what it ends with: "ok" or a code. */
  readonly later: (task: () => Promise<unknown>) => Promise<string>;
  readonly open: (
    options?: VramOptions,
    test?: { readonly breakIt?: EmulatedFaults["onExecute"]; readonly tenants?: Tenant[] },
  ) => Promise<Recorded>;
}

/** The order of this seed. */
export function chaosOf(seed: number): Chaos {
  const stream = createCipheriv("aes-128-ctr", Buffer.concat([u64le(seed), u64le(0)]), Buffer.alloc(16));
  const pick = (n: number): number => stream.update(Buffer.alloc(4)).readUInt32LE() % n;
  const turns = async (n: number): Promise<void> => {
    for (let turn = 0; turn < n; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  };
  const wait = (): Promise<void> => turns([0, 0, 1, 2, 5, 12, 30, 60][pick(8)] ?? 0);
  const delayed = async <T>(run: () => Promise<T>): Promise<T> => {
    await wait();
    const value = await run();
    await wait();
    return value;
  };
  const fs: FileSystem = {
    realpath: (path) => delayed(() => nodeFileSystem.realpath(path)),
    readlink: (path) => delayed(() => nodeFileSystem.readlink(path)),
    open: (path, flags) => delayed(() => nodeFileSystem.open(path, flags)),
  };
  const faults = (breakIt: EmulatedFaults["onExecute"]): EmulatedFaults => ({
    onExecute: (point) => breakIt?.(point) ?? (pick(10) === 0 ? "stall" : undefined),
    onStall: (resume) => void wait().then(resume),
  });
  const clock = { ...systemClock, sleep: wait };
  const small: TestOptions = { fs, clock, ringSlots: 2, measureWindowBytes: MIB / 2 };
  return {
    pick,
    wait,
    later: async (task) => {
      await wait();
      return task().then(
        () => "ok",
        (error: unknown) => (error instanceof VramError ? error.code : expect.fail(String(error))),
      );
    },
    open: (options = {}, { breakIt, tenants = [] } = {}) =>
      openSmall(
        { emulated: { byteLength: 64 * MIB }, readers: [{ required: true, accept: wait }], ...options },
        { ...small, deviceSpec: { tenants }, faults: faults(breakIt) },
      ),
  };
}
