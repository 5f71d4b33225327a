/** 16 bytes of the driver as the UUID that NVML and `nvidia-smi` print. No library is needed for it. */
import { expect, test } from "vitest";
import { deviceCalls, formatUuid } from "../../src/cuda/native/device.ts";
import type { DriverLibrary } from "../../src/cuda/native/library.ts";
import { VramError } from "../../src/errors.ts";

const BYTES = Uint8Array.from({ length: 16 }, (_, index) => index * 17);
const DIGITS = "00112233-4455-6677-8899-aabbccddeeff";

/** A driver whose one device has this name. */
function named(name: string): DriverLibrary {
  const answer: DriverLibrary["status"] = (call, room) => {
    const bytes = call === "deviceGetName" ? Buffer.from(`${name}\0`) : BYTES;
    (room as Uint8Array).set(bytes);
    return 0;
  };
  const out = new Uint8Array(64);
  return {
    version: 13000,
    status: answer,
    call: (call, ...args) => void answer(call, ...args),
    error: (call, status) => new VramError("INTERNAL", `${call}: ${status}`),
    out: new DataView(out.buffer),
    room: (offset = 0) => out.subarray(offset),
  };
}

test("[VR-DEV-04] 8-4-4-4-12 hex digits in the order of the bytes", () => {
  expect(formatUuid(BYTES, false)).toBe(`GPU-${DIGITS}`);
  expect(formatUuid(BYTES, true)).toBe(`MIG-${DIGITS}`);
});

test.each([
  ["NVIDIA H200", "GPU"],
  ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "MIG"],
  ["NVIDIA A100-SXM4-40GB MIG 3g.20gb+me", "MIG"],
  ["NVIDIA MIGHTY 9000", "GPU"],
  ["MIG", "GPU"],
])("[VR-DEV-04] %s is a %s", (name, prefix) => {
  const device = deviceCalls(named(name));
  expect(device.uuid(0)).toBe(`${prefix}-${DIGITS}`);
  expect(device.name(0)).toBe(name);
});
