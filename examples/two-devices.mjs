/**
 * A set over two devices with the library, one of whose members is damaged. `04-sharded-model.sh` runs it.
 *
 *     node examples/04-two-devices.mjs FOLDER
 */
import assert from "node:assert/strict";
// A program of yours has `openVram` of "vram-residency" here. This one opens the emulated device with a way in.
import { openTestVram } from "vram-residency/testing";

const { vram, flipBit } = await openTestVram({ emulated: { devices: 2 } });
try {
  // Member i lies on device i modulo two. The set's seal is over the seals of all members.
  const { set, members } = await vram.sealSet(process.argv[2], { name: "llama", devices: [0, 1] });
  for (const { record } of members) console.log(`device ${record.device.ordinal}: ${record.name}`);
  const report = await vram.verifySet(set);
  console.log(`one set of ${report.totalShards}, all of them measured where they lie`);

  const { name } = members[1].record;
  await flipBit(name, 300_000, 5);
  try {
    await vram.verifySet(set);
    assert.fail("the flipped bit was not found");
  } catch (error) {
    assert.equal(error.code, "MEASUREMENT_MISMATCH");
    const { damage } = error.details;
    const [block] = damage.blocks;
    console.log(`${error.code} in ${name}`);
    console.log(`block of ${block.byteLength} bytes at ${block.offset}: byte ${block.byteOffsets} of ${block.tensors}`);
  }
  // The other device is not to blame: it goes on.
  for (const { ordinal, state, reason } of vram.devices()) console.log(`device ${ordinal}: ${state}`, reason ?? "");
} finally {
  await vram.close();
}
