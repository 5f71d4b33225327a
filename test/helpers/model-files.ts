/**
 * Builds safetensors and GGUF files, valid or hostile, byte by byte. The builders share no code with the parsers, so a
 * mistake in one does not hide in the other. Offsets they do not take are laid out as the formats' writers do.
 */

const encoder = new TextEncoder();

export const u32 = (value: number): Uint8Array => {
  const out = new Uint8Array(4);
  new DataView(out.buffer).setUint32(0, value, true);
  return out;
};

export const u64 = (value: number | bigint): Uint8Array => {
  const out = new Uint8Array(8);
  new DataView(out.buffer).setBigUint64(0, BigInt(value), true);
  return out;
};

export const utf8 = (text: string): Uint8Array => encoder.encode(text);

export const concat = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));

/** `bytes` with the bytes at `offset` replaced: for one lie in an otherwise valid file. */
export const patched = (bytes: Uint8Array, offset: number, replacement: Uint8Array): Uint8Array => {
  const out = Uint8Array.from(bytes);
  out.set(replacement, offset);
  return out;
};

const padding = (byteLength: number, unit: number): Uint8Array => new Uint8Array((unit - (byteLength % unit)) % unit);

// --- safetensors ---

export interface SafetensorsTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/** A file of any header bytes and any data. `headerByteLength` overrides the true length: for lies. */
export function rawSafetensors(
  header: string | Uint8Array,
  data: Uint8Array | number = 0,
  headerByteLength?: number | bigint,
): Uint8Array {
  const headerBytes = typeof header === "string" ? utf8(header) : header;
  const dataBytes = typeof data === "number" ? new Uint8Array(data) : data;
  return concat(u64(headerByteLength ?? headerBytes.byteLength), headerBytes, dataBytes);
}

/** A valid file; the tensors' data follow each other in the order given. `pad` spaces end the header. */
export function buildSafetensors(
  tensors: readonly SafetensorsTensor[],
  options: { readonly metadata?: ReadonlyMap<string, string>; readonly pad?: number } = {},
): Uint8Array {
  const members: string[] = [];
  if (options.metadata !== undefined) {
    const entries = [...options.metadata].map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
    members.push(`"__metadata__":{${entries.join(",")}}`);
  }
  let begin = 0;
  for (const { name, dtype, shape, data } of tensors) {
    const end = begin + data.byteLength;
    const entry = JSON.stringify({ dtype, shape, data_offsets: [begin, end] });
    members.push(`${JSON.stringify(name)}:${entry}`);
    begin = end;
  }
  const header = `{${members.join(",")}}${" ".repeat(options.pad ?? 0)}`;
  return rawSafetensors(header, concat(...tensors.map(({ data }) => data)));
}

// --- GGUF ---

export const GGUF_VALUE = {
  uint8: 0,
  int8: 1,
  uint16: 2,
  int16: 3,
  uint32: 4,
  int32: 5,
  float32: 6,
  bool: 7,
  string: 8,
  array: 9,
  uint64: 10,
  int64: 11,
  float64: 12,
} as const;

/** A metadata entry; `value` is encoded already (see `ggufString`, `ggufArray`, `u32`). */
export interface GgufEntry {
  readonly key: string;
  readonly type: number;
  readonly value: Uint8Array;
}

/** `offset` counts from the start of the data; without it the tensor follows the one before, aligned. */
export interface GgufTensor {
  readonly name: string;
  readonly type: number;
  readonly shape: readonly (number | bigint)[];
  readonly data: Uint8Array;
  readonly offset?: number | bigint;
}

export const ggufString = (text: string | Uint8Array): Uint8Array => {
  const bytes = typeof text === "string" ? utf8(text) : text;
  return concat(u64(bytes.byteLength), bytes);
};

/** `count` overrides the true number of elements: for lies. */
export const ggufArray = (elementType: number, elements: readonly Uint8Array[], count?: number | bigint): Uint8Array =>
  concat(u32(elementType), u64(count ?? elements.length), ...elements);

export const ggufEntry = ({ key, type, value }: GgufEntry): Uint8Array => concat(ggufString(key), u32(type), value);

export const ggufTensorInfo = (
  name: string | Uint8Array,
  shape: readonly (number | bigint)[],
  type: number,
  offset: number | bigint,
): Uint8Array =>
  concat(ggufString(name), u32(shape.length), ...shape.map((extent) => u64(extent)), u32(type), u64(offset));

/** A file of any parts behind the 24 bytes of magic, version and counts. */
export function rawGguf(
  body: readonly Uint8Array[],
  counts: { readonly version?: number; readonly tensors?: number | bigint; readonly entries?: number | bigint } = {},
): Uint8Array {
  return concat(utf8("GGUF"), u32(counts.version ?? 3), u64(counts.tensors ?? 0), u64(counts.entries ?? 0), ...body);
}

/** A valid file, if the tensors' data fit their shapes. An `alignment` is written as `general.alignment`, last. */
export function buildGguf(
  options: {
    readonly version?: number;
    readonly kv?: readonly GgufEntry[];
    readonly tensors?: readonly GgufTensor[];
    readonly alignment?: number;
  } = {},
): Uint8Array {
  const alignment = options.alignment ?? 32;
  const kv = [...(options.kv ?? [])];
  if (options.alignment !== undefined) {
    kv.push({ key: "general.alignment", type: GGUF_VALUE.uint32, value: u32(options.alignment) });
  }
  const tensors = options.tensors ?? [];
  const infos: Uint8Array[] = [];
  const data: Uint8Array[] = [];
  let end = 0;
  for (const tensor of tensors) {
    const gap = padding(end, alignment);
    infos.push(ggufTensorInfo(tensor.name, tensor.shape, tensor.type, tensor.offset ?? end + gap.byteLength));
    data.push(gap, tensor.data);
    end += gap.byteLength + tensor.data.byteLength;
  }
  const version = options.version ?? 3;
  const counts = { version, tensors: tensors.length, entries: kv.length };
  const header = rawGguf([...kv.map(ggufEntry), ...infos], counts);
  if (tensors.length === 0) return header;
  return concat(header, padding(header.byteLength, alignment), ...data);
}
