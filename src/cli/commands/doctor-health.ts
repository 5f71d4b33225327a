/** The checks of `vram doctor` on a GPU's health, as NVML tells it: what it has no answer to is left out, and its silence is said. */
import { formatBytes } from "../../bytes.ts";
import type { GpuHealth } from "../../cuda/monitor.ts";
import type { DeviceInfo } from "../../device/device.ts";
import type { Check } from "./doctor.ts";

const RESET = "stop what uses the GPU, then `nvidia-smi --gpu-reset`, or reboot";

function memoryText({ memory, processes = [] }: GpuHealth): string[] {
  const used =
    memory === undefined ? [] : [`${formatBytes(memory.bytesUsed)} of ${formatBytes(memory.bytesTotal)} in use`];
  const holders = processes.map(({ pid, name, byteLength }) => {
    const size = byteLength === 0 ? "an unknown size" : formatBytes(byteLength);
    return `${name === "" ? "a process" : name} (pid ${pid}) holds ${size}`;
  });
  return [...used, ...holders];
}

function eccCheck(id: string, { ecc }: GpuHealth): Check[] {
  if (ecc === undefined) return [];
  const { volatile: now, aggregate } = ecc;
  const what = `ECC: ${now.corrected} corrected and ${now.uncorrected} uncorrected errors since the driver was loaded, ${aggregate.uncorrected} uncorrected in all`;
  if (now.uncorrected === 0) return [{ id, status: "ok", what }];
  return [{ id, status: "warn", what, fix: `bytes in VRAM were lost: verify what is sealed; ${RESET}` }];
}

function rowCheck(id: string, { remappedRows: rows }: GpuHealth): Check[] {
  if (rows === undefined) return [];
  const what = `rows remapped: ${rows.corrected} after corrected, ${rows.uncorrected} after uncorrected errors`;
  if (rows.failed) return [{ id, status: "fail", what: `${what}; a remapping failed`, fix: "have the GPU replaced" }];
  if (rows.pending) return [{ id, status: "warn", what: `${what}; one waits for a reset`, fix: RESET }];
  return [{ id, status: "ok", what }];
}

/** Health of one device, as lines. */
export function healthChecks({ ordinal }: DeviceInfo, health: GpuHealth): Check[] {
  if (Object.keys(health).length === 0) {
    const what =
      "NVML does not answer (missing, refused or late): the health of the GPU and who else uses it are not known";
    return [{ id: `nvml-${ordinal}`, status: "note", what }];
  }
  const memory = memoryText(health);
  const { recoveryAction = "none", xids = [] } = health;
  return [
    ...(memory.length === 0
      ? []
      : [{ id: `memory-${ordinal}`, status: "note" as const, what: `NVML: ${memory.join(", ")}` }]),
    ...eccCheck(`ecc-${ordinal}`, health),
    ...rowCheck(`rows-${ordinal}`, health),
    ...(recoveryAction === "none"
      ? []
      : [
          {
            id: `recovery-${ordinal}`,
            status: "fail" as const,
            what: `the driver asks for: ${recoveryAction}`,
            fix: RESET,
          },
        ]),
    ...(xids.length === 0
      ? []
      : [
          {
            id: `xid-${ordinal}`,
            status: "warn" as const,
            what: `Xid events: ${xids.join(", ")}`,
            fix: "look them up in `dmesg`",
          },
        ]),
  ];
}
