/** The hashing kernel as PTX, as it was built and checked in. The driver compiles it for the GPU at hand. */
import { readFileSync } from "node:fs";

/** How the kernel adds and shifts: see kernels/README.md. The same digests, at different speed. */
export const KERNEL_VARIANTS = ["plain", "imad", "imad-umulhi"] as const;
export type KernelVariant = (typeof KERNEL_VARIANTS)[number];

/** The one that is shipped: the best expected by counting instructions, not yet the best measured. */
export const SHIPPED_VARIANT: KernelVariant = "imad-umulhi";

/** Reads the PTX of a variant; the same path from `src` and from `dist`. */
export function readKernelImage(variant: KernelVariant = SHIPPED_VARIANT): Uint8Array {
  return readFileSync(new URL(`../../../kernels/fsverity.${variant}.ptx`, import.meta.url));
}
