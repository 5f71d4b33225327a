/**
 * What this program believes about the C side of the border, against cuda.h itself: every prototype, every number that
 * stands for a name, every structure that is filled in by hand.
 */
import { describe, expect, test } from "vitest";
import { ACCESS, type CudaDriver, DEVICE_ATTRIBUTE, POINTER_ATTRIBUTE } from "../../src/cuda/driver.ts";
import { importHandle } from "../../src/cuda/native/import.ts";
import type { DriverLibrary } from "../../src/cuda/native/library.ts";
import { memoryCalls } from "../../src/cuda/native/memory.ts";
import { moduleCalls } from "../../src/cuda/native/module.ts";
import { DRIVER_PROTOTYPES } from "../../src/cuda/native/prototypes.ts";
import { eventCalls, streamCalls } from "../../src/cuda/native/stream.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { VramError } from "../../src/errors.ts";
import { addressOf, type NativeArgument, viewNative } from "../../src/ffi/library.ts";
import { reportCount } from "../helpers/counts.ts";
import { evaluate, readHeader } from "../helpers/cuda-header.ts";
import { thrownBy } from "../helpers/emulated.ts";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { C_TYPES, cTypeOf, faultsOf } from "../helpers/prototype-rows.ts";

const fake = fakeCuda();
const header = fake?.header ?? "";
const ORDINAL = 0x0102_0304;

/** Names here that are not cuda.h's in capitals with underscores. */
const DEVICE_NAMES: Readonly<Record<keyof typeof DEVICE_ATTRIBUTE, string>> = {
  multiprocessorCount: "MULTIPROCESSOR_COUNT",
  integrated: "INTEGRATED",
  computeMode: "COMPUTE_MODE",
  eccEnabled: "ECC_ENABLED",
  l2CacheBytes: "L2_CACHE_SIZE",
  unifiedAddressing: "UNIFIED_ADDRESSING",
  computeCapabilityMajor: "COMPUTE_CAPABILITY_MAJOR",
  computeCapabilityMinor: "COMPUTE_CAPABILITY_MINOR",
  managedMemory: "MANAGED_MEMORY",
  pageableMemoryAccess: "PAGEABLE_MEMORY_ACCESS",
  virtualMemoryManagement: "VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED",
  posixFileDescriptorHandles: "HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED",
  mpsEnabled: "MPS_ENABLED",
};
const POINTER_NAMES: Readonly<Record<keyof typeof POINTER_ATTRIBUTE, string>> = {
  memoryType: "MEMORY_TYPE",
  hostPointer: "HOST_POINTER",
  isManaged: "IS_MANAGED",
  deviceOrdinal: "DEVICE_ORDINAL",
  rangeStart: "RANGE_START_ADDR",
  rangeSize: "RANGE_SIZE",
  accessFlags: "ACCESS_FLAGS",
};
const ACCESS_NAMES: Readonly<Record<keyof typeof ACCESS, string>> = {
  none: "NONE",
  read: "READ",
  readWrite: "READWRITE",
};
const OTHER_STATUS_NAMES: Readonly<Record<string, string>> = {
  SUCCESS: "CUDA_SUCCESS",
  DEVICE_UNAVAILABLE: "CUDA_ERROR_DEVICE_UNAVAILABLE",
};

/** Our numbers, by the name that cuda.h has for each. */
const NUMBERS: readonly (readonly [name: string, value: number])[] = [
  ...Object.entries(DEVICE_NAMES).map(
    ([ours, theirs]) =>
      [`CU_DEVICE_ATTRIBUTE_${theirs}`, DEVICE_ATTRIBUTE[ours as keyof typeof DEVICE_ATTRIBUTE]] as const,
  ),
  ...Object.entries(POINTER_NAMES).map(
    ([ours, theirs]) =>
      [`CU_POINTER_ATTRIBUTE_${theirs}`, POINTER_ATTRIBUTE[ours as keyof typeof POINTER_ATTRIBUTE]] as const,
  ),
  ...Object.entries(ACCESS_NAMES).map(
    ([ours, theirs]) => [`CU_MEM_ACCESS_FLAGS_PROT_${theirs}`, ACCESS[ours as keyof typeof ACCESS]] as const,
  ),
  ...Object.entries(STATUS).map(([name, value]) => [OTHER_STATUS_NAMES[name] ?? `CUDA_ERROR_${name}`, value] as const),
];

/** Widths of koffi's types, in bytes. */
const KOFFI_BYTES: Readonly<Record<string, number>> = {
  int: 4,
  uint8_t: 1,
  uint32_t: 4,
  uint64_t: 8,
  size_t: 8,
  "void *": 8,
};

type Call = readonly [name: string, ...args: readonly NativeArgument[]];

/** A library that keeps what it is called with, and answers `answer`. */
function recorder(answer = 0): { cu: DriverLibrary; calls: Call[] } {
  const calls: Call[] = [];
  const status: DriverLibrary["status"] = (name, ...args) => {
    calls.push([name, ...args.map((arg) => (arg instanceof Uint8Array ? Uint8Array.from(arg) : arg))]);
    return answer;
  };
  const out = new Uint8Array(64);
  const cu: DriverLibrary = {
    version: 13000,
    status,
    call: (name, ...args) => void status(name, ...args),
    error: (name, code) => new VramError("CUDA_FAILED", `${name}: ${code}`, { details: { call: name, status: code } }),
    out: new DataView(out.buffer),
    room: (offset = 0) => out.subarray(offset),
  };
  return { cu, calls };
}

/** The arguments of the one call that `act` makes. */
function argumentsOf(act: (cu: DriverLibrary) => unknown): readonly NativeArgument[] {
  const { cu, calls } = recorder();
  act(cu);
  expect(calls).toHaveLength(1);
  return calls[0]?.slice(1) ?? [];
}

/** A 4-byte field of a structure handed over. */
function field(bytes: NativeArgument | undefined, offset: number | undefined): number {
  if (!(bytes instanceof Uint8Array) || offset === undefined) throw new Error("no structure, or no such field");
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getInt32(offset, true);
}

describe.skipIf(fake === undefined)(`against cuda.h${whyNoFakeCuda()}`, () => {
  test("every prototype names the current symbol, with its parameters in their widths", () => {
    const declared = readHeader(header);
    expect(declared.declarations.size).toBeGreaterThan(300);
    expect(declared.suffixed.get("cuMemGetInfo")).toBe("cuMemGetInfo_v2");
    const rows = Object.values(DRIVER_PROTOTYPES);
    expect(rows.flatMap((row) => faultsOf(row, declared))).toEqual([]);
    // And it would have been noticed: every symbol with a suffix, without it.
    const older = rows.filter((row) => /_v\d+\(/.test(row)).map((row) => row.replace(/_v\d+\(/, "("));
    for (const row of older) expect(faultsOf(row, declared).join()).toContain("is an older ABI");
    reportCount(`native driver: ${rows.length} prototypes, ${NUMBERS.length} numbers compared with cuda.h`);
  });

  test("the types of C are as wide as those of koffi they travel as", () => {
    const types = [...new Set(Object.keys(C_TYPES).map(cTypeOf))];
    const sizes = evaluate(
      header,
      types.map((type) => `sizeof(${type})`),
    );
    const scalars = types.filter((type) => /^[a-z ]+_?t?$/.test(type));
    const signs = evaluate(
      header,
      scalars.map((type) => `std::is_signed_v<${type}>`),
    );
    for (const [row, koffi] of Object.entries(C_TYPES)) {
      const type = cTypeOf(row);
      expect(sizes.get(`sizeof(${type})`), type).toBe(KOFFI_BYTES[koffi]);
      if (scalars.includes(type)) expect(signs.get(`std::is_signed_v<${type}>`), type).toBe(koffi === "int" ? 1 : 0);
    }
  });

  test("every number that stands for a name is cuda.h's", () => {
    const values = evaluate(
      header,
      NUMBERS.map(([name]) => name),
    );
    expect(NUMBERS.map(([name]) => [name, values.get(name)])).toEqual(NUMBERS);
    expect(NUMBERS.length).toBeGreaterThan(45);
    expect(() => evaluate(header, ["CU_DEVICE_ATTRIBUTE_NO_SUCH"])).toThrow("CU_DEVICE_ATTRIBUTE_NO_SUCH");
  });
});

const PROP = ["type", "requestedHandleTypes", "location.type", "location.id"].map(
  (name) => `offsetof(CUmemAllocationProp, ${name})`,
);
const DESC = ["location.type", "location.id", "flags"].map((name) => `offsetof(CUmemAccessDesc, ${name})`);
const LOCATION = ["type", "id"].map((name) => `offsetof(CUmemLocation, ${name})`);
const SIZES = ["CUmemAllocationProp", "CUmemAccessDesc", "CUmemLocation", "CUuuid"].map((name) => `sizeof(${name})`);
const CONSTANTS = [
  "CU_MEM_ALLOCATION_TYPE_PINNED",
  "CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR",
  "CU_MEM_LOCATION_TYPE_DEVICE",
  "CU_MEM_ALLOC_GRANULARITY_MINIMUM",
  "CU_MEM_ACCESS_FLAGS_PROT_READ",
  "CU_MEMHOSTREGISTER_PORTABLE",
  "CU_STREAM_NON_BLOCKING",
  "CU_EVENT_DISABLE_TIMING",
  "CU_JIT_ERROR_LOG_BUFFER",
  "CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES",
];

describe.skipIf(fake === undefined)(`what is filled in by hand${whyNoFakeCuda()}`, () => {
  const values =
    fake === undefined
      ? new Map<string, number>()
      : evaluate(header, [...PROP, ...DESC, ...LOCATION, ...SIZES, ...CONSTANTS]);
  const at = (name: string): number => values.get(name) ?? Number.NaN;

  test("[VR-MEM-01] CUmemAllocationProp: pinned, exportable, on the device, and nothing else", () => {
    const [, , properties] = argumentsOf((cu) => memoryCalls(cu).create(4096, ORDINAL));
    const asked = argumentsOf((cu) => memoryCalls(cu).granularity(ORDINAL));
    expect(asked[2]).toBe(at("CU_MEM_ALLOC_GRANULARITY_MINIMUM"));
    for (const structure of [properties, asked[1]]) {
      expect((structure as Uint8Array).byteLength).toBe(at("sizeof(CUmemAllocationProp)"));
      expect(PROP.map((name) => field(structure, at(name)))).toEqual([
        at("CU_MEM_ALLOCATION_TYPE_PINNED"),
        at("CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR"),
        at("CU_MEM_LOCATION_TYPE_DEVICE"),
        ORDINAL,
      ]);
      const rest = Uint8Array.from(structure as Uint8Array);
      for (const name of PROP) rest.fill(0, at(name), at(name) + 4);
      expect(rest.every((byte) => byte === 0)).toBe(true);
    }
  });

  test("CUmemAllocationProp is read back from where it is", () => {
    const { cu } = recorder();
    for (const [index, name] of PROP.entries()) cu.out.setInt32(at(name), 100 + index, true);
    expect(memoryCalls(cu).properties(1n)).toEqual({ allocationType: 100, locationType: 102, locationId: 103 });
  });

  test("CUmemAccessDesc and CUmemLocation", () => {
    const [, , descriptor, count] = argumentsOf((cu) => memoryCalls(cu).setAccess(1n, 4096, ORDINAL, "read"));
    expect((descriptor as Uint8Array).byteLength).toBe(at("sizeof(CUmemAccessDesc)"));
    expect(DESC.map((name) => field(descriptor, at(name)))).toEqual([
      at("CU_MEM_LOCATION_TYPE_DEVICE"),
      ORDINAL,
      at("CU_MEM_ACCESS_FLAGS_PROT_READ"),
    ]);
    expect(count).toBe(1);
    const [, location] = argumentsOf((cu) => memoryCalls(cu).getAccess(1n, ORDINAL));
    expect((location as Uint8Array).byteLength).toBe(at("sizeof(CUmemLocation)"));
    expect(LOCATION.map((name) => field(location, at(name)))).toEqual([at("CU_MEM_LOCATION_TYPE_DEVICE"), ORDINAL]);
    expect(at("sizeof(CUuuid)")).toBe(16);
  });

  test("a descriptor is imported by its value, as what it was exported as", () => {
    const type = at("CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR");
    expect(argumentsOf((cu) => importHandle(cu, 17)).slice(1)).toEqual([17n, type]);
    expect(() => importHandle(recorder().cu, 2 ** 31)).toThrow(/an int/);
  });

  test("flags of streams, events, and registered memory, which begins and ends at a page", () => {
    expect(argumentsOf((cu) => streamCalls(cu).create())[1]).toBe(at("CU_STREAM_NON_BLOCKING"));
    expect(argumentsOf((cu) => eventCalls(cu).create())[1]).toBe(at("CU_EVENT_DISABLE_TIMING"));
    let pinned: ReturnType<CudaDriver["memory"]["allocatePinned"]> | undefined;
    const [address, byteLength, flags] = argumentsOf((cu) => {
      pinned = memoryCalls(cu).allocatePinned(4097);
    });
    expect(flags).toBe(at("CU_MEMHOSTREGISTER_PORTABLE"));
    expect([Number(address) % 4096, byteLength]).toEqual([0, 8192]);
    expect(addressOf(pinned?.bytes ?? new Uint8Array())).toBe(address);
  });

  test("an image and a name end with a zero; the compiler's log has its room, and loses its control characters", () => {
    const image = Buffer.from(".version 6.3");
    const { cu, calls } = recorder();
    moduleCalls(cu).load(image);
    moduleCalls(cu).getFunction(1n, "kernel");
    const [[, , handed, count, options, slots] = [], [, , , name] = []] = calls;
    expect(handed).toEqual(Uint8Array.from([...image, 0]));
    expect(name).toEqual(Uint8Array.from([...Buffer.from("kernel"), 0]));
    expect(count).toBe(2);
    expect([field(options, 0), field(options, 4)]).toEqual([
      at("CU_JIT_ERROR_LOG_BUFFER"),
      at("CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES"),
    ]);
    const [log = 0n, room = 0n] = new BigUint64Array((slots as Uint8Array).buffer);
    expect(room).toBe(8192n);
    const failing = recorder(STATUS.INVALID_PTX);
    const module = moduleCalls({
      ...failing.cu,
      status: (...call) => {
        const [at64 = 0n, length = 0n] = new BigUint64Array((call[5] as Uint8Array).buffer);
        viewNative(at64, Number(length)).set(Buffer.from("\x1b[31mline 3\n\xff", "latin1"));
        return failing.cu.status(...call);
      },
    });
    expect(log).not.toBe(0n);
    expect(thrownBy(() => module.load(image))).toMatchObject({
      message: "moduleLoadDataEx: 218: ?[31mline 3\n?",
      details: { status: 218, jitLog: "?[31mline 3\n?" },
    });
  });
});
