/** Safetensors headers that the tests of the parser read, cut and patch. */
import { buildSafetensors } from "./model-files.ts";

/** One tensor entry; what is not given is a valid U8 vector of four bytes. */
export const safetensorsEntry = (
  name: string,
  fields: { dtype?: string; shape?: string; offsets?: string } = {},
): string =>
  `"${name}":{"dtype":${fields.dtype ?? '"U8"'},"shape":${fields.shape ?? "[4]"},"data_offsets":${fields.offsets ?? "[0,4]"}}`;

/** A valid file with metadata, padding, three tensors and nine bytes of data. */
export const smallSafetensors = buildSafetensors(
  [
    { name: "a", dtype: "F32", shape: [2, 1], data: new Uint8Array(8).fill(1) },
    { name: "empty", dtype: "F16", shape: [0, 7], data: new Uint8Array(0) },
    { name: 'b ✓ "\\', dtype: "BOOL", shape: [], data: new Uint8Array(1) },
  ],
  { metadata: new Map([["format", "pt\n\u{1f600}"]]), pad: 3 },
);
/** Where its data begin. */
export const smallDataStart = 8 + Number(new DataView(smallSafetensors.buffer).getBigUint64(0, true));
