/**
 * What a service tells systemd (sd_notify(3)): that it can be reached, how it is, that it stops, and, only after every
 * device has answered, that it is alive. A service that is not started by systemd has no notifier.
 */
import { type Clock, systemClock } from "../clock.ts";
import { VramError } from "../errors.ts";
import { datagramsTo } from "../ffi/sockets.ts";
import { LIMITS } from "../limits.ts";
import type { DeviceState } from "./replies.ts";
import type { Service } from "./service.ts";

/** What a notifier asks of a service. */
export type Notified = Pick<Service, "devices" | "list" | "leases" | "isReady">;

export interface Notifier {
  /** Callers can reach it, and its devices are open. Tells how it is from now on, until it is closed. */
  ready(service: Notified): void;
  /** It drains. */
  stopping(): void;
  /** Says nothing more. May be called again. */
  close(): void;
}

export interface NotifierOptions {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly pid: number;
  /** Only tests have others. */
  readonly clock?: Pick<Clock, "monotonicMs">;
  readonly every?: (ms: number, task: () => void) => () => void;
}

type Fields = Readonly<Record<string, string>>;

const counted = (count: number, what: string): string => `${count} ${what}${count === 1 ? "" : "s"}`;

/** One line about a service, for `systemctl status`. Names and paths are not in it. */
export function statusOf(service: Notified, devices: readonly DeviceState[], isStopping: boolean): string {
  const { shards, missing, backend } = service.list();
  const resident = shards.filter(({ sealed }) => sealed).length;
  const phase = isStopping ? `stopping, ${counted(service.leases().length, "lease")} held` : undefined;
  const states = devices.map(({ ordinal, state }) => `device ${ordinal} ${state}`);
  return [
    phase ?? (service.isReady() ? "ready" : "not ready"),
    `${counted(resident, "shard")} resident, ${missing.length} missing`,
    [`backend ${backend}`, ...states].join(", "),
  ].join("; ");
}

/** A message: `KEY=value` on lines of their own. */
export const messageOf = (fields: Fields): string =>
  Object.entries(fields)
    .map(([key, value]) => `${key}=${value.replaceAll("\n", " ")}\n`)
    .join("");

/**
 * Asks every device for its memory. One that is lost or stopped has a state that the service answers with; one that
 * should run and says nothing has none.
 */
async function askDevices(service: Notified): Promise<{ passed: boolean; states: readonly DeviceState[] }> {
  try {
    const states = await service.devices();
    return { passed: states.every(({ state, capacity }) => state !== "running" || capacity !== undefined), states };
  } catch {
    return { passed: false, states: [] };
  }
}

function repeat(ms: number, task: () => void): () => void {
  const timer = setInterval(task, ms).unref();
  return () => clearInterval(timer);
}

class OpenNotifier implements Notifier {
  readonly #post: (bytes: Uint8Array) => boolean;
  readonly #clock: Pick<Clock, "monotonicMs">;
  readonly #every: NonNullable<NotifierOptions["every"]>;
  readonly #isWatched: boolean;
  /** Between two device checks. */
  readonly #periodMs: number;
  #service: Notified | undefined;
  #stop: (() => void) | undefined;
  #isStopping = false;
  #isChecking = false;
  #dueMs = 0;
  #devices: readonly DeviceState[] = [];
  /** The status that was told last. */
  #told = "";
  /** What the socket had no room for. */
  #unsent: Fields = {};

  constructor(post: (bytes: Uint8Array) => boolean, watchdogMs: number | undefined, options: NotifierOptions) {
    this.#post = post;
    this.#isWatched = watchdogMs !== undefined;
    this.#periodMs = watchdogMs === undefined ? LIMITS.notifyCheckMs : watchdogMs / 2;
    this.#clock = options.clock ?? systemClock;
    this.#every = options.every ?? repeat;
  }

  ready(service: Notified): void {
    this.#service = service;
    this.#dueMs = this.#clock.monotonicMs();
    this.#send({ READY: "1" });
    this.#tick();
    this.#stop = this.#every(Math.min(LIMITS.notifyTickMs, Math.ceil(this.#periodMs / 4)), () => this.#tick());
  }

  stopping(): void {
    if (this.#service === undefined || this.#isStopping) return;
    this.#isStopping = true;
    this.#send({ STOPPING: "1", ...this.#news(this.#service) });
  }

  close(): void {
    this.#stop?.();
    this.#service = undefined;
  }

  /** How it is, unless that was told. */
  #news(service: Notified): Fields {
    let status = this.#told;
    try {
      status = statusOf(service, this.#devices, this.#isStopping);
    } catch {
      // A service that is being closed does not say any more.
    }
    if (status === this.#told) return {};
    this.#told = status;
    return { STATUS: status };
  }

  /** What there was no room for goes with the next message; not a sign of life, which would be older than it says. */
  #send(fields: Fields): void {
    const { WATCHDOG: alive, ...others } = { ...this.#unsent, ...fields };
    const message = messageOf(alive === undefined ? others : { ...others, WATCHDOG: alive });
    if (message === "") return;
    this.#unsent = this.#post(Buffer.from(message)) ? {} : others;
  }

  #tick(): void {
    const service = this.#service;
    if (service === undefined) return;
    this.#send(this.#news(service));
    if (!this.#isChecking && this.#clock.monotonicMs() >= this.#dueMs) void this.#check(service);
  }

  /** A check that fails or comes too late is no sign of life. The next tick begins another, unless this one still hangs. */
  async #check(service: Notified): Promise<void> {
    const sinceMs = this.#clock.monotonicMs();
    this.#isChecking = true;
    const { passed, states } = await askDevices(service);
    this.#isChecking = false;
    if (this.#service === undefined) return;
    this.#devices = states;
    const isInTime = this.#clock.monotonicMs() - sinceMs <= this.#periodMs;
    if (passed && isInTime) this.#dueMs = sinceMs + this.#periodMs;
    this.#send({ ...this.#news(service), ...(passed && isInTime && this.#isWatched ? { WATCHDOG: "1" } : {}) });
  }
}

/** `WATCHDOG_USEC` in milliseconds, if it is for this process (sd_watchdog_enabled(3)). */
function watchdogMs({ env, pid }: NotifierOptions): number | undefined {
  const { WATCHDOG_USEC: text = "", WATCHDOG_PID: owner = "" } = env;
  if (text === "" || (owner !== "" && owner !== String(pid))) return undefined;
  if (/^[1-9]\d{0,15}$/.test(text)) return Number(text) / 1000;
  throw new VramError("INVALID_ARGUMENT", "WATCHDOG_USEC must be a whole number", {
    details: { argument: "WATCHDOG_USEC" },
  });
}

/** Who tells systemd, if it asks to be told. `INVALID_ARGUMENT` if what it asks with cannot be read. */
export function createNotifier(options: NotifierOptions): Notifier | undefined {
  const { NOTIFY_SOCKET: socket = "" } = options.env;
  if (socket === "") return undefined;
  return new OpenNotifier(datagramsTo(socket), watchdogMs(options), options);
}
