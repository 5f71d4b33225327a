/** Changing sealed bytes on purpose: what `vram try --tamper` and tests do, through a writable alias like any writer. */
import { present } from "./assert.ts";
import type { OpenSystem } from "./open.ts";

/** Flips one bit of a shard's bytes in (emulated or real) VRAM. Offset in bytes, bit 0–7. */
export async function flipShardBit(open: OpenSystem, idOrName: string, offset: number, bit: number): Promise<void> {
  const shard = open.system.registry.find(idOrName);
  const device = open.devices.find((candidate) => candidate.info.uuid === shard.device.uuid);
  await present(device, "the shard's device").flipBit(shard.allocationId, offset, bit);
}
