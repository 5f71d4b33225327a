/**
 * Compares the table of C functions that the native driver binds (src/cuda/native/prototypes.ts) with the declarations
 * of cuda.h. koffi believes every prototype: a symbol of an older ABI, a parameter too few or of another width would
 * load, run, and corrupt.
 */

export interface Parameter {
  readonly type: string;
  readonly name: string;
}

export interface Declaration {
  readonly symbol: string;
  readonly parameters: readonly Parameter[];
}

/** What cuda.h says: its functions by symbol, and the symbols that plain names stand for. */
export interface Header {
  readonly declarations: ReadonlyMap<string, Declaration>;
  /** `cuMemGetInfo` → `cuMemGetInfo_v2`. */
  readonly suffixed: ReadonlyMap<string, string>;
}

/**
 * The koffi type that each type of C travels as. `void *` is either room of ours, which koffi takes as bytes, or an
 * address, which it takes as a number: with a name the row is about that parameter alone.
 */
export const C_TYPES: Readonly<Record<string, string>> = {
  int: "int",
  "unsigned int": "uint32_t",
  "unsigned char": "uint8_t",
  "unsigned long long": "uint64_t",
  size_t: "size_t",
  CUdevice: "int",
  CUdevice_attribute: "int",
  CUpointer_attribute: "int",
  CUmemAllocationGranularity_flags: "int",
  CUmemAllocationHandleType: "int",
  CUdeviceptr: "uint64_t",
  CUmemGenericAllocationHandle: "uint64_t",
  CUcontext: "uint64_t",
  CUstream: "uint64_t",
  CUevent: "uint64_t",
  CUmodule: "uint64_t",
  CUfunction: "uint64_t",
  "int *": "void *",
  "char *": "void *",
  "const char *": "void *",
  "size_t *": "void *",
  "unsigned long long *": "void *",
  "CUdevice *": "void *",
  "CUuuid *": "void *",
  "CUcontext *": "void *",
  "CUdeviceptr *": "void *",
  "CUmemGenericAllocationHandle *": "void *",
  "CUmemAllocationProp *": "void *",
  "const CUmemAllocationProp *": "void *",
  "const CUmemAccessDesc *": "void *",
  "const CUmemLocation *": "void *",
  "CUstream *": "void *",
  "CUevent *": "void *",
  "CUmodule *": "void *",
  "CUfunction *": "void *",
  "CUjit_option *": "void *",
  // Room of ours: an answer, an fd, an image, the values of options.
  "void * data": "void *",
  "void * shareableHandle": "void *",
  "const void * image": "void *",
  "void ** optionValues": "void *",
  // A descriptor, by value.
  "void * osHandle": "uint64_t",
  // Addresses: of VRAM, of registered host memory, of a table of kernel parameters.
  "void * addr": "uint64_t",
  "void * p": "uint64_t",
  "void * dstHost": "uint64_t",
  "const void * srcHost": "uint64_t",
  "void ** kernelParams": "uint64_t",
  "void ** extra": "uint64_t",
};

/** The C type of a row of `C_TYPES`, without the parameter's name. */
export const cTypeOf = (row: string): string => row.replace(/\* (\w+)$/, "*");

/** `const void *srcHost` → type `const void *`, name `srcHost`. */
function parseParameter(text: string): Parameter {
  const words = text.replace(/\s+/g, " ").trim();
  const [, type = "", name = ""] = /^(.*?[\s*])(\w+)$/.exec(words) ?? [];
  const spaced = type.replace(/\s*(\*+)\s*/g, " $1").trim();
  return { type: spaced, name };
}

function parseParameters(text: string): readonly Parameter[] {
  const list = text.trim();
  return list === "" || list === "void" ? [] : list.split(",").map(parseParameter);
}

const DECLARATION = /\bCUresult\s+(cu\w+)\s*\(([^()]*)\)\s*;/g;
/** Also where the symbol depends on the default stream: `__CUDA_API_PTSZ(cuMemcpyHtoDAsync_v2)`. */
const SUFFIX = /^\s*#\s*define\s+(cu\w+)\s+(?:__CUDA_API_PT[DS][SZ]\()?(cu\w+_v\d+)\)?\s*$/gm;

/** `preprocessed`: what the compiler makes of cuda.h; `source`: cuda.h itself, for what its macros say. */
export function parseHeader(preprocessed: string, source: string): Header {
  const declarations = [...preprocessed.matchAll(DECLARATION)].map(([, symbol = "", parameters = ""]) => ({
    symbol,
    parameters: parseParameters(parameters),
  }));
  return {
    declarations: new Map(declarations.map((declaration) => [declaration.symbol, declaration])),
    suffixed: new Map([...source.matchAll(SUFFIX)].map(([, name = "", symbol = ""]) => [name, symbol])),
  };
}

/** What is wrong with a row, in words; nothing if it agrees with the header. */
export function faultsOf(row: string, { declarations, suffixed }: Header): readonly string[] {
  const [, result, symbol = "", list = ""] = /^(\w+) (\w+)\(([^()]*)\)$/.exec(row) ?? [];
  if (result !== "int") return [`not a prototype of a function that returns int: ${row}`];
  const current = suffixed.get(symbol);
  if (current !== undefined && current !== symbol) return [`${symbol} is an older ABI: cuda.h maps it to ${current}`];
  const declared = declarations.get(symbol);
  if (declared === undefined) return [`cuda.h declares no ${symbol}`];
  const ours = parseParameters(list);
  const theirs = declared.parameters;
  if (ours.length !== theirs.length)
    return [`${symbol} takes ${theirs.length} parameters, and the row has ${ours.length}`];
  return theirs.flatMap(({ type, name }, index) => {
    const expected = C_TYPES[`${type} ${name}`] ?? C_TYPES[type];
    const found = ours[index]?.type;
    if (expected === undefined) return [`${symbol}: nothing says what ${type} ${name} travels as`];
    if (found === expected) return [];
    return [`${symbol}: ${type} ${name} travels as ${expected}, and the row has ${found}`];
  });
}
