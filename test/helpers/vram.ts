/** A small emulated system for tests: tiny ring and windows, no threads, everything counted. */
import { randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect } from "vitest";
import type { Entry } from "../../src/journal/entry.ts";
import type { TestOptions, VramOptions } from "../../src/open.ts";
import { liveHandles, openTestVram, type TestVram } from "../../src/testing.ts";

export const MIB = 1024 * 1024;

export interface Recorded extends TestVram {
  readonly entries: Entry[];
  readonly types: () => string[];
}

const opened: Recorded[] = [];
const folders: string[] = [];

/** 128 MiB of emulated VRAM, 512 KiB slots and windows, no headroom; closed after the test. */
export async function openSmall(options: VramOptions = {}, test: TestOptions = {}): Promise<Recorded> {
  const entries: Entry[] = [];
  const reader = { required: true, accept: (entry: Entry) => void entries.push(entry) };
  const opener = await openTestVram(
    {
      emulated: { byteLength: 128 * MIB },
      hashThreads: 0,
      headroomBytes: 0,
      ...options,
      readers: [reader, ...(options.readers ?? [])],
    },
    { ringSlots: 3, ringSlotBytes: MIB / 2, measureWindowBytes: 4 * MIB, ...test },
  );
  const recorded = { ...opener, entries, types: () => entries.map((entry) => entry.type) };
  opened.push(recorded);
  return recorded;
}

/** A fresh temporary folder, removed after the test. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "vram-test-"));
  folders.push(folder);
  return folder;
}

/** Random bytes in a file of a fresh folder. */
export async function randomFile(byteLength: number, name = "model.bin"): Promise<{ path: string; bytes: Buffer }> {
  const path = join(await temporaryFolder(), name);
  const bytes = randomBytes(byteLength);
  await writeFile(path, bytes);
  return { path, bytes };
}

/** The last entry that is kept: what comes behind it are figures, and how the operation ended. */
export const lastDurable = (entries: readonly Entry[]): Entry | undefined =>
  entries.findLast((entry) => entry.durability === "durable");

/** The code of the `VramError` that `task` ends with. */
export async function codeOf(task: Promise<unknown>): Promise<string> {
  const error = await task.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  return error instanceof Error && "code" in error ? String(error.code) : `no error: ${String(error)}`;
}

afterEach(async () => {
  for (const one of opened.splice(0)) await one.vram.close();
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true });
  expect(liveHandles(), "live handles after the test").toEqual({});
});
