/**
 * Which GPUs there are, for a service that opens no driver itself: a process of its own asks the driver and ends. One
 * that hangs costs the deadline, and takes nothing with it.
 */
import type { ReleaseFailureReporter } from "../dispose.ts";
import { openLink } from "./open-link.ts";
import type { ListRequest } from "./protocol.ts";
import type { StartProcess } from "./start-process.ts";

export interface ListOptions extends ListRequest {
  /** The environment of the process. `CUDA_VISIBLE_DEVICES` in it narrows what is listed. */
  readonly env: Readonly<Record<string, string>>;
  /** How long it may take; default as for opening a device. */
  readonly startMs?: number;
  /** Told of releases in the process that failed; default nobody: it ends with what it held. */
  readonly report?: ReleaseFailureReporter;
  /** How the process is started; only tests have another way. */
  readonly start?: StartProcess;
}

/**
 * The UUIDs of all GPUs that the driver shows, at least one, in its order. Rejects as opening the driver here would,
 * with `DEVICE_LOST` or `DEVICE_STALLED` if the process ends or does not answer. When it settles the process is gone,
 * or `details.wedged`.
 */
export async function listDevices(options: ListOptions): Promise<{ readonly uuids: readonly string[] }> {
  const { backend, library, libraryPath, env, start, startMs, report = () => undefined } = options;
  const request: ListRequest = {
    backend,
    ...(library === undefined ? {} : { library }),
    ...(libraryPath === undefined ? {} : { libraryPath }),
  };
  const { link, answer: uuids } = await openLink(
    request,
    // There is no other call that a floor would be for.
    { env, start, startMs, floorMs: startMs, report },
    (asked) => asked.list(request),
  );
  await link.end();
  return { uuids };
}
