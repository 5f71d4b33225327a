/** Calls on modules: PTX in, functions out. The driver compiles it for the GPU at hand (cuda.h, "Module Management"). */
import { VramError } from "../../errors.ts";
import { allocateNative, type NativeMemory } from "../../ffi/library.ts";
import type { CudaDriver } from "../driver.ts";
import { STATUS } from "../status.ts";
import { type DriverLibrary, u64 } from "./library.ts";

/** `CUjit_option`: where the compiler writes what went wrong, and how much room there is. */
const JIT_ERROR_LOG_BUFFER = 5;
const JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6;
const LOG_BYTES = 8192;
/** One for the process, like every native memory here. */
let logRoom: NativeMemory | undefined;

const terminated = (bytes: Uint8Array): Uint8Array => Buffer.concat([bytes, Uint8Array.of(0)]);

/** The `module` calls. An image is PTX text without a terminator. */
export function moduleCalls(cu: DriverLibrary): CudaDriver["module"] {
  logRoom ??= allocateNative(LOG_BYTES);
  const log = logRoom;
  const options = new Uint8Array(Int32Array.of(JIT_ERROR_LOG_BUFFER, JIT_ERROR_LOG_BUFFER_SIZE_BYTES).buffer);
  return {
    load: (image) => {
      log.bytes.fill(0);
      const values = new Uint8Array(BigUint64Array.of(log.address, BigInt(LOG_BYTES)).buffer);
      const status = cu.status("moduleLoadDataEx", cu.room(), terminated(image), 2, options, values);
      if (status === STATUS.SUCCESS) return cu.out.getBigUint64(0, true);
      const { code, message, details } = cu.error("moduleLoadDataEx", status);
      const words = Buffer.from(log.bytes.subarray(0, log.bytes.indexOf(0))).toString("latin1");
      const jitLog = words.replace(/[^\x20-\x7e\n]/g, "?").trim();
      throw new VramError(code, jitLog === "" ? message : `${message}: ${jitLog}`, { details: { ...details, jitLog } });
    },
    unload: (cuModule) => cu.call("moduleUnload", u64(cuModule)),
    getFunction: (cuModule, name) => {
      cu.call("moduleGetFunction", cu.room(), u64(cuModule), terminated(Buffer.from(name, "latin1")));
      return cu.out.getBigUint64(0, true);
    },
  };
}
