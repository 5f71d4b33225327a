/**
 * Writes a safetensors file with the tensors of a small llama-like model: the quickstart's model, and a source of
 * realistic size for tests. The same length always gives the same bytes: names, shapes and weights follow from the
 * length alone, and the arithmetic behind the weights is exact in IEEE 754 (no `Math.log`, no `Math.cos`).
 *
 *     node scripts/make-model.mjs OUT [--mib N]
 */
import { closeSync, openSync, realpathSync, writeSync } from "node:fs";
import { fileURLToPath } from "node:url";

const KIB = 1024;
const MIB = 1024 * KIB;

/** Length of the model unless another is asked for: exactly 64 MiB. */
export const DEFAULT_BYTE_LENGTH = 64 * MIB;

/** BF16 takes two bytes. */
const DTYPE_BYTES = 2;
/** Weights are made and written in pieces of this many bytes. */
const PIECE_BYTES = 4 * MIB;
/** The vocabulary is a multiple of this; what that leaves over pads the header. */
const VOCABULARY_STEP = 16;

/**
 * Widths of the model, chosen by its length. `intermediate` is about 8/3 of `hidden`, as in llama models; `keyValue`
 * is narrower than `hidden` (grouped-query attention).
 */
const WIDTHS = [
  { fromBytes: 512 * MIB, hidden: 2048, keyValue: 512, intermediate: 5632 },
  { fromBytes: 8 * MIB, hidden: 512, keyValue: 256, intermediate: 1376 },
  { fromBytes: MIB, hidden: 128, keyValue: 64, intermediate: 352 },
];

/** @typedef {{ name: string, shape: number[], elementCount: number }} PlannedTensor */

/**
 * The tensors of a model, in file order.
 * @param {{ hidden: number, keyValue: number, intermediate: number }} widths
 * @param {number} layerCount
 * @param {number} vocabulary rows of the embedding and of the output head
 * @returns {PlannedTensor[]}
 */
function planTensors(widths, layerCount, vocabulary) {
  const { hidden, keyValue, intermediate } = widths;
  const layer = (/** @type {number} */ index) =>
    /** @type {[string, number[]][]} */ ([
      ["input_layernorm", [hidden]],
      ["self_attn.q_proj", [hidden, hidden]],
      ["self_attn.k_proj", [keyValue, hidden]],
      ["self_attn.v_proj", [keyValue, hidden]],
      ["self_attn.o_proj", [hidden, hidden]],
      ["post_attention_layernorm", [hidden]],
      ["mlp.gate_proj", [intermediate, hidden]],
      ["mlp.up_proj", [intermediate, hidden]],
      ["mlp.down_proj", [hidden, intermediate]],
    ]).map(([part, shape]) => [`model.layers.${index}.${part}.weight`, shape]);
  const all = [
    ["model.embed_tokens.weight", [vocabulary, hidden]],
    ...Array.from({ length: layerCount }, (_, index) => layer(index)).flat(),
    ["model.norm.weight", [hidden]],
    ["lm_head.weight", [vocabulary, hidden]],
  ];
  return all.map(([name, shape]) => ({ name, shape, elementCount: shape.reduce((a, b) => a * b, 1) }));
}

/**
 * The header as JSON: tensors one after the other, without a hole.
 * @param {PlannedTensor[]} tensors
 * @returns {{ json: string, dataByteLength: number }}
 */
function describe(tensors) {
  /** @type {Record<string, object>} */
  const header = { __metadata__: { format: "pt" } };
  let offset = 0;
  for (const { name, shape, elementCount } of tensors) {
    const end = offset + elementCount * DTYPE_BYTES;
    header[name] = { dtype: "BF16", shape, data_offsets: [offset, end] };
    offset = end;
  }
  return { json: JSON.stringify(header), dataByteLength: offset };
}

/**
 * Chooses layers and vocabulary so that header and weights add up to exactly `byteLength`.
 * @param {number} byteLength
 * @returns {{ tensors: PlannedTensor[], header: Buffer }} `header` begins with its own length, as the format wants
 */
function plan(byteLength) {
  const widths = WIDTHS.find(({ fromBytes }) => byteLength >= fromBytes);
  if (widths === undefined || !Number.isSafeInteger(byteLength) || byteLength % KIB !== 0) {
    throw new RangeError(`a model takes a whole number of KiB, at least 1024 of them, not ${byteLength} bytes`);
  }
  // Every tensor is a number of rows of `hidden` weights, so rows are what is shared out: about 70 % to the layers.
  const rowCount = byteLength / (widths.hidden * DTYPE_BYTES);
  const layerRows = 2 * widths.hidden + 2 * widths.keyValue + 3 * widths.intermediate + 2;
  const layerCount = Math.max(1, Math.floor((0.7 * rowCount) / layerRows));
  const steps = Math.floor((rowCount - layerCount * layerRows - 1) / 2 / VOCABULARY_STEP);
  for (let vocabulary = steps * VOCABULARY_STEP; vocabulary > 0; vocabulary -= VOCABULARY_STEP) {
    const tensors = planTensors(widths, layerCount, vocabulary);
    const { json, dataByteLength } = describe(tensors);
    const headerByteLength = byteLength - dataByteLength - 8;
    if (headerByteLength < json.length) continue;
    const header = Buffer.alloc(8 + headerByteLength, " ");
    header.writeBigUInt64LE(BigInt(headerByteLength), 0);
    header.write(json, 8, "latin1");
    return { tensors, header };
  }
  throw new RangeError(`no model fits into ${byteLength} bytes`);
}

/**
 * The BF16 values that a sum of four random bytes (0 … 1020, close to a normal distribution) stands for.
 * @param {number} mean
 * @param {number} deviation
 * @returns {Uint16Array} 1021 bit patterns
 */
function weightTable(mean, deviation) {
  const sums = 4 * 255 + 1;
  // Standard deviation of the sum: √(4 · (256² − 1) / 12) ≈ 147.8.
  const values = Float32Array.from({ length: sums }, (_, sum) => mean + ((sum - 510) / 147.8) * deviation);
  const bits = new Uint32Array(values.buffer);
  return Uint16Array.from(bits, (pattern) => pattern >>> 16);
}

/**
 * FNV-1a of a tensor's name, never 0: where its random numbers start (xorshift would stay at 0 for ever).
 * @param {string} name
 * @returns {number}
 */
function seedOf(name) {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(name)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0 || 1;
}

/**
 * Fills `piece` with weights and returns the state to go on from (xorshift32, Marsaglia 2003).
 * @param {Uint16Array} piece
 * @param {Uint16Array} table
 * @param {number} state
 * @returns {number}
 */
function fill(piece, table, state) {
  let x = state;
  for (let index = 0; index < piece.length; index += 1) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    piece[index] = table[(x & 255) + ((x >>> 8) & 255) + ((x >>> 16) & 255) + (x >>> 24)];
  }
  return x;
}

/**
 * Writes all of `bytes`; one call may write less.
 * @param {number} fd
 * @param {Uint8Array} bytes
 */
function writeAll(fd, bytes) {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
}

/**
 * Writes the model of `byteLength` bytes to `path`, replacing what is there. A machine is expected to be
 * little-endian, as every one that CUDA runs on.
 * @param {string} path
 * @param {number} [byteLength] exact length of the file in bytes: a whole number of KiB, at least 1 MiB
 * @returns {{ byteLength: number, tensorCount: number }}
 */
export function writeModel(path, byteLength = DEFAULT_BYTE_LENGTH) {
  const { tensors, header } = plan(byteLength);
  const piece = new Uint16Array(PIECE_BYTES / DTYPE_BYTES);
  const fd = openSync(path, "w");
  try {
    writeAll(fd, header);
    for (const { name, shape, elementCount } of tensors) {
      // Norms scatter around one; matrices around zero, the less the more inputs they add up.
      const inputs = shape[1];
      const table = inputs === undefined ? weightTable(1, 0.05) : weightTable(0, 1 / Math.sqrt(inputs));
      let state = seedOf(name);
      for (let done = 0; done < elementCount; done += piece.length) {
        const part = piece.subarray(0, Math.min(piece.length, elementCount - done));
        state = fill(part, table, state);
        writeAll(fd, new Uint8Array(part.buffer, 0, part.byteLength));
      }
    }
  } finally {
    closeSync(fd);
  }
  return { byteLength, tensorCount: tensors.length };
}

/**
 * The command line.
 * @param {string[]} args
 * @returns {number} exit code
 */
function main(args) {
  const [out, flag, count, ...rest] = args;
  const mib = flag === undefined ? DEFAULT_BYTE_LENGTH / MIB : Number(count);
  const flagKnown = flag === undefined || flag === "--mib";
  if (
    out === undefined ||
    out.startsWith("-") ||
    !flagKnown ||
    rest.length > 0 ||
    !(Number.isInteger(mib) && mib >= 1)
  ) {
    process.stderr.write("usage: node scripts/make-model.mjs OUT [--mib N]   (N: whole MiB, 64 unless given)\n");
    return 2;
  }
  const { byteLength, tensorCount } = writeModel(out, mib * MIB);
  process.stdout.write(`${out}: ${byteLength} bytes, ${tensorCount} tensors\n`);
  return 0;
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  process.exitCode = main(process.argv.slice(2));
}
