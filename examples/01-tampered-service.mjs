/**
 * `vram serve` whose emulated memory can be written to behind its back: on SIGUSR2 one bit of the first resident shard
 * flips. The shipped command has no such way in; this one takes it from `vram-residency/testing`.
 *
 *     node examples/01-tampered-service.mjs [options of vram serve]
 */
import { serveForTests } from "vram-residency/testing";

const [NAME, OFFSET, BIT] = ["small", 65_536, 3];

process.exitCode = await serveForTests(process.argv.slice(2), ({ flipBit }) => {
  process.on("SIGUSR2", () => void flipBit(NAME, OFFSET, BIT));
});
