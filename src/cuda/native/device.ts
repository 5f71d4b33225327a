/** Calls on devices and contexts: cuda.h's "Device Management", "Primary Context Management", "Context Management". */
import { toHex } from "../../bytes.ts";
import { type CudaDriver, DEVICE_ATTRIBUTE, type DeviceAttribute } from "../driver.ts";
import { STATUS } from "../status.ts";
import { byteCount, type DriverLibrary, int, u64 } from "./library.ts";

const NAME_BYTES = 256;
/** Attributes that drivers of the oldest supported line do not know; they then answer "invalid value". */
const NEWER: ReadonlySet<DeviceAttribute> = new Set(["mpsEnabled"]);

/** 16 bytes as `GPU-` or `MIG-` and 8-4-4-4-12 hex digits, the way NVML and nvidia-smi print it. */
export function formatUuid(bytes: Uint8Array, isSlice: boolean): string {
  const hex = toHex(bytes);
  const groups = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)];
  return `${isSlice ? "MIG" : "GPU"}-${groups.join("-")}`;
}

/** The `device` calls. Ordinals are positional among the visible devices; identity is the UUID. */
export function deviceCalls(cu: DriverLibrary): CudaDriver["device"] {
  const name = (cuDevice: number): string => {
    const text = Buffer.alloc(NAME_BYTES);
    cu.call("deviceGetName", text, NAME_BYTES, int(cuDevice));
    const end = text.indexOf(0);
    return text.toString("utf8", 0, end < 0 ? NAME_BYTES : end);
  };
  return {
    count: () => {
      cu.call("deviceGetCount", cu.room());
      return cu.out.getInt32(0, true);
    },
    get: (ordinal) => {
      cu.call("deviceGet", cu.room(), int(ordinal));
      return cu.out.getInt32(0, true);
    },
    name,
    uuid: (cuDevice) => {
      const bytes = new Uint8Array(16);
      cu.call("deviceGetUuid", bytes, int(cuDevice));
      // No attribute tells a MIG slice; its name does ("… MIG 1g.10gb").
      return formatUuid(bytes, / MIG \d/.test(name(cuDevice)));
    },
    totalMemory: (cuDevice) => {
      cu.call("deviceTotalMem", cu.room(), int(cuDevice));
      return byteCount(cu.out.getBigUint64(0, true));
    },
    attribute: (cuDevice, attribute) => {
      const status = cu.status("deviceGetAttribute", cu.room(), DEVICE_ATTRIBUTE[attribute], int(cuDevice));
      if (status === STATUS.INVALID_VALUE && NEWER.has(attribute)) return 0;
      if (status !== STATUS.SUCCESS) throw cu.error("deviceGetAttribute", status);
      return cu.out.getInt32(0, true);
    },
  };
}

/** The `context` calls: one primary context per device, current per thread. */
export function contextCalls(cu: DriverLibrary): CudaDriver["context"] {
  return {
    retainPrimary: (cuDevice) => {
      cu.call("primaryCtxRetain", cu.room(), int(cuDevice));
      return cu.out.getBigUint64(0, true);
    },
    releasePrimary: (cuDevice) => cu.call("primaryCtxRelease", int(cuDevice)),
    setCurrent: (cuContext) => cu.call("ctxSetCurrent", u64(cuContext)),
    memoryInfo: () => {
      cu.call("memGetInfo", cu.room(), cu.room(8));
      return {
        bytesFree: byteCount(cu.out.getBigUint64(0, true)),
        bytesTotal: byteCount(cu.out.getBigUint64(8, true)),
      };
    },
  };
}
