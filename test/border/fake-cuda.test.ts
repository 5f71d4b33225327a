/**
 * The fake libcuda itself: what the tests of the native driver lean on. Called as the driver calls it, by `src/ffi/`,
 * but without the driver: here a mistake in the driver cannot hide one in the fake.
 */
import { createHash } from "node:crypto";
import { closeSync, fstatSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { encodeJobs } from "../../src/cuda/kernel-abi.ts";
import { DRIVER_PROTOTYPES } from "../../src/cuda/native/prototypes.ts";
import { isFatalStatus, STATUS } from "../../src/cuda/status.ts";
import { allocateNative, openLibrary, viewNative } from "../../src/ffi/library.ts";
import { configureFakeCuda, fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { type BareFake, openFake, PTX } from "../helpers/fake-cuda-calls.ts";

const GRANULE = 2 * 1024 * 1024;
const fake = fakeCuda();
const library = fake?.library ?? "";

afterEach(() => configureFakeCuda());

describe.skipIf(fake === undefined)(`the fake libcuda${whyNoFakeCuda()}`, () => {
  test("has every symbol the native driver binds; the old one has no virtual memory management", () => {
    const all = Object.keys(DRIVER_PROTOTYPES);
    expect(Object.keys(openLibrary(library).bindPresent(DRIVER_PROTOTYPES))).toEqual(all);
    const old = Object.keys(openLibrary(fake?.old ?? "").bindPresent(DRIVER_PROTOTYPES));
    const lacking = all.filter((name) => !old.includes(name));
    expect(lacking.length).toBeGreaterThan(0);
    expect(lacking.every((name) => / cuMem/.test(DRIVER_PROTOTYPES[name as keyof typeof DRIVER_PROTOTYPES]))).toBe(
      true,
    );
    expect(old).toContain("memcpyHtoDAsync");
  });

  test("answers NOT_INITIALIZED before cuInit, NO_DEVICE without devices, INVALID_CONTEXT without a context", () => {
    const none = openFake(library, { DEVICES: 0 });
    expect(none.started).toBe(STATUS.NO_DEVICE);
    expect(none.cu.deviceGetCount(new Uint8Array(4))).toBe(STATUS.NOT_INITIALIZED);
    const two = openFake(library, { DEVICES: 2, ATTRIBUTES: "18=1,102=0", DRIVER_VERSION: 12080 });
    expect(two.cu.ctxSetCurrent(0n)).toBe(0);
    expect(two.ask("deviceGetCount")).toBe(2n);
    expect(two.ask("driverGetVersion")).toBe(12080n);
    expect([18, 102, 16, 999].map((attribute) => two.cu.deviceGetAttribute(new Uint8Array(4), attribute, 1))).toEqual([
      0,
      0,
      0,
      STATUS.INVALID_VALUE,
    ]);
    expect([18, 102, 16].map((attribute) => two.ask("deviceGetAttribute", attribute, 1))).toEqual([1n, 0n, 132n]);
    expect(two.cu.streamCreate(new Uint8Array(8), 1)).toBe(STATUS.INVALID_CONTEXT);
    expect(two.cu.memRelease(two.create(GRANULE, 1))).toBe(0);
  });

  test("injects the nth call of a symbol, or all from it on, and counts anew at each cuInit", () => {
    const opened = openFake(library, { FAULTS: "cuDeviceGetCount:2:999,cuDeviceGet:2+:101,cuInit:2:802" });
    const { cu } = opened;
    const room = new Uint8Array(8);
    expect([1, 2, 3].map(() => cu.deviceGetCount(room))).toEqual([0, 999, 0]);
    expect([1, 2, 3].map(() => cu.deviceGet(room, 0))).toEqual([0, 101, 101]);
    expect(cu.init(0)).toBe(0);
    expect([1, 2, 3].map(() => cu.deviceGetCount(room))).toEqual([0, 999, 0]);
    opened.end();
  });

  test("refuses an environment that makes no sense", () => {
    for (const FAULTS of ["cuMemCreat:1:2", "cuMemCreate:0:2", "cuMemCreate:1", "cuMemCreate:x:2", "cuInit:1:1000"]) {
      expect(openFake(library, { FAULTS }).started, FAULTS).toBe(STATUS.INVALID_VALUE);
    }
    expect(openFake(library, { ATTRIBUTES: "18" }).started).toBe(STATUS.INVALID_VALUE);
    expect(openFake(library, { DEVICES: 99 }).started).toBe(STATUS.INVALID_VALUE);
  });

  test("has the same list of harmless statuses as src/cuda/status.ts: all others stay", () => {
    for (let status = 1; status <= 999; status += 1) {
      const opened = openFake(library, { FAULTS: `cuMemGetInfo_v2:1:${status}` });
      opened.retain();
      const room = new Uint8Array(8);
      expect(opened.cu.memGetInfo(room, room)).toBe(status);
      expect(opened.cu.memGetInfo(room, room), String(status)).toBe(isFatalStatus(status) ? status : 0);
      opened.end();
    }
  });

  test("memory counts until its last handle and mapping are gone, and comes back by its fd", () => {
    const opened = openFake(library, { BYTES: 4 * GRANULE });
    const { cu, ask, create, map, info } = opened;
    opened.retain();
    expect(cu.memCreate(new Uint8Array(8), GRANULE + 1, opened.properties(0), 0n)).toBe(STATUS.INVALID_VALUE);
    const handle = create(3 * GRANULE);
    expect(cu.memCreate(new Uint8Array(8), 2 * GRANULE, opened.properties(0), 0n)).toBe(STATUS.OUT_OF_MEMORY);
    const address = map(handle, 3 * GRANULE, 3);
    expect(cu.memsetD8Async(address, 0xab, 3 * GRANULE, 0n)).toBe(0);
    const fd = Number(ask("memExport", handle, 1, 0n));
    expect(cu.memRelease(handle)).toBe(0);
    expect(info()).toEqual({ free: GRANULE, total: 4 * GRANULE });
    const imported = ask("memImport", fd, 1);
    const retained = ask("memRetainAllocationHandle", address);
    expect([imported !== handle, retained]).toEqual([true, handle]);
    expect([cu.memUnmap(address, GRANULE), cu.memUnmap(address, 3 * GRANULE)]).toEqual([STATUS.INVALID_VALUE, 0]);
    expect(cu.memAddressFree(address, 3 * GRANULE)).toBe(0);
    expect([cu.memRelease(retained), info().free, cu.memRelease(imported)]).toEqual([0, GRANULE, 0]);
    expect(info().free).toBe(4 * GRANULE);
    // Nobody has it in this process; the fd alone keeps what is in it.
    const again = ask("memImport", fd, 1);
    const host = allocateNative(16);
    const alias = map(again, 3 * GRANULE, 1);
    expect(cu.memcpyDtoHAsync(host.address, alias + 5n, 16, 0n)).toBe(0);
    expect(host.bytes).toEqual(new Uint8Array(16).fill(0xab));
    expect(fstatSync(fd).size).toBe(3 * GRANULE);
    closeSync(fd);
    const other = openSync("/dev/null", "r");
    expect(cu.memImport(new Uint8Array(8), other, 1)).toBe(STATUS.INVALID_VALUE);
    closeSync(other);
    opened.unmap(alias, 3 * GRANULE, again);
    opened.end();
  });

  test.each([
    ["a copy", 1, (f: BareFake, at: bigint) => f.cu.memcpyHtoDAsync(at, allocateNative(8).address, 8, 0n)],
    ["a fill", 1, (f: BareFake, at: bigint) => f.cu.memsetD8Async(at, 1, 8, 0n)],
    ["a kernel's store", 1, (f: BareFake, at: bigint) => f.launch("vram_probe_store", [at, 7n])],
    [
      "a read without access",
      0,
      (f: BareFake, at: bigint) => f.cu.memcpyDtoHAsync(allocateNative(8).address, at, 8, 0n),
    ],
    ["a fill beyond the mapping", 3, (f: BareFake, at: bigint) => f.cu.memsetD8Async(at, 1, GRANULE + 1, 0n)],
  ])("%s where that is not allowed is accepted, and kills the context", (_, flags, act) => {
    const opened = openFake(library);
    const { cu, ask } = opened;
    opened.retain();
    const handle = opened.create(GRANULE);
    const address = opened.map(handle, GRANULE, flags);
    const event = ask("eventCreate", 2);
    expect(act(opened, address)).toBe(0);
    expect(cu.eventQuery(event)).toBe(STATUS.ILLEGAL_ADDRESS);
    expect(cu.eventRecord(event, 0n)).toBe(STATUS.ILLEGAL_ADDRESS);
    expect(cu.streamCreate(new Uint8Array(8), 0)).toBe(STATUS.ILLEGAL_ADDRESS);
    // Memory belongs to no context.
    opened.unmap(address, GRANULE, handle);
    opened.end();
  });

  test("a host address that is not there is refused, and nothing dies", () => {
    const opened = openFake(library);
    const { cu } = opened;
    opened.retain();
    const handle = opened.create(GRANULE);
    const address = opened.map(handle, GRANULE, 3);
    expect(cu.memcpyHtoDAsync(address, 4096n, 8, 0n)).toBe(STATUS.INVALID_VALUE);
    expect(cu.memcpyDtoHAsync(4096n, address, 8, 0n)).toBe(STATUS.INVALID_VALUE);
    expect(cu.memHostRegister(4096n, 4096, 1)).toBe(STATUS.INVALID_VALUE);
    expect(opened.info().free).toBe(2 ** 30 - GRANULE);
    opened.unmap(address, GRANULE, handle);
    opened.end();
  });

  test("says of VRAM that the CPU has no pointer to it, unless it is told to lie", () => {
    const opened = openFake(library, { POINTER_ATTRIBUTES: "8=1" });
    const { cu, ask } = opened;
    opened.retain();
    const handle = opened.create(GRANULE);
    const address = opened.map(handle, GRANULE, 1);
    const answers = [2, 8, 9, 11, 12, 16].map((attribute) => ask("pointerGetAttribute", attribute, address + 8n));
    expect(answers).toEqual([2n, 1n, 0n, address, BigInt(GRANULE), 1n]);
    expect(cu.pointerGetAttribute(new Uint8Array(8), 4, address)).toBe(STATUS.INVALID_VALUE);
    expect(cu.pointerGetAttribute(new Uint8Array(8), 2, 4096n)).toBe(STATUS.INVALID_VALUE);
    opened.unmap(address, GRANULE, handle);
    opened.end();
  });

  test("events are late as often as asked; destroyed and foreign handles are invalid", () => {
    const opened = openFake(library, { NOT_READY: 2 });
    const { cu, ask } = opened;
    opened.retain();
    const [event, stream] = [ask("eventCreate", 2), ask("streamCreate", 1)];
    expect(cu.eventQuery(event)).toBe(0);
    expect(cu.eventRecord(event, stream)).toBe(0);
    expect([1, 2, 3].map(() => cu.eventQuery(event))).toEqual([STATUS.NOT_READY, STATUS.NOT_READY, 0]);
    expect(cu.streamDestroy(stream)).toBe(0);
    const dead = [cu.eventRecord(event, stream), cu.streamDestroy(stream), cu.memsetD8Async(0n, 0, 0, event)];
    expect(dead).toEqual([STATUS.INVALID_HANDLE, STATUS.INVALID_HANDLE, STATUS.INVALID_HANDLE]);
    expect([cu.eventDestroy(event), cu.eventQuery(event)]).toEqual([0, STATUS.INVALID_HANDLE]);
    opened.end();
  });

  test("a stream, an event and a mapping belong to their device", () => {
    const opened = openFake(library, { DEVICES: 2 });
    const { cu, ask } = opened;
    opened.retain(0);
    const [event, stream] = [ask("eventCreate", 2), ask("streamCreate", 1)];
    const handle = opened.create(GRANULE, 1);
    const address = opened.map(handle, GRANULE, 3, 1);
    opened.retain(1);
    expect(cu.memsetD8Async(address, 1, GRANULE, stream)).toBe(STATUS.INVALID_HANDLE);
    expect(cu.eventRecord(event, 0n)).toBe(STATUS.INVALID_HANDLE);
    expect([cu.memsetD8Async(address, 1, GRANULE, 0n), opened.info().free]).toEqual([0, 2 ** 30 - GRANULE]);
    opened.retain(0);
    expect(opened.info().free).toBe(2 ** 30);
    expect([cu.memsetD8Async(address, 1, GRANULE, 0n), cu.eventQuery(event)]).toEqual([0, STATUS.ILLEGAL_ADDRESS]);
    // The other device's context is as well as before.
    opened.retain(1);
    expect(cu.memsetD8Async(address, 1, GRANULE, 0n)).toBe(0);
    opened.unmap(address, GRANULE, handle);
    opened.end();
  });

  test("names statuses, and knows figures of a function", () => {
    const opened = openFake(library);
    opened.retain();
    const name = new BigUint64Array(1);
    expect(opened.cu.getErrorName(700, new Uint8Array(name.buffer))).toBe(0);
    expect(Buffer.from(viewNative(name[0] ?? 0n, 26)).toString()).toBe("CUDA_ERROR_ILLEGAL_ADDRESS");
    expect(opened.cu.getErrorName(998, new Uint8Array(name.buffer))).toBe(STATUS.INVALID_VALUE);
    const module = opened.ask("moduleLoadDataEx", Buffer.from(`${PTX}\0`), 0, new Uint8Array(8), new Uint8Array(8));
    const entry = opened.ask("moduleGetFunction", module, Buffer.from("vram_hash_blocks\0"));
    expect(opened.ask("funcGetAttribute", 0, entry)).toBe(1024n);
    expect([4, 0x40, 3].map((flags) => opened.cu.setFlags(0, flags))).toEqual([0, 0, STATUS.INVALID_VALUE]);
    opened.end();
  });

  test("modules are PTX text with entries, of a version the driver knows", () => {
    const opened = openFake(library, { DRIVER_VERSION: 11040 });
    opened.retain();
    const load = (text: string | Uint8Array): number => {
      const nothing = new Uint8Array(8);
      return opened.cu.moduleLoadDataEx(new Uint8Array(8), Buffer.from(text), 0, nothing, nothing);
    };
    expect(load(`${PTX}\0`)).toBe(0);
    expect(load(`${PTX.replace("6.3", "9.0")}\0`)).toBe(STATUS.UNSUPPORTED_PTX_VERSION);
    expect(load(`${PTX.replaceAll(".visible", "")}\0`)).toBe(STATUS.INVALID_PTX);
    expect(load("\x7fELF\x02\0")).toBe(STATUS.INVALID_PTX);
    expect(() => opened.launch("vram_hash_leaves", [])).toThrow("moduleGetFunction: 500");
    opened.end();
  });

  test.each([0, 1])("runs the kernel the GPU runs; with DROP_LAUNCHES=%d", (DROP_LAUNCHES) => {
    const opened = openFake(library, { DROP_LAUNCHES });
    const { cu } = opened;
    opened.retain();
    const handle = opened.create(GRANULE);
    const address = opened.map(handle, GRANULE, 3);
    const target = address + 65536n;
    const host = allocateNative(65536);
    host.bytes.set(Array.from({ length: 8192 }, (_, index) => (index * 7) % 251));
    host.bytes.set(encodeJobs([{ cuSource: address, byteLength: 5000, cuTarget: target }]), 8192);
    expect(cu.memcpyHtoDAsync(address, host.address, 65536, 0n)).toBe(0);
    expect(opened.launch("vram_hash_blocks", [address + 8192n, 1n, 2n, 0n, 1n])).toBe(0);
    expect(cu.memcpyDtoHAsync(host.address, target, 64, 0n)).toBe(0);
    const hashes = [0, 4096].map((at) => {
      const block = Buffer.alloc(4096);
      for (let i = 0; i < 4096 && at + i < 5000; i += 1) block[i] = ((at + i) * 7) % 251;
      return createHash("sha256").update(block).digest("hex");
    });
    const expected = DROP_LAUNCHES === 1 ? "00".repeat(64) : hashes.join("");
    expect(Buffer.from(host.bytes.subarray(0, 64)).toString("hex")).toBe(expected);
    expect(opened.launch("vram_hash_blocks", [address, 1n, 2n, 0n, 1n], 1, 1025)).toBe(STATUS.INVALID_VALUE);
    opened.unmap(address, GRANULE, handle);
    opened.end();
  });

  test("keeps a log of every call, with its bytes or blocks", () => {
    const log = join(tmpdir(), `vram-fake-log-${process.pid}.txt`);
    rmSync(log, { force: true });
    const opened = openFake(library, { LOG: log, DROP_LAUNCHES: 1, FAULTS: "cuMemCreate:2:2" });
    opened.retain();
    const handle = opened.create(GRANULE);
    expect(opened.cu.memCreate(new Uint8Array(8), 2 * GRANULE, opened.properties(0), 0n)).toBe(STATUS.OUT_OF_MEMORY);
    expect(opened.launch("vram_hash_blocks", [0n, 0n, 3n, 0n, 1n])).toBe(0);
    expect(opened.cu.memRelease(handle)).toBe(0);
    opened.end();
    const lines = readFileSync(log, "utf8").trimEnd().split("\n");
    rmSync(log);
    expect(lines).toEqual([
      "cuInit",
      "cuDevicePrimaryCtxRetain",
      "cuCtxSetCurrent",
      `cuMemCreate ${GRANULE}`,
      `cuMemCreate ${2 * GRANULE}`,
      "cuModuleLoadDataEx",
      "cuModuleGetFunction",
      "cuLaunchKernel 3",
      "cuMemRelease",
    ]);
  });
});
