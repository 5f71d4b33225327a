/** Lines that `npm test` prints once more at its end: how many sequences, faults, mutations, and with which seed. */
import { appendFileSync } from "node:fs";

/** Tells `npm test` that tests run on this GPU. */
export function reportHardware(name: string): void {
  const file = process.env["VRAM_TEST_HARDWARE"];
  if (file !== undefined) appendFileSync(file, `${name}\n`);
}

/** Prints a line now, and hands it to `scripts/test.mjs` for the end. */
export function reportCount(line: string): void {
  console.log(line);
  const file = process.env["VRAM_TEST_COUNTS"];
  if (file !== undefined) appendFileSync(file, `${line}\n`);
}
