/**
 * A process of a device from its start to the answer to its first request; on failure there is no process. Devices are
 * opened this way, and listed.
 */
import type { Clock } from "../clock.ts";
import type { ReleaseFailureReporter } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { Link } from "./link.ts";
import { type DeviceProcess, type StartProcess, type StartRequest, startFrom } from "./start-process.ts";

/** The file of the process; built, it lies beside this one. */
export const ENTRY_NAME = "device-process.js";

export interface LinkStart {
  /** The environment of the process, beside what the driver needs; default empty. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly report: ReleaseFailureReporter;
  /** What a call has beyond its estimate, and the first request altogether; in ms. */
  readonly floorMs?: number | undefined;
  readonly startMs?: number | undefined;
  /** An idle process is asked for a sign of life this often; in ms. */
  readonly idlePingMs?: number | undefined;
  readonly clock?: Pick<Clock, "monotonicMs"> | undefined;
  /** How the process is started; only tests have another way. */
  readonly start?: StartProcess | undefined;
}

function started(request: StartRequest, { start, env = {} }: LinkStart): DeviceProcess {
  try {
    return (start ?? startFrom(new URL(`./${ENTRY_NAME}`, import.meta.url)))(request, env);
  } catch (cause) {
    throw new VramError("DEVICE_LOST", "the device's process cannot be started", { cause });
  }
}

/** Why there is no answer; and whether the process is still there, in `wedged`, and which, in `wedgedPid`. */
async function notAnswered(link: Link, thrown: unknown): Promise<VramError> {
  const error = toVramError(thrown);
  const end = await link.end();
  if (!end.wedged) return error;
  const { code, message, fix, details } = error;
  return new VramError(code, message, {
    fix,
    cause: error,
    details: { ...details, wedged: true, wedgedPid: link.pid },
  });
}

/** Starts a process and makes `ask` the first request. Rejects as that does, when the process is gone or will not go. */
export async function openLink<T>(
  request: StartRequest,
  options: LinkStart,
  ask: (link: Link) => Promise<T>,
): Promise<{ readonly link: Link; readonly answer: T }> {
  const { clock, report, floorMs = LIMITS.deviceCallFloorMs, startMs = LIMITS.deviceStartMs } = options;
  const { idlePingMs = LIMITS.deviceIdlePingMs } = options;
  const link = new Link({ process: started(request, options), clock, floorMs, startMs, idlePingMs, report });
  try {
    return { link, answer: await ask(link) };
  } catch (thrown) {
    throw await notAnswered(link, thrown);
  }
}
