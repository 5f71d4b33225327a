/** The ring of pinned slots that uploads go through: opened once per device, used by one upload at a time. */
import type { DeviceContext } from "../handles/context.ts";
import type { Pinned } from "../handles/mapped.ts";
import { openPinned } from "../handles/pinned.ts";
import type { Mark, Stream } from "../handles/stream.ts";
import { createSlotRing, leavesFor, type Slot, type SlotRing } from "./slots.ts";

export interface PinnedSlot extends Slot {
  readonly pinned: Pinned;
  /** Recorded behind the copy from this slot. */
  readonly mark: Mark;
}

export interface PinnedRing extends SlotRing<PinnedSlot> {
  /** Frees the slots. May be called twice. */
  close(): void;
}

/** `slots` × `slotBytes` of pinned memory. `slotBytes` is a multiple of 512 KiB. On failure nothing stays behind. */
export function openRing(context: DeviceContext, stream: Stream, slots: number, slotBytes: number): PinnedRing {
  const opened: PinnedSlot[] = [];
  const close = (): void => {
    for (let slot = opened.pop(); slot !== undefined; slot = opened.pop()) {
      slot.mark.close();
      slot.pinned.close();
    }
  };
  try {
    for (let index = 0; index < slots; index += 1) {
      const pinned = openPinned(context, slotBytes);
      try {
        const mark = stream.createMark();
        opened.push({ bytes: pinned.bytes, leaves: leavesFor(slotBytes), pinned, mark });
      } catch (error) {
        pinned.close();
        throw error;
      }
    }
  } catch (error) {
    close();
    throw error;
  }
  return { ...createSlotRing(opened), close };
}
