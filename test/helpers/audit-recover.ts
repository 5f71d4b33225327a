/** A log of three segments that was written, closed and gone on with, for the tests of recovery: laid where one wants it. */
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { createState } from "./audit-writer.ts";
import { durable, openUnit } from "./audit-writer-unit.ts";
import { temporaryFolder } from "./vram.ts";

export const LAST = "000003.jsonl";
export const LEAVES = "000003.leaves";

/** Its files, by their names in the state directory. */
export const files = new Map<string, Buffer>();

/** Three segments and two starts. To be made once, before all tests. */
export async function makeFiles(): Promise<void> {
  const state = await createState();
  for (const entries of [45, 5]) {
    const { log } = await openUnit({ segmentBytes: 140_000 }, state);
    for (let n = 0; n < entries; n += 1) await log.reader.accept(durable("x".repeat(4000)));
    await log.close();
  }
  for (const entry of readdirSync(state.stateDir, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isFile()) files.set(path.slice(state.stateDir.length + 1), readFileSync(path));
  }
}

/** The log in a state directory of its own. */
export async function lay() {
  const stateDir = join(await temporaryFolder(), "state");
  const folder = join(stateDir, "audit");
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const [name, bytes] of files) writeFileSync(join(stateDir, name), bytes, { mode: 0o600 });
  return { stateDir, folder };
}
export type State = Awaited<ReturnType<typeof lay>>;

export const linesOf = (name: string): string[] =>
  (files.get(`audit/${name}`) ?? Buffer.alloc(0)).toString().split("\n").slice(0, -1);
export const sizeOf = (name: string): number => files.get(`audit/${name}`)?.byteLength ?? 0;
export const all = (): string[] => ["000001", "000002", "000003"].flatMap((number) => linesOf(`${number}.jsonl`));
export const epochIn = (line = ""): number => Number(/"epoch":(\d+)/.exec(line)?.[1]);
/** Changes one byte: a letter or digit into a digit, so that hex stays hex and base64 stays base64; another one in a bit. */
export const change = (path: string, at: number): void => {
  const bytes = readFileSync(path);
  const index = at < 0 ? bytes.byteLength + at : at;
  const char = String.fromCharCode(bytes[index] ?? 0);
  if (/[A-Za-z0-9+/]/.test(char)) bytes.write(char === "0" ? "1" : "0", index, "latin1");
  else bytes.writeUInt8((bytes[index] ?? 0) ^ 1, index);
  writeFileSync(path, bytes);
};
export const remove = (folder: string, pattern: RegExp): void => {
  for (const name of readdirSync(folder)) if (pattern.test(name)) rmSync(join(folder, name));
};
export const setLines = (folder: string, lines: readonly string[]): void =>
  writeFileSync(join(folder, LAST), lines.map((line) => `${line}\n`).join(""));
