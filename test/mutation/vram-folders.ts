/**
 * Stands in for `test/helpers/vram.ts` where tests want its files and folders only: to load the whole library for each
 * mutant of the audit log takes longer than the tests do (`vitest.config.ts`).
 */
import { randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach } from "vitest";

export const MIB = 1024 * 1024;

const folders: string[] = [];

export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "vram-test-"));
  folders.push(folder);
  return folder;
}

export async function randomFile(byteLength: number, name = "model.bin"): Promise<{ path: string; bytes: Buffer }> {
  const path = join(await temporaryFolder(), name);
  const bytes = randomBytes(byteLength);
  await writeFile(path, bytes);
  return { path, bytes };
}

export async function codeOf(task: Promise<unknown>): Promise<string> {
  const error = await task.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  return error instanceof Error && "code" in error ? String(error.code) : `no error: ${String(error)}`;
}

afterEach(async () => {
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true });
});
