/**
 * The ggml tensor types a GGUF file may name: id, name, elements of a block, bytes of a block. A tensor's row is a whole
 * number of blocks. Place in the journey: gguf.ts sizes every tensor by this table.
 *
 * Threat model: a wrong figure would misplace damage reports, so an id that is not listed is refused, never guessed.
 * Ids 4, 5, 31–33 and 36–38 were removed from the format; files with them are refused like unknown ones.
 *
 * Source: ggml `include/ggml.h` (`enum ggml_type`, up to `GGML_TYPE_COUNT` = 43) and `src/ggml-common.h`, whose
 * `static_assert`s give the sizes. gguf-py's `GGML_QUANT_SIZES` agrees but for Q8_1: it says 40, the struct has 36.
 */

export interface GgmlType {
  readonly name: string;
  /** Elements of one block. */
  readonly blockElements: number;
  /** Bytes of one block. */
  readonly blockBytes: number;
}

/** Elements of a super-block (`QK_K`). */
const QK = 256;

const type = (id: number, name: string, blockElements: number, blockBytes: number): readonly [number, GgmlType] => [
  id,
  { name, blockElements, blockBytes },
];

export const GGML_TYPES: ReadonlyMap<number, GgmlType> = new Map([
  type(0, "F32", 1, 4),
  type(1, "F16", 1, 2),
  type(2, "Q4_0", 32, 2 + 16),
  type(3, "Q4_1", 32, 4 + 16),
  type(6, "Q5_0", 32, 2 + 4 + 16),
  type(7, "Q5_1", 32, 4 + 4 + 16),
  type(8, "Q8_0", 32, 2 + 32),
  type(9, "Q8_1", 32, 4 + 32),
  type(10, "Q2_K", QK, 4 + QK / 16 + QK / 4),
  type(11, "Q3_K", QK, 2 + QK / 4 + QK / 8 + 12),
  type(12, "Q4_K", QK, 4 + 12 + QK / 2),
  type(13, "Q5_K", QK, 4 + 12 + QK / 2 + QK / 8),
  type(14, "Q6_K", QK, 2 + QK / 16 + (3 * QK) / 4),
  type(15, "Q8_K", QK, 4 + QK + QK / 8),
  type(16, "IQ2_XXS", QK, 2 + QK / 4),
  type(17, "IQ2_XS", QK, 2 + QK / 4 + QK / 32),
  type(18, "IQ3_XXS", QK, 2 + (3 * QK) / 8),
  type(19, "IQ1_S", QK, 2 + QK / 8 + QK / 16),
  type(20, "IQ4_NL", 32, 2 + 16),
  type(21, "IQ3_S", QK, 2 + (13 * QK) / 32 + QK / 64),
  type(22, "IQ2_S", QK, 2 + QK / 4 + QK / 16),
  type(23, "IQ4_XS", QK, 4 + QK / 64 + QK / 2),
  type(24, "I8", 1, 1),
  type(25, "I16", 1, 2),
  type(26, "I32", 1, 4),
  type(27, "I64", 1, 8),
  type(28, "F64", 1, 8),
  type(29, "IQ1_M", QK, QK / 8 + QK / 16 + QK / 32),
  type(30, "BF16", 1, 2),
  type(34, "TQ1_0", QK, 2 + QK / 64 + (QK - QK / 16) / 5),
  type(35, "TQ2_0", QK, 2 + QK / 4),
  type(39, "MXFP4", 32, 1 + 16),
  type(40, "NVFP4", 64, 4 + 32),
  type(41, "Q1_0", 128, 2 + 16),
  type(42, "Q2_0", 64, 2 + 16),
]);
