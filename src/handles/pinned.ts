/** Page-locked host memory: the slots of the ring and the control buffers. Never write-combined. */
import { requireInteger } from "../assert.ts";
import { countHandle } from "../dispose.ts";
import type { DeviceContext } from "./context.ts";
import { forgetAddress, type Pinned, setAddress } from "./mapped.ts";

/** A view of more than this aborts the process on real hardware (facts/cuda.md §3.3). */
const VIEW_BYTES_MAX = 2 ** 30;

/** Allocates `byteLength` bytes of page-locked memory; contents are undefined. */
export function openPinned(context: DeviceContext, byteLength: number): Pinned {
  requireInteger(byteLength, "byteLength of pinned memory", 1, VIEW_BYTES_MAX);
  const { cuPointer, bytes } = context.run((driver) => driver.memory.allocatePinned(byteLength));
  const gone = countHandle("pinned");
  let open = true;
  const pinned: Pinned = {
    bytes,
    close: () => {
      if (!open) return;
      open = false;
      forgetAddress(pinned);
      context.release("pinned memory", (driver) => driver.memory.freePinned(cuPointer));
      gone();
    },
  };
  setAddress(pinned, cuPointer);
  return pinned;
}
