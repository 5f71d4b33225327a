/** `vram doctor`: what this machine has, what is missing, how to mend it. Changes nothing. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { DeviceStatus } from "../../api.ts";
import { formatBytes, printable } from "../../bytes.ts";
import type { Backend } from "../../cuda/driver.ts";
import { type BackendChoice, chooseBackend, readHostTraces } from "../../device/detect.ts";
import { optionsFromEnvironment } from "../../environment.ts";
import { toVramError } from "../../errors.ts";
import { openSystem, type VramOptions, wishOf } from "../../open.ts";
import { createVram } from "../../vram.ts";
import { EXIT } from "../exit.ts";
import { colorsFor, type Host } from "../host.ts";
import { printJson } from "../json.ts";
import { driverChecks, limitChecks, stateChecks, toolChecks } from "./doctor-checks.ts";
import { healthChecks } from "./doctor-health.ts";

export interface DoctorOptions {
  readonly json?: true;
  readonly backend?: BackendChoice;
  readonly stateDir?: string;
}

/** One line of the report. `note` is neither good nor bad. */
export interface Check {
  readonly id: string;
  readonly status: "ok" | "note" | "warn" | "fail";
  readonly what: string;
  /** What to do about it; for warnings and failures. */
  readonly fix?: string;
}

const BACKEND_FIXES: Readonly<Record<Backend, string | undefined>> = {
  cuda: undefined,
  "cuda-substituted":
    "nothing measured through a substituted library is evidence about a GPU; unset VRAM_LIBCUDA for that",
  emulated:
    "nothing measured on the emulated device is evidence about a GPU; install an NVIDIA GPU and driver for that",
};

function backendChecks(options: VramOptions): { checks: Check[]; usable: boolean } {
  try {
    const decision = chooseBackend(wishOf(options), readHostTraces(options.libraryPath));
    const what = `backend ${decision.backend}: ${decision.because}`;
    const fix = BACKEND_FIXES[decision.backend];
    const check: Check =
      fix === undefined ? { id: "backend", status: "ok", what } : { id: "backend", status: "warn", what, fix };
    return { checks: [check], usable: true };
  } catch (thrown) {
    const error = toVramError(thrown);
    return { checks: [{ id: "backend", status: "fail", what: error.message, fix: error.fix }], usable: false };
  }
}

function deviceCheck(device: DeviceStatus): Check[] {
  const { ordinal, name, uuid, bytesTotal, backend, computeCapability, facts, state, reason } = device;
  const what = `device ${ordinal}: ${name}, ${formatBytes(bytesTotal)}, ${uuid}, backend ${backend}`;
  const shown = Object.entries(facts).map(([fact, value]) => `${fact}=${String(value)}`);
  const capability = backend === "emulated" ? "none (emulated)" : computeCapability;
  const worker: Check =
    state === "running"
      ? { id: `worker-${ordinal}`, status: "ok", what: `worker ${ordinal} runs` }
      : {
          id: `worker-${ordinal}`,
          status: "fail",
          what: `worker ${ordinal} is ${state}: ${reason ?? "a fatal device error"}`,
          fix: "find out why its verification failed, then resume it",
        };
  return [
    { id: `device-${ordinal}`, status: "ok", what },
    { id: `facts-${ordinal}`, status: "note", what: `facts: ${shown.join(" ")}; compute capability ${capability}` },
    worker,
  ];
}

/** Opens the devices as a seal would. A state directory is read if it holds a state, and never made. */
async function deviceChecks(given: VramOptions): Promise<{ checks: Check[]; devices: DeviceStatus[] }> {
  try {
    const { stateDir, ...stateless } = given;
    const hasState =
      stateDir !== undefined && ["state.json", "root.key"].every((name) => existsSync(join(stateDir, name)));
    const open = await openSystem(hasState ? given : stateless);
    const vram = createVram(open);
    try {
      const devices = vram.devices();
      const health = await Promise.all(
        open.devices.map(async (device) => healthChecks(device.info, await device.health())),
      );
      const policy: Check = { id: "policy", status: "ok", what: "every device satisfies the VRAM-only policy" };
      const log: Check[] =
        open.logKey === undefined
          ? []
          : [{ id: "audit", status: "ok", what: `the audit log can be written; its log key is ${open.logKey}` }];
      return { checks: [...devices.flatMap(deviceCheck), ...health.flat(), policy, ...log], devices };
    } finally {
      await vram.close();
    }
  } catch (thrown) {
    const { code, message, fix } = toVramError(thrown);
    return { checks: [{ id: "devices", status: "fail", what: `${code}: ${message}`, fix }], devices: [] };
  }
}

const MARKS = { ok: "✓", note: "·", warn: "!", fail: "✗" } as const;

function print(host: Host, checks: readonly Check[]): void {
  const colors = colorsFor(host, host.outIsTerminal);
  const paint = { ok: colors.green, note: colors.dim, warn: colors.yellow, fail: colors.red };
  for (const { status, what, fix } of checks) {
    host.out(`${paint[status](MARKS[status])} ${printable(what)}\n`);
    if (fix !== undefined) host.out(`    fix: ${printable(fix)}\n`);
  }
}

/** Runs the command. Exit 0 when something can be sealed here, 5 when not. */
export async function runDoctor(host: Host, _files: readonly string[], given: DoctorOptions): Promise<number> {
  const options: VramOptions = {
    ...optionsFromEnvironment(host.env),
    ...(given.backend === undefined ? {} : { backend: given.backend }),
    ...(given.stateDir === undefined ? {} : { stateDir: given.stateDir }),
  };
  const backend = backendChecks(options);
  const found = backend.usable ? await deviceChecks(options) : { checks: [], devices: [] };
  const checks = [
    ...(await driverChecks(options)),
    ...backend.checks,
    ...found.checks,
    ...(await toolChecks(host.env["PATH"] ?? "")),
    ...limitChecks(),
    ...(await stateChecks(options.stateDir)),
  ];
  const failed = checks.some((check) => check.status === "fail");
  if (given.json === true) printJson(host, "doctor", { ok: !failed, checks, devices: found.devices });
  else print(host, checks);
  return failed ? EXIT.policy : EXIT.ok;
}
