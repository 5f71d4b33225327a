/**
 * Keeps a process for one GPU: one that is lost is started again, after a while, at most 5 times in 5 minutes; then it
 * stays stopped until somebody looks, and resumes it. What was resident in it is lost and stays so: the new device is a new one, bound
 * anew by `bind`, and nothing on it is resident before it was sealed there.
 */
import type { Clock } from "../clock.ts";
import { closedError } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { holderState, type ReadProc, readProc } from "./orphans.ts";
import type { RemoteDevice } from "./remote-device.ts";

/**
 * `lost`: its process is gone or going, and will be started again. `stopped`: it will not. `wedged`: its process cannot
 * be killed, so that no other may be started.
 */
export type DeviceState = "starting" | "running" | "lost" | "stopped" | "wedged";

/** A state that was entered. */
export interface DeviceChange {
  readonly state: DeviceState;
  /** Of the process, while it runs. */
  readonly pid?: number;
  /** Why it was lost, or could not be started again. */
  readonly error?: VramError;
  /** Of the last 5 minutes. */
  readonly restarts: number;
}

export interface SupervisorOptions {
  /** Opens the device in a fresh process; with ids that no earlier one had (`nextId`). */
  readonly open: () => Promise<RemoteDevice>;
  /**
   * Makes use of a device that was opened: a `Worker` of its own, in place of the one before. The device runs when it
   * resolves; if it rejects, the start has failed.
   */
  readonly bind: (device: RemoteDevice) => Promise<void>;
  /** Told of every state in turn, the first one too. Must not throw. */
  readonly onChange: (change: DeviceChange) => void;
  readonly clock: Pick<Clock, "monotonicMs" | "sleep">;
  /** Tells whether a wedged process is still there; only tests have another. */
  readonly read?: ReadProc;
}

/** Between two looks at whether it was closed meanwhile. */
const WAIT_STEP_MS = 250;

/** Restarts of the last 5 minutes, and how long to wait before the next. */
function openBackOff(clock: Pick<Clock, "monotonicMs">) {
  let restarts: number[] = [];
  const recent = (): number => {
    const since = clock.monotonicMs() - LIMITS.deviceRestartWindowMs;
    restarts = restarts.filter((at) => at > since);
    return restarts.length;
  };
  return {
    recent,
    isSpent: (): boolean => recent() >= LIMITS.deviceRestarts,
    waitMs: (): number => LIMITS.deviceBackOffMs * 2 ** recent(),
    restarted: (): void => {
      restarts.push(clock.monotonicMs());
    },
    clear: (): void => {
      restarts = [];
    },
  };
}

export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #backOff: ReturnType<typeof openBackOff>;
  #state: DeviceState = "starting";
  #device: RemoteDevice | undefined;
  #wedgedPid: number | undefined;
  #resuming: Promise<void> | undefined;
  #recovery: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#backOff = openBackOff(options.clock);
  }

  get state(): DeviceState {
    return this.#state;
  }

  /** The device that runs, if one does. */
  get device(): RemoteDevice | undefined {
    return this.#state === "running" ? this.#device : undefined;
  }

  /** Of the process, while it runs; of the one that cannot be killed. */
  get pid(): number | undefined {
    return this.#state === "wedged" ? this.#wedgedPid : this.device?.pid;
  }

  /** Of the last 5 minutes, or since it was resumed. */
  get restarts(): number {
    return this.#backOff.recent();
  }

  #enter(state: DeviceState, more: Pick<DeviceChange, "pid" | "error"> = {}): void {
    this.#state = state;
    this.#options.onChange({ state, restarts: this.#backOff.recent(), ...more });
  }

  /** One start. Rejects if the device cannot be opened or bound; then there is no process. */
  async start(): Promise<void> {
    this.#enter("starting");
    const device = await this.#options.open();
    let running = false;
    let early: VramError | undefined;
    device.onLost((error) => {
      if (running) this.#onLost(device, error);
      else early = error;
    });
    try {
      if (this.#closed) throw closedError("the device");
      await this.#options.bind(device);
    } catch (error) {
      await device.close();
      throw error;
    }
    this.#device = device;
    running = true;
    this.#enter("running", { pid: device.pid });
    if (early !== undefined) this.#onLost(device, early);
  }

  #onLost(device: RemoteDevice, error: VramError): void {
    this.#enter("lost", { error });
    this.#recovery = this.#recover(device);
  }

  async #recover(device: RemoteDevice): Promise<void> {
    const end = await device.ended;
    if (end.wedged) this.#enterWedged(device.pid);
    let isDone = end.wedged;
    while (!isDone && !this.#closed) {
      if (this.#backOff.isSpent()) {
        this.#enter("stopped");
        return;
      }
      isDone = await this.#restart();
    }
  }

  /** Waits its time, then starts it: whether nothing is left to do here. A device that ran and is lost sees to itself. */
  async #restart(): Promise<boolean> {
    await this.#wait(this.#backOff.waitMs());
    if (this.#closed) return true;
    this.#backOff.restarted();
    try {
      await this.start();
      return true;
    } catch (thrown) {
      return this.#onNotStarted(toVramError(thrown), "lost");
    }
  }

  #enterWedged(pid: number | undefined, error?: VramError): void {
    this.#wedgedPid = pid;
    this.#enter("wedged", error === undefined ? {} : { error });
  }

  /** Whether it is wedged by that; else it is in `state`. */
  #onNotStarted(error: VramError, state: "lost" | "stopped"): boolean {
    const { wedged, wedgedPid } = error.details;
    if (wedged === true) this.#enterWedged(typeof wedgedPid === "number" ? wedgedPid : undefined, error);
    else this.#enter(state, { error });
    return wedged === true;
  }

  /**
   * Somebody has looked: starts a device that is stopped, or was wedged by a process that is gone now, with all its
   * restarts to spend anew. Does nothing while it runs or will be started anyway. Rejects as the start does, after which
   * it is stopped still; with `DEVICE_LOST` while a process that cannot be killed is there. Calls at once are one.
   */
  resume(): Promise<void> {
    this.#resuming ??= this.#resume().finally(() => {
      this.#resuming = undefined;
    });
    return this.#resuming;
  }

  async #resume(): Promise<void> {
    if (this.#closed) throw closedError("the device");
    if (this.#state !== "stopped" && this.#state !== "wedged") return;
    if (this.#state === "wedged") this.#requireGone();
    this.#backOff.clear();
    const started = this.start();
    this.#recovery = started.catch(() => undefined);
    try {
      await started;
    } catch (thrown) {
      this.#onNotStarted(toVramError(thrown), "stopped");
      throw thrown;
    }
  }

  /** Also of one whose number is not known nothing is known. */
  #requireGone(): void {
    const pid = this.#wedgedPid;
    if (pid !== undefined && holderState(pid, this.#options.read ?? readProc) === "gone") return;
    throw new VramError("DEVICE_LOST", `process ${pid ?? "unknown"} cannot be killed, and has the device still`, {
      fix: "its GPU hangs in the driver: reset the GPU or restart the machine",
      details: pid === undefined ? {} : { pid },
    });
  }

  async #wait(ms: number): Promise<void> {
    const untilMs = this.#options.clock.monotonicMs() + ms;
    for (;;) {
      const leftMs = untilMs - this.#options.clock.monotonicMs();
      if (leftMs <= 0 || this.#closed) return;
      await this.#options.clock.sleep(Math.min(leftMs, WAIT_STEP_MS));
    }
  }

  /** Closes the device; nothing is started any more. May be called twice. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#recovery;
    await this.#device?.close();
  }
}

/** Starts a device and keeps it. Rejects if the first start fails: what cannot start once is not tried again. */
export async function superviseDevice(options: SupervisorOptions): Promise<Supervisor> {
  const supervisor = new Supervisor(options);
  await supervisor.start();
  return supervisor;
}
