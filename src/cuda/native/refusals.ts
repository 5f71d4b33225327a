/**
 * What a driver that will not start says, in words that lead somewhere. Each is `DEVICE_UNUSABLE`: a GPU that is there
 * but cannot be used is refused with the fix, never replaced by the emulated device (VR-DEV-03).
 * Source: `CUresult` in cuda.h of CUDA 13.0.
 */
import { existsSync } from "node:fs";
import { type ErrorDetails, VramError } from "../../errors.ts";
import { CUDA_LIBRARY } from "../driver.ts";
import { statusName } from "../status.ts";

interface Refusal {
  readonly what: string;
  readonly fix: string;
}

const RESTART =
  "load the kernel modules (`nvidia-modprobe -u`), look for messages of NVRM in `dmesg`, reboot if need be";

const REFUSALS: Readonly<Record<number, Refusal>> = {
  2: { what: "the driver has no memory to start with", fix: "stop what fills the GPU or the host's memory" },
  3: { what: "the driver could not be initialised", fix: RESTART },
  34: {
    what: "this libcuda is the toolkit's stub, not a driver",
    fix: "take the toolkit's `stubs` folder out of LD_LIBRARY_PATH and install the NVIDIA driver",
  },
  46: {
    what: "the GPU is held by another process, or may not be used (compute mode exclusive or prohibited)",
    fix: "`nvidia-smi -q -d COMPUTE` shows the mode; stop the other process, or `nvidia-smi -c DEFAULT`",
  },
  100: {
    what: "the driver is here but shows no GPU",
    fix: "check CUDA_VISIBLE_DEVICES, the permissions of /dev/nvidia*, and in a container that GPUs are passed in (`--gpus all`)",
  },
  101: { what: "CUDA_VISIBLE_DEVICES names no GPU of this machine", fix: "`nvidia-smi -L` lists their UUIDs" },
  304: { what: "the operating system refused the driver a call", fix: RESTART },
  800: {
    what: "this user may not use the GPU",
    fix: "add the user to the group that owns /dev/nvidia* (often video or render), or allow it in the container",
  },
  802: {
    what: "the system is not ready: the fabric manager has not set up NVSwitch yet",
    fix: "wait, or start nvidia-fabricmanager of the driver's own version",
  },
  803: {
    what: "the driver library and the loaded kernel module are of different versions",
    fix: "reboot, or reload the nvidia kernel modules after the update",
  },
  804: {
    what: "the compatibility library does not support this GPU with the loaded driver",
    fix: "take the cuda-compat folder out of LD_LIBRARY_PATH, or update the driver",
  },
  999: { what: "the driver failed for a reason it does not tell", fix: RESTART },
};

const OURS = "install the NVIDIA driver, and take what is not it out of LD_LIBRARY_PATH";
const NAMED = "correct or unset VRAM_LIBCUDA (in a program: `cudaLibrary`)";

const versionText = (version: number): string => `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;

const unusable = (what: string, fix: string, options: { details: ErrorDetails; cause?: VramError }): VramError =>
  new VramError("DEVICE_UNUSABLE", what, { ...options, fix: `${fix}; \`--backend emulated\` emulates one on purpose` });

/** For a `cuInit` that answered `status`. */
export function refusedInit(status: number): VramError {
  const { what, fix } = REFUSALS[status] ?? { what: "the driver did not start", fix: RESTART };
  return unusable(`${what}: cuInit: ${statusName(status)}`, fix, { details: { status } });
}

/** For a driver older than `minimum`; versions as cuDriverGetVersion gives them. */
export function tooOld(version: number, minimum: number): VramError {
  const what = `the NVIDIA driver is too old: it supports CUDA ${versionText(version)}, and ${versionText(minimum)} is needed`;
  return unusable(what, "install driver R470 or newer; the CUDA toolkit is not needed", {
    details: { version, minimum },
  });
}

/** For a driver that starts and yet does not say which one it is. */
export function untoldVersion(status: number): VramError {
  const what = `the driver does not tell its version: cuDriverGetVersion: ${statusName(status)}`;
  return unusable(what, RESTART, { details: { status } });
}

/** For a driver whose library lacks functions. */
export function lacksSymbols(cause: VramError, path: string): VramError {
  const symbols = Array.isArray(cause.details["symbols"]) ? cause.details["symbols"] : [];
  if (symbols.includes("cuInit")) {
    return unusable(`${path} is no CUDA driver: ${cause.message}`, path === CUDA_LIBRARY ? OURS : NAMED, {
      details: cause.details,
      cause,
    });
  }
  const fix = "install driver R470 or newer, and make sure that libcuda.so.1 is the driver's own";
  return unusable(`the NVIDIA driver lacks functions: ${cause.message}`, fix, { details: cause.details, cause });
}

/** For a library that could not be loaded. */
export function notLoadable(cause: VramError, path: string): VramError {
  // The loader calls a library of another architecture "not found", too.
  const isThere = path.includes("/") && existsSync(path);
  const words = isThere ? "it is there, but is no library for this machine" : cause.message;
  if (path !== CUDA_LIBRARY) {
    const details = { ...cause.details, missing: !isThere };
    return unusable(`${path} cannot be loaded: ${words}`, NAMED, { details, cause });
  }
  const fix = "install the NVIDIA driver for this kernel and architecture; in a container, pass it in (`--gpus all`)";
  return unusable(`${path} cannot be loaded: ${cause.message}`, fix, { details: cause.details, cause });
}
