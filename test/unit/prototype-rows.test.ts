/** The comparison of prototypes with cuda.h, on a header of a few lines: it has to find what is wrong. */
import { describe, expect, test } from "vitest";
import { DRIVER_PROTOTYPES } from "../../src/cuda/native/prototypes.ts";
import { C_TYPES, cTypeOf, faultsOf, parseHeader } from "../helpers/prototype-rows.ts";

const HEADER = parseHeader(
  `typedef enum cudaError_enum { CUDA_SUCCESS = 0 } CUresult;
   CUresult cuInit(unsigned int Flags);
   CUresult cuMemGetInfo_v2(size_t *free, size_t *total);
   CUresult cuCtxSynchronize(void);
   CUresult cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream);
   CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost,
                                 size_t ByteCount, CUstream hStream);
   CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions, CUjit_option *options,
                               void **optionValues);
   CUresult cuNew(CUnew thing);`,
  `#define cuMemGetInfo                        cuMemGetInfo_v2
   #define cuMemsetD8Async                     __CUDA_API_PTSZ(cuMemsetD8Async)
       #define cuMemcpyHtoDAsync               __CUDA_API_PTSZ(cuMemcpyHtoDAsync_v2)`,
);

const RIGHT = [
  "int cuInit(uint32_t flags)",
  "int cuCtxSynchronize()",
  "int cuMemGetInfo_v2(void *free, void *total)",
  "int cuMemsetD8Async(uint64_t to, uint8_t value, size_t size, uint64_t stream)",
  "int cuMemcpyHtoDAsync_v2(uint64_t to, uint64_t from, size_t size, uint64_t stream)",
  "int cuModuleLoadDataEx(void *module, void *image, uint32_t count, void *options, void *values)",
];

const WRONG = [
  [
    "an older ABI",
    "int cuMemGetInfo(void *free, void *total)",
    "cuMemGetInfo is an older ABI: cuda.h maps it to cuMemGetInfo_v2",
  ],
  [
    "an older ABI behind a macro",
    "int cuMemcpyHtoDAsync(uint64_t to, uint64_t from, size_t size, uint64_t stream)",
    "cuMemcpyHtoDAsync is an older ABI: cuda.h maps it to cuMemcpyHtoDAsync_v2",
  ],
  ["a suffix too many", "int cuInit_v2(uint32_t flags)", "cuda.h declares no cuInit_v2"],
  ["a slip of the pen", "int cuMemGetInfos_v2(void *free, void *total)", "cuda.h declares no cuMemGetInfos_v2"],
  ["a parameter too few", "int cuMemGetInfo_v2(void *free)", "takes 2 parameters, and the row has 1"],
  ["a parameter too many", "int cuInit(uint32_t flags, int more)", "takes 1 parameters, and the row has 2"],
  ["none where there is one", "int cuInit()", "takes 1 parameters, and the row has 0"],
  [
    "a narrower number",
    "int cuMemsetD8Async(uint32_t to, uint8_t value, size_t size, uint64_t stream)",
    "CUdeviceptr dstDevice travels as uint64_t, and the row has uint32_t",
  ],
  [
    "a wider number",
    "int cuMemsetD8Async(uint64_t to, uint32_t value, size_t size, uint64_t stream)",
    "unsigned char uc travels as uint8_t, and the row has uint32_t",
  ],
  ["another sign", "int cuInit(int flags)", "unsigned int Flags travels as uint32_t, and the row has int"],
  [
    "parameters in another order",
    "int cuMemsetD8Async(uint64_t to, size_t size, uint8_t value, uint64_t stream)",
    "unsigned char uc travels as uint8_t",
  ],
  [
    "an address as bytes",
    "int cuMemcpyHtoDAsync_v2(uint64_t to, void *from, size_t size, uint64_t stream)",
    "const void * srcHost travels as uint64_t, and the row has void *",
  ],
  [
    "bytes as an address",
    "int cuModuleLoadDataEx(void *module, uint64_t image, uint32_t count, void *options, void *values)",
    "const void * image travels as void *, and the row has uint64_t",
  ],
  ["another result", "uint64_t cuInit(uint32_t flags)", "not a prototype of a function that returns int"],
  ["no prototype at all", "cuInit", "not a prototype of a function that returns int"],
  ["a type nobody thought of", "int cuNew(uint64_t thing)", "nothing says what CUnew thing travels as"],
] as const;

describe("prototypes against a header", () => {
  test.each(RIGHT)("agrees: %s", (row) => {
    expect(faultsOf(row, HEADER)).toEqual([]);
  });

  test.each(WRONG)("finds %s", (_, row, fault) => {
    expect(faultsOf(row, HEADER).join("; ")).toContain(fault);
  });

  test("every type of the table is one of koffi's that the driver uses", () => {
    const used = new Set(Object.values(DRIVER_PROTOTYPES).flatMap((row) => row.match(/\w+_t|int(?= )|void \*/g) ?? []));
    for (const type of Object.values(C_TYPES)) expect([...used]).toContain(type);
    expect([...used].sort()).toEqual([...new Set(Object.values(C_TYPES))].sort());
    expect(["void ** extra", "const char *", "int"].map(cTypeOf)).toEqual(["void **", "const char *", "int"]);
  });
});
