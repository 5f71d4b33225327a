/** The tensor table: what a parsed header says about the bytes behind it. Both parsers yield it, `locate` reads it. */
import { VramError } from "../errors.ts";

/** How a source's bytes are laid out. `raw` means: no header was looked for or found. */
export type SourceFormat = "safetensors" | "gguf" | "raw";

/** One tensor of a model file. `offset` counts from the start of the file, in bytes. */
export interface Tensor {
  /** As the file has it. */
  readonly name: string;
  /** The format's own name: `F32`, `BF16`, `Q4_K`, … */
  readonly dtype: string;
  /** Extents in the order the file lists them. */
  readonly shape: readonly number[];
  /** Of its first byte, from the start of the file. */
  readonly offset: number;
  /** May be 0. */
  readonly byteLength: number;
}

/** What a header parser answers: the table, or how many bytes from the start of the file it needs to go on. */
export type HeaderParse =
  | { readonly kind: "complete"; readonly headerByteLength: number; readonly tensors: readonly Tensor[] }
  | { readonly kind: "need"; readonly byteLength: number };

/** The error for a header that breaks `rule` (a stable, dashed name) at byte `offset` of the file. */
export function malformed(format: SourceFormat, rule: string, offset: number, what: string): VramError {
  return new VramError("MODEL_MALFORMED", `${format} header, byte ${offset}: ${what} (rule ${rule})`, {
    details: { format, rule, offset },
  });
}

/** The tensors that overlap [offset, offset + byteLength), in file order. */
export function tensorsWithin(tensors: readonly Tensor[], offset: number, byteLength: number): readonly Tensor[] {
  return tensors.filter(
    (tensor) =>
      tensor.byteLength > 0 && tensor.offset < offset + byteLength && offset < tensor.offset + tensor.byteLength,
  );
}
