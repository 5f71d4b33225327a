/** Before step 1: which GPU, driver, clocks and machine the answers are of. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { CUDA_LIBRARY, DEVICE_ATTRIBUTE } from "../../dist/cuda/driver.js";
import { requireRealDriver } from "../../dist/device/detect.js";
import { readDeviceInfo } from "../../dist/device/facts.js";
import { libraryName, openGpu, Unsupported } from "./driver.mjs";

/**
 * What nvidia-smi says of this GPU, as `{ field: text }`: nothing where it is not there or does not know it. One field
 * that it does not know makes it refuse all of them, hence a call for each group.
 */
function askSmi(uuid, fields) {
  const args = [`--query-gpu=${fields.join(",")}`, "--format=csv,noheader,nounits", "-i", uuid];
  const { status, stdout } = spawnSync("nvidia-smi", args, { encoding: "utf8", timeout: 10_000 });
  if (status !== 0) return null;
  const values = stdout.trim().split(/,\s*/);
  return Object.fromEntries(fields.map((field, index) => [field, values[index] ?? ""]));
}

/** MHz, watts, °C at this moment; null where nobody knows. */
export const clocksNow = ({ driver, cuDevice }) =>
  driver.backend === "cuda"
    ? askSmi(driver.device.uuid(cuDevice), ["clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "pstate"])
    : null;

function machine() {
  return {
    cpu: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
    hostBytes: totalmem(),
    kernel: release(),
    node: process.version,
  };
}

/** Whether the kernel knows of a GPU, too: a substitute in the loader's way must not pass for hardware. */
function isRealDriver() {
  try {
    requireRealDriver(process.env.LD_LIBRARY_PATH);
    return true;
  } catch {
    return false;
  }
}

function gpu({ report }) {
  const real = libraryName() === CUDA_LIBRARY;
  report("backend", real ? "cuda" : "cuda-substituted");
  report("host", machine());
  const { driver, cuDevice } = openGpu();
  if (real && !isRealDriver()) report("backend", "cuda-substituted");
  const { facts, ...info } = readDeviceInfo(driver, 0, existsSync("/dev/dxg"));
  report("device", info);
  report("facts", facts);
  report("multiprocessors", driver.device.attribute(cuDevice, "multiprocessorCount"));
  report("memory", driver.context.memoryInfo());
  report("visibleDevices", driver.device.count());
  report("attributesAsked", Object.keys(DEVICE_ATTRIBUTE).length);
}

function smi({ report }) {
  if (libraryName() !== CUDA_LIBRARY) throw new Unsupported("nvidia-smi knows nothing of a substituted library");
  const version = "/proc/driver/nvidia/version";
  if (existsSync(version)) report("kernelModule", readFileSync(version, "utf8").split("\n")[0]);
  const gpu = openGpu({ context: false });
  const uuid = gpu.driver.device.uuid(gpu.cuDevice);
  report("driver", askSmi(uuid, ["driver_version", "vbios_version"]));
  report("limits", askSmi(uuid, ["clocks.max.sm", "clocks.max.mem", "power.limit"]));
  report("now", clocksNow(gpu));
  report("settings", askSmi(uuid, ["persistence_mode", "compute_mode", "ecc.mode.current", "mig.mode.current"]));
}

export const title = "the machine";
export const questions = { gpu: { limitS: 40, ask: gpu }, smi: { limitS: 30, ask: smi } };
