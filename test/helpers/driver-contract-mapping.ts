/** The contract of the border, on addresses: reservations, mappings and their access, what is said of a pointer. */
import { inspect } from "node:util";
import { expect, test } from "vitest";
import { ACCESS, type Access } from "../../src/cuda/driver.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { VramError } from "../../src/errors.ts";
import type { Bench } from "./driver-bench.ts";
import type { Scope } from "./driver-contract.ts";
import { statusOf, thrownBy } from "./emulated.ts";

/** An allocation, mapped, and no access set. */
function mapBare(bench: Bench): { cuHandle: bigint; cuPointer: bigint; unmake: () => void } {
  const { memory } = bench.driver;
  const cuHandle = memory.create(bench.granule, bench.cuDevice);
  const cuPointer = memory.reserveAddress(bench.granule);
  memory.map(cuPointer, bench.granule, cuHandle);
  const unmake = (): void => {
    memory.unmap(cuPointer, bench.granule);
    memory.freeAddress(cuPointer, bench.granule);
    memory.release(cuHandle);
  };
  return { cuHandle, cuPointer, unmake };
}

function addressContract({ bench, observer }: Scope): void {
  test("reserved ranges begin at granules and share no byte", () => {
    const { memory } = bench().driver;
    const { granule } = bench();
    const sizes = [1, 3, 2, 1].map((granules) => granules * granule);
    const starts = sizes.map((byteLength) => memory.reserveAddress(byteLength));
    const ranges = starts.map((start, index) => ({ start, end: start + BigInt(sizes[index] ?? 0) }));
    for (const { start, end } of ranges) {
      expect(start % BigInt(granule)).toBe(0n);
      expect(ranges.filter((other) => other.start < end && start < other.end)).toHaveLength(1);
    }
    for (const [index, start] of starts.entries()) memory.freeAddress(start, sizes[index] ?? 0);
  });

  test("a mapping goes as a whole; its range can be mapped again, and begins without access again", () => {
    const { memory } = bench().driver;
    const { cuDevice, granule } = bench();
    const { cuHandle, cuPointer, byteLength } = bench().allocate("readWrite", 2);
    expect(statusOf(() => memory.unmap(cuPointer, granule))).toBe(STATUS.INVALID_VALUE);
    expect(memory.getAccess(cuPointer, cuDevice)).toBe(ACCESS.readWrite);
    memory.unmap(cuPointer, byteLength);
    expect(thrownBy(() => memory.getAccess(cuPointer, cuDevice))).toMatchObject({ code: "CUDA_FAILED", fatal: false });
    memory.map(cuPointer, byteLength, cuHandle);
    expect(memory.getAccess(cuPointer, cuDevice)).toBe(ACCESS.none);
  });

  test("memory without a context", () => {
    const { context, memory } = bench().driver;
    const { cuDevice, granule } = bench();
    context.setCurrent(0n);
    const worked = works(() => {
      const { cuHandle, cuPointer, unmake } = mapBare(bench());
      memory.setAccess(cuPointer, granule, cuDevice, "read");
      expect(memory.getAccess(cuPointer, cuDevice)).toBe(ACCESS.read);
      expect(memory.properties(cuHandle).locationId).toBe(cuDevice);
      bench().closeFd(memory.exportFd(cuHandle));
      unmake();
    });
    context.setCurrent(bench().cuContext);
    observer.see("memoryNeedsNoContext", worked);
  });
}

/** Whether it ends without an error of the driver. */
function works(task: () => void): boolean {
  try {
    task();
    return true;
  } catch (error) {
    if (error instanceof VramError) return false;
    throw error;
  }
}

function accessContract({ bench }: Scope): void {
  test("[VR-MEM-01] a mapping is born without access, at every address of it", () => {
    const { cuPointer, unmake } = mapBare(bench());
    const { memory } = bench().driver;
    for (const offset of [0, 1, bench().granule - 1]) {
      expect(memory.getAccess(cuPointer + BigInt(offset), bench().cuDevice)).toBe(ACCESS.none);
    }
    unmake();
  });

  test("access is what was set last, by both of the driver's accounts", () => {
    const { memory } = bench().driver;
    const { cuPointer, byteLength } = bench().allocate("read");
    const steps: readonly Access[] = ["readWrite", "read", "none", "read", "readWrite"];
    for (const access of steps) {
      memory.setAccess(cuPointer, byteLength, bench().cuDevice, access);
      expect(memory.getAccess(cuPointer + 4097n, bench().cuDevice), access).toBe(ACCESS[access]);
      if (access === "none") continue;
      expect(memory.pointerAttribute(cuPointer + 4097n, "accessFlags"), access).toBe(BigInt(ACCESS[access]));
    }
  });

  test("every mapping of the same memory has an access of its own", () => {
    const { memory } = bench().driver;
    const main = bench().allocate("read");
    const alias = bench().alias(main, "readWrite");
    const accessOf = (cuPointer: bigint): number => memory.getAccess(cuPointer, bench().cuDevice);
    expect([accessOf(main.cuPointer), accessOf(alias)]).toEqual([ACCESS.read, ACCESS.readWrite]);
    memory.setAccess(alias, main.byteLength, bench().cuDevice, "read");
    memory.setAccess(main.cuPointer, main.byteLength, bench().cuDevice, "none");
    expect([accessOf(main.cuPointer), accessOf(alias)]).toEqual([ACCESS.none, ACCESS.read]);
  });

  test("what is written through one mapping is read through the other, at once", async () => {
    const main = bench().allocate("read", 2);
    const alias = bench().alias(main, "readWrite");
    const at = BigInt(bench().granule - 5);
    for (const round of [1, 2, 3]) {
      const bytes = Buffer.alloc(11, round);
      await bench().upload(alias + at, bytes);
      expect(await bench().download(main.cuPointer + at, 11)).toEqual(bytes);
    }
    bench().driver.stream.fill(bench().cuStream, alias + at, 0xee, 11);
    expect(await bench().download(main.cuPointer + at, 11)).toEqual(Buffer.alloc(11, 0xee));
  });
}

function pointerContract({ bench, observer }: Scope): void {
  test("[VR-MEM-01] a pointer into a mapping: memory of the device, not managed, without an address for the CPU", () => {
    const { memory } = bench().driver;
    const { cuPointer, byteLength } = bench().allocate("read", 3);
    for (const offset of [0n, 77n, BigInt(byteLength - 1)]) {
      const ask = (attribute: Parameters<typeof memory.pointerAttribute>[1]): bigint | undefined =>
        memory.pointerAttribute(cuPointer + offset, attribute);
      expect(ask("memoryType")).toBe(2n);
      expect(ask("isManaged")).toBe(0n);
      expect(ask("deviceOrdinal")).toBe(BigInt(bench().ordinal));
      expect(ask("hostPointer")).toBeUndefined();
      expect(ask("rangeStart")).toBe(cuPointer);
      expect(ask("rangeSize")).toBe(BigInt(byteLength));
      expect(ask("accessFlags")).toBe(BigInt(ACCESS.read));
    }
  });

  test("a pointer the driver does not know has no attributes, which is no error", () => {
    const { memory } = bench().driver;
    for (const attribute of ["memoryType", "isManaged", "rangeSize", "accessFlags"] as const) {
      expect(memory.pointerAttribute(4096n, attribute), attribute).toBeUndefined();
    }
    const reserved = memory.reserveAddress(bench().granule);
    observer.see("reservedAddressIsKnown", memory.pointerAttribute(reserved, "memoryType") !== undefined);
    memory.freeAddress(reserved, bench().granule);
  });

  test("[VR-MEM-07] a refusal tells the call and the status, and no address", () => {
    const { memory } = bench().driver;
    const { granule, cuDevice } = bench();
    const cuPointer = memory.reserveAddress(granule);
    const calls = [
      () => memory.getAccess(cuPointer, cuDevice),
      () => memory.retainHandle(cuPointer),
      () => memory.unmap(cuPointer, granule),
      () => memory.setAccess(cuPointer, granule, cuDevice, "read"),
    ];
    for (const call of calls) {
      const error = thrownBy(call);
      expect(error).toMatchObject({ code: "CUDA_FAILED", fatal: false });
      const text = JSON.stringify(error) + inspect(error, { depth: 9 });
      expect(text).toMatch(/: [A-Z_]+ \(\d+\)/);
      for (const radix of [10, 16]) expect(text.toLowerCase()).not.toContain(cuPointer.toString(radix));
    }
    memory.freeAddress(cuPointer, granule);
  });
}

export function mappingContract(scope: Scope): void {
  addressContract(scope);
  accessContract(scope);
  pointerContract(scope);
}
