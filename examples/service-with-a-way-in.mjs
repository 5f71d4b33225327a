/**
 * `vram serve` whose emulated memory can be written to behind its back: each line on standard input, `NAME OFFSET BIT`,
 * flips one bit of a resident shard. The shipped command has no such way in; this one takes it from
 * `vram-residency/testing`. `setup.sh` starts it.
 *
 *     node examples/service-with-a-way-in.mjs [options of vram serve]
 */
import { createInterface } from "node:readline";
import { serveForTests } from "vram-residency/testing";

const code = await serveForTests(process.argv.slice(2), ({ flipBit }) => {
  createInterface({ input: process.stdin }).on("line", async (line) => {
    const [name, offset, bit] = line.split(" ");
    await flipBit(name, Number(offset), Number(bit));
    process.stdout.write(`bit ${bit} of byte ${offset} of ${name} flipped\n`);
  });
});
// What is read from standard input would keep it here.
process.exit(code);
