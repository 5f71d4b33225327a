/**
 * Keeps a process for one GPU: one that is lost is started again, after a while, at most 5 times in 5 minutes; then it
 * stays stopped until somebody looks. What was resident in it is lost and stays so: the new device is a new one, bound
 * anew by `bind`, and nothing on it is resident before it was sealed there.
 */
import type { Clock } from "../clock.ts";
import { closedError } from "../dispose.ts";
import { toVramError, type VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
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
  };
}

export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #backOff: ReturnType<typeof openBackOff>;
  #state: DeviceState = "starting";
  #device: RemoteDevice | undefined;
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
    if (end.wedged) this.#enter("wedged");
    while (this.#state === "lost" && !this.#closed) {
      if (this.#backOff.isSpent()) this.#enter("stopped");
      else await this.#restart();
    }
  }

  /** Waits its time, then starts it: it runs after that, or is lost still. */
  async #restart(): Promise<void> {
    await this.#wait(this.#backOff.waitMs());
    if (this.#closed) return;
    this.#backOff.restarted();
    try {
      await this.start();
    } catch (thrown) {
      const error = toVramError(thrown);
      this.#enter(error.details["wedged"] === true ? "wedged" : "lost", { error });
    }
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
