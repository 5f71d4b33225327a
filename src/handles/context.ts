/**
 * Rung 3 of the border: objects with lifetimes. A context is one device's primary context; every handle holds its
 * context, and every driver call is made inside `run`, which makes the context current first. `run` is synchronous on
 * purpose: between "current" and the call nothing else can run (facts/cuda.md §1.6).
 *
 * Releases are quiet but never silent: a release that fails goes to `report`, once, under its own name.
 */
import type { Clock } from "../clock.ts";
import type { CudaDriver } from "../cuda/driver.ts";
import { closedError, countHandle, type ReleaseFailureReporter } from "../dispose.ts";

export interface DeviceContext {
  readonly driver: CudaDriver;
  /** `CUdevice` of the device. */
  readonly cuDevice: number;
  readonly clock: Clock;
  /** Makes the context current and runs `task` synchronously. Throws `CLOSED` after close. */
  run<T>(task: (driver: CudaDriver) => T): T;
  /** Runs a release: a failure is reported, never thrown. After `abandon` nothing is released. */
  release(what: string, task: (driver: CudaDriver) => void): void;
  /**
   * Gives up on releasing anything: the device may still be working, and memory it may write to must stay what it is
   * until the process ends. A leak is better than a write to memory that belongs to somebody else.
   */
  abandon(): void;
  /** Releases the primary context. Handles must be closed before. May be called twice. */
  close(): void;
}

/** Retains the primary context of the device with this ordinal. */
export function openContext(
  driver: CudaDriver,
  ordinal: number,
  clock: Clock,
  report: ReleaseFailureReporter,
): DeviceContext {
  const cuDevice = driver.device.get(ordinal);
  const cuContext = driver.context.retainPrimary(cuDevice);
  const gone = countHandle("context");
  let open = true;
  let abandoned = false;

  const run = <T>(task: (driver: CudaDriver) => T): T => {
    if (!open) throw closedError("the device context");
    driver.context.setCurrent(cuContext);
    return task(driver);
  };

  const release = (what: string, task: (driver: CudaDriver) => void): void => {
    if (abandoned) return;
    try {
      driver.context.setCurrent(cuContext);
    } catch {
      // A lost context may refuse to be made current; the release is still tried, and reports for itself.
    }
    try {
      task(driver);
    } catch (error) {
      report(what, error);
    }
  };

  return {
    driver,
    cuDevice,
    clock,
    run,
    release,
    abandon: () => {
      abandoned = true;
    },
    close: () => {
      if (!open) return;
      open = false;
      release("context", () => driver.context.releasePrimary(cuDevice));
      gone();
    },
  };
}
