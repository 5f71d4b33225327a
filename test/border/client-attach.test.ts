/**
 * `client.attach` to memory of a device, over the fake libcuda: what it maps, where, and what it gives back when any of it
 * fails. And what only a process of its own shows: that clients which never attach load no native code, and that an
 * attachment keeps no process alive.
 */
import { execFile } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { inspect, promisify } from "node:util";
import { afterEach, describe, expect, test } from "vitest";
import { type AttachTerms, type DeviceAttachment, openClient, VramError } from "../../src/client.ts";
import { formatUuid } from "../../src/cuda/native/device.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { duplicate } from "../../src/ffi/descriptors.ts";
import { allocateNative } from "../../src/ffi/library.ts";
import { reportCount } from "../helpers/counts.ts";
import { configureFakeCuda, fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { type BareFake, openFake } from "../helpers/fake-cuda-calls.ts";
import { type FakeSettings, fakeLog } from "../helpers/native.ts";
import { type AttachStub, descriptorCount, grant, grantTo, openAttachStub, weights } from "../helpers/stub-attach.ts";
import * as is from "../helpers/stub-replies.ts";

const MIB = 2 ** 20;
const GRANULE = 2 * MIB;
const ALLOCATED = 3 * GRANULE;
const SHARD_BYTES = 2 * GRANULE + 5;
/** Of two devices, the second: a zero is right by chance too easily. */
const DEVICE = 1;
const SETTINGS = { DEVICES: 2, BYTES: 64 * MIB };
const TENSOR = { name: "t", dtype: "U8", shape: [4099], offset: GRANULE - 3, byteLength: 4099 };

const fake = fakeCuda();
const library = fake?.library ?? "";
const { name } = is.record();

interface Owner {
  readonly fake: BareFake;
  readonly uuids: readonly string[];
  /** The exported memory. */
  readonly fd: number;
  readonly free: () => number;
  end(): void;
}

/**
 * Memory of the second device: 0xab, and at the tensor 0xcd. The fd is all that is left of it in this process, so that
 * whatever the client holds counts there as used.
 */
function openOwner(): Owner {
  const opened = openFake(library, SETTINGS);
  const { cu, ask, create, map, unmap, info } = opened;
  opened.retain(DEVICE);
  const handle = create(ALLOCATED, DEVICE);
  const address = map(handle, ALLOCATED, 3, DEVICE);
  expect(cu.memsetD8Async(address, 0xab, ALLOCATED, 0n)).toBe(0);
  expect(cu.memsetD8Async(address + BigInt(TENSOR.offset), 0xcd, TENSOR.byteLength, 0n)).toBe(0);
  const fd = Number(ask("memExport", handle, 1, 0n));
  unmap(address, ALLOCATED, handle);
  const uuids = [0, 1].map((device) => {
    const bytes = new Uint8Array(16);
    expect(cu.deviceGetUuid(bytes, device)).toBe(0);
    return formatUuid(bytes, false);
  });
  return {
    ...{ fake: opened, uuids, fd },
    free: () => {
      // A cuInit that was made to fail leaves it uninitialised.
      configureFakeCuda(SETTINGS);
      expect(cu.init(0)).toBe(0);
      return info().free;
    },
    end: () => {
      closeSync(fd);
      opened.end();
    },
  };
}

interface Handed {
  readonly uuid?: string | undefined;
  readonly fd?: number;
  readonly byteLength?: number;
  readonly backend?: "cuda" | "cuda-substituted";
}

/** A service that hands over the memory of `owner`, or says so. */
function stubOf(owner: Owner, handed: Handed = {}): Promise<AttachStub> {
  const { uuid = owner.uuids[DEVICE] ?? "", fd = owner.fd, byteLength = ALLOCATED } = handed;
  const device = { ordinal: DEVICE, uuid };
  const granted = grant(({ record }) => ({
    record: { ...record, device, byteLength: SHARD_BYTES, backend: handed.backend ?? "cuda-substituted" },
    tensors: [TENSOR],
    memory: { kind: "cuda-vmm", deviceUuid: uuid, byteLength },
  }));
  return openAttachStub((peer) => grantTo(peer, granted, duplicate(fd)));
}

async function attachTo({ socket }: AttachStub, terms: Partial<AttachTerms> = {}): Promise<DeviceAttachment> {
  const attachment = await openClient({ socket }).attach(name, { expect: is.DIGEST, library, ...terms });
  if (attachment.kind !== "cuda-vmm") throw new Error(attachment.kind);
  return attachment;
}

const errorOf = async (task: Promise<unknown>): Promise<VramError> => {
  const error = await task.catch((thrown: unknown) => thrown);
  if (error instanceof VramError) return error;
  throw new Error(`not refused: ${inspect(error)}`);
};

afterEach(() => configureFakeCuda());

describe.skipIf(fake === undefined)(`attaching to a device's memory${whyNoFakeCuda()}`, () => {
  test("[VR-MEM-07] maps it whole, on the same device and for reading; the address is the caller's alone", async () => {
    const owner = openOwner();
    const stub = await stubOf(owner);
    const [before, free] = [descriptorCount(), owner.free()];
    const attachment = await attachTo(stub);
    // The fd that came is closed: the connection has one at each end, and the fake holds the memory by one of its own.
    expect([descriptorCount(), owner.free()]).toEqual([before + 3, free - ALLOCATED]);
    const base = attachment.devicePointer();
    expect(attachment.devicePointer("t") - base).toBe(BigInt(TENSOR.offset));
    expect(() => attachment.devicePointer("u")).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
    const { cu, ask } = owner.fake;
    const host = allocateNative(8);
    expect(cu.memcpyDtoHAsync(host.address, attachment.devicePointer("t") - 4n, 8, 0n)).toBe(0);
    expect([...host.bytes]).toEqual([0xab, 0xab, 0xab, 0xab, 0xcd, 0xcd, 0xcd, 0xcd]);
    expect(cu.memcpyDtoHAsync(host.address, base + BigInt(ALLOCATED - 8), 8, 0n)).toBe(0);
    const location = new Uint8Array(Int32Array.of(1, DEVICE).buffer);
    expect(ask("memGetAccess", location, base)).toBe(1n);
    for (const shown of [inspect(attachment, { depth: 9, showHidden: true }), JSON.stringify(attachment)]) {
      expect(shown).toContain("export-1");
      for (const pointer of [base, attachment.devicePointer("t")]) {
        expect(shown.toLowerCase()).not.toMatch(new RegExp(`${pointer}|${pointer.toString(16)}`));
      }
    }
    await attachment.close();
    await attachment.close();
    expect(() => attachment.devicePointer()).toThrow(expect.objectContaining({ code: "CLOSED" }));
    await stub.settled();
    expect([descriptorCount(), owner.free()]).toEqual([before, free]);
    owner.end();
  });

  test("gives back in reverse what it took, once", async () => {
    const owner = openOwner();
    const log = await fakeLog();
    const stub = await stubOf(owner);
    configureFakeCuda({ ...SETTINGS, LOG: log.LOG });
    const attachment = await attachTo(stub);
    const taken = log.take().map(({ symbol }) => symbol);
    const memory = ["cuMemImportFromShareableHandle", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"];
    expect(taken.filter((symbol) => memory.includes(symbol))).toEqual(memory);
    // No context: neither made nor asked for.
    expect(taken.filter((symbol) => /Ctx/.test(symbol))).toEqual([]);
    await attachment.close();
    await attachment.close();
    expect(log.take().map(({ symbol }) => symbol)).toEqual(["cuMemUnmap", "cuMemAddressFree", "cuMemRelease"]);
    owner.end();
  });

  test("a write there ends the context of whoever tries, and changes nothing", async () => {
    const owner = openOwner();
    const attachment = await attachTo(await stubOf(owner));
    const { cu, ask } = owner.fake;
    const event = ask("eventCreate", 2);
    expect(cu.memsetD8Async(attachment.devicePointer(), 1, 8, 0n)).toBe(0);
    expect(cu.eventQuery(event)).toBe(STATUS.ILLEGAL_ADDRESS);
    await attachment.close();
    owner.end();
  });

  test("is refused where the GPU is not visible, or the memory is on another one, or none at all", async () => {
    const owner = openOwner();
    const host = weights(ALLOCATED);
    const plain = openSync("/dev/null", "r");
    const cases: readonly (readonly [Handed, Partial<AttachTerms>, string, RegExp])[] = [
      [{ uuid: "GPU-none" }, {}, "DEVICE_NOT_FOUND", /GPU-none is not among the 2 GPUs/],
      [{ uuid: owner.uuids[0] }, {}, "POLICY_VIOLATION", /not pinned memory of the GPU that was named/],
      [{ fd: host }, {}, "CUDA_FAILED", /cuMemImportFromShareableHandle: INVALID_VALUE/],
      [{ fd: plain }, {}, "CUDA_FAILED", /cuMemImportFromShareableHandle: INVALID_VALUE/],
      [{ byteLength: ALLOCATED + GRANULE }, {}, "CUDA_FAILED", /cuMemMap: INVALID_VALUE/],
      [{}, { library: undefined }, "INVALID_ARGUMENT", /cuda-substituted, and libcuda.so.1 is no driver for that/],
      [{ backend: "cuda" }, {}, "INVALID_ARGUMENT", /the service's backend is cuda, and/],
      [{}, { library: "/nonexistent/libcuda.so" }, "DEVICE_UNUSABLE", /cannot be loaded/],
    ];
    for (const [handed, terms, code, message] of cases) {
      const stub = await stubOf(owner, handed);
      const [before, free] = [descriptorCount(), owner.free()];
      const error = await errorOf(attachTo(stub, terms));
      expect([error.code, error.message]).toEqual([code, expect.stringMatching(message)]);
      await stub.settled();
      expect([descriptorCount(), owner.free()], code).toEqual([before, free]);
    }
    closeSync(host);
    closeSync(plain);
    owner.end();
  });

  test("whichever call fails: a typed error or a warning, and nothing stays that was not owned up to", async () => {
    const owner = openOwner();
    const stub = await stubOf(owner);
    const warnings: string[] = [];
    const listen = (warning: Error): void => void warnings.push(warning.message);
    process.on("warning", listen);
    const log = await fakeLog();
    const run = async (settings: FakeSettings): Promise<VramError | undefined> => {
      configureFakeCuda({ ...SETTINGS, ...settings });
      const attached = await attachTo(stub).catch((thrown: unknown) => thrown as VramError);
      if (!(attached instanceof VramError)) await attached.close();
      // Warnings come in a later turn.
      await new Promise((resolve) => setImmediate(resolve));
      return attached instanceof VramError ? attached : undefined;
    };
    expect(await run({ LOG: log.LOG })).toBeUndefined();
    const calls = log.take().map(({ symbol }) => symbol);
    expect(calls).toContain("cuMemImportFromShareableHandle");
    await stub.settled();
    const held = () => [owner.free(), descriptorCount()];
    let before = held();
    const codes = new Set<string>();
    for (const symbol of new Set(calls)) {
      for (let nth = 1; nth <= calls.filter((call) => call === symbol).length; nth += 1) {
        warnings.length = 0;
        const what = `${symbol}:${nth}:${STATUS.OUT_OF_MEMORY}`;
        const error = await run({ FAULTS: what });
        await stub.settled();
        if (error === undefined) expect(warnings.join(), what).toContain(`${symbol}: OUT_OF_MEMORY`);
        else expect([error.message, warnings], what).toEqual([expect.stringContaining(symbol), []]);
        codes.add(error?.code ?? "a warning");
        // A release that failed leaks, and says so.
        if (warnings.length === 0) expect(held(), what).toEqual(before);
        before = held();
      }
    }
    process.off("warning", listen);
    reportCount(`attach: ${calls.length} calls failed once each: ${[...codes].sort().join(", ")}`);
    owner.end();
  });
});

const execute = promisify(execFile);
const CLIENT = new URL("../../dist/client.js", import.meta.url).href;

/** Runs a module that has the client, and says what of koffi is mapped in the end. */
async function inProcess(code: string): Promise<string> {
  const source = `
    import { readFileSync } from "node:fs";
    import { openClient } from ${JSON.stringify(CLIENT)};
    const isNative = () => /koffi/.test(readFileSync("/proc/self/maps", "utf8"));
    ${code}`;
  const { stdout, stderr } = await execute(process.execPath, ["--input-type=module", "-e", source], {
    timeout: 30_000,
  });
  expect(stderr).toBe("");
  return stdout.trim();
}

describe("in a process of its own", () => {
  test("a client loads no native code before it attaches", async () => {
    const said = await inProcess(`
      const client = openClient({ socket: "/nonexistent/vram.sock" });
      await client.list().catch(() => undefined);
      await openClient({ url: "http://127.0.0.1:1" }).attach("m", { expect: null }).catch(() => undefined);
      console.log(isNative());
      await client.attach("m", { expect: null }).catch((error) => console.log(error.code, isNative()));
    `);
    expect(said).toBe("false\nSERVICE_UNREACHABLE true");
  });

  test("waiting for the reply keeps it alive; being attached does not, and its end is the end of the export", async () => {
    const stub = await openAttachStub((peer) => void setImmediate(() => grantTo(peer)));
    const said = await inProcess(`
      const client = openClient({ socket: ${JSON.stringify(stub.socket)} });
      const attachment = await client.attach(${JSON.stringify(name)}, { expect: ${JSON.stringify(is.DIGEST)} });
      attachment.onLeaseEnded(() => undefined);
      void attachment.ended.then(() => console.log("never"));
      console.log(attachment.tensor("embed").byteLength);
    `);
    expect(said).toBe("32");
    await stub.settled();
    expect(stub.peers).toHaveLength(1);
  });
});
