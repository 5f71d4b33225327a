/** Where the bytes in VRAM differ from the sealed ones, for people: ranges, blocks and tensors of a mismatch. */
import { z } from "zod";
import { formatBytes, printable } from "../../bytes.ts";
import type { VramError } from "../../errors.ts";
import { count, tensorList } from "../../narrate/line.ts";
import type { Host } from "../host.ts";

const range = z.object({ offset: z.number(), byteLength: z.number() });
const damageDetails = z.object({
  damage: z.object({
    ranges: z.array(range),
    rangeCount: z.number(),
    tensors: z.array(z.string()),
    tensorCount: z.number(),
    because: z.string().optional(),
    blocks: z.array(z.object({ offset: z.number(), differing: z.number(), tensors: z.array(z.string()) })),
  }),
});

const differing = (bytes: number): string => (bytes === 1 ? "1 byte differs" : `${bytes} bytes differ`);

/** Places that are listed; beyond them only how many there are. */
const LISTED = 8;

/** Prints the damage that an error tells of, if it tells of any. */
export function printDamage(host: Host, error: VramError): void {
  const parsed = damageDetails.safeParse(error.details);
  if (!parsed.success) return;
  const { ranges, rangeCount, tensors, tensorCount, blocks, because } = parsed.data.damage;
  const say = (text: string): void => host.out(`  ${printable(text)}\n`);
  for (const { offset, byteLength } of ranges.slice(0, LISTED)) say(`damaged  ${formatBytes(byteLength)} at ${offset}`);
  if (rangeCount > LISTED) say(`damaged  ${count(rangeCount, "range")} in all`);
  for (const block of blocks.slice(0, LISTED)) {
    const where = block.tensors.length === 0 ? "" : `, ${tensorList(block.tensors, block.tensors.length)}`;
    say(`block    4 KiB at ${block.offset}: ${differing(block.differing)}${where}`);
  }
  say(`tensors  ${tensorCount === 0 ? "none there" : tensorList(tensors, tensorCount)}`);
  if (because !== undefined) say(`note     ${because}`);
}
