/**
 * NVML at arm's length: a process of its own that is asked about GPUs, killed when it does not answer in time, and
 * started again when it is next asked. A sick GPU costs a reader the deadline, never more; one that stays sick is left
 * alone for a minute at a time. An idle process keeps nothing alive, and ends with this one.
 */
import { fork } from "node:child_process";
import { requireInteger } from "../assert.ts";
import { type Clock, systemClock } from "../clock.ts";
import { countHandle } from "../dispose.ts";
import { LIMITS } from "../limits.ts";
import type { GpuHealth, GpuMonitor } from "./monitor.ts";
import type { NvmlReply, NvmlRequest } from "./nvml-serve.ts";

export interface NvmlMonitorOptions {
  /** `libnvidia-ml.so.1`, as the loader finds it, or a path. */
  readonly library: string;
  /** The whole environment of the process, handed over at its start; default empty. `LD_LIBRARY_PATH` may matter. */
  readonly env?: Readonly<Record<string, string>>;
  /** How long a reader waits, in milliseconds; default 2000, and 10,000 for the first answer of a process. */
  readonly deadlineMs?: number;
  /** The file of the process; only tests name another. */
  readonly entry?: URL;
  /** For the back-off; deadlines are timers of the event loop. */
  readonly clock?: Pick<Clock, "monotonicMs">;
}

/** No start for a minute after three failures in a row, nor after any further one until something works. */
function openBackOff(clock: Pick<Clock, "monotonicMs">) {
  let failures = 0;
  let untilMs = 0;
  return {
    mayStart: (): boolean => failures < LIMITS.nvmlFailures || clock.monotonicMs() >= untilMs,
    failed: (): void => {
      failures += 1;
      untilMs = clock.monotonicMs() + LIMITS.nvmlBackOffMs;
    },
    worked: (): void => {
      failures = 0;
    },
  };
}

/** Xids are events, told once: those that earlier processes were told are kept here, by UUID. */
function openXidHistory() {
  const earlier = new Map<string, readonly number[]>();
  const latest = new Map<string, readonly number[]>();
  const all = (uuid: string): readonly number[] =>
    [...(earlier.get(uuid) ?? []), ...(latest.get(uuid) ?? [])].slice(-LIMITS.nvmlXids);
  return {
    /** The answer of the process that runs now, with what came before it. */
    complete: (uuid: string, health: GpuHealth): GpuHealth => {
      if (health.xids === undefined) return health;
      latest.set(uuid, health.xids);
      return { ...health, xids: all(uuid) };
    },
    /** The process has ended. */
    keep: (): void => {
      for (const uuid of latest.keys()) earlier.set(uuid, all(uuid));
      latest.clear();
    },
  };
}

interface NvmlProcess {
  /** What cannot be sent is not answered. */
  send(request: NvmlRequest): void;
  kill(): void;
  /** Resolves when there is no such process any more. */
  readonly ended: Promise<void>;
}

function startProcess(options: NvmlMonitorOptions, onReply: (reply: NvmlReply) => void): NvmlProcess {
  const entry = options.entry ?? new URL("./nvml-process.js", import.meta.url);
  const child = fork(entry, [options.library, String(process.pid)], {
    execArgv: [],
    env: { ...options.env },
    stdio: ["ignore", "ignore", "ignore", "ipc"],
    serialization: "json",
  });
  const gone = countHandle("nvml-process");
  child.unref();
  child.channel?.unref();
  const kill = (): void => {
    if (child.connected) child.disconnect();
    child.kill("SIGKILL");
  };
  const ended = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    // Not started at all, in which case no exit follows; or out of reach, in which case it had better end.
    child.on("error", () => (child.pid === undefined ? resolve() : kill()));
  }).then(gone);
  child.on("message", (message) => onReply(message as NvmlReply));
  return { send: (request) => void child.send(request, () => undefined), kill, ended };
}

interface Waiting {
  readonly uuid: string;
  readonly answer: (health: GpuHealth) => void;
  readonly deadline: NodeJS.Timeout;
  sent: boolean;
}

/** Requests without an answer, at most one per GPU. Their deadlines keep the event loop alive; nothing else does. */
function openRequests(deadlineMs: () => number, onLate: () => void) {
  const waiting = new Map<number, Waiting>();
  const shared = new Map<string, Promise<GpuHealth>>();
  let lastId = 0;
  const settle = (id: number, health: GpuHealth): void => {
    const request = waiting.get(id);
    if (request === undefined) return;
    waiting.delete(id);
    shared.delete(request.uuid);
    clearTimeout(request.deadline);
    request.answer(health);
  };
  return {
    uuidOf: (id: number): string | undefined => waiting.get(id)?.uuid,
    settle,
    /** Nobody knows, any of them. */
    settleAll: (): void => {
      for (const id of waiting.keys()) settle(id, {});
    },
    /** The answer under way, if there is one. */
    underWay: (uuid: string): Promise<GpuHealth> | undefined => shared.get(uuid),
    add: (uuid: string): Promise<GpuHealth> => {
      const health = new Promise<GpuHealth>((answer) => {
        lastId += 1;
        waiting.set(lastId, { uuid, answer, deadline: setTimeout(onLate, deadlineMs()), sent: false });
      });
      shared.set(uuid, health);
      return health;
    },
    /** Those that have to be sent, each once. */
    takeUnsent: (): readonly NvmlRequest[] => {
      const unsent = [...waiting].filter(([, request]) => !request.sent);
      for (const [, request] of unsent) request.sent = true;
      return unsent.map(([id, { uuid }]) => ({ id, uuid }));
    },
  };
}

/** Waits for a process to be gone, but not for ever: in a system call that never returns it cannot be killed. */
async function waitForEnd({ ended }: NvmlProcess, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([ended, late]);
  clearTimeout(timer);
}

/**
 * Opens a monitor of the GPUs of this machine. Nothing is started before the first read. Readers of one GPU share a
 * request; a request that is not answered in time ends the process, and with it all others under way. Our own process
 * is not listed among `processes`. Throws `INVALID_ARGUMENT` for a deadline outside 1 ms to 10 min.
 */
export function openNvmlMonitor(options: NvmlMonitorOptions): GpuMonitor {
  const deadlineMs = requireInteger(options.deadlineMs ?? LIMITS.nvmlDeadlineMs, "deadlineMs", 1, 600_000);
  const firstMs = options.deadlineMs ?? LIMITS.nvmlStartMs;
  const backOff = openBackOff(options.clock ?? systemClock);
  const history = openXidHistory();
  let current: NvmlProcess | undefined;
  /** Killed, but not gone yet: no other is started beside it, or those that cannot be killed would pile up. */
  let leaving: NvmlProcess | undefined;
  let closed = false;
  /** Whether the process that runs now has answered. */
  let answered = false;

  const retire = (): void => {
    if (current === undefined) return;
    leaving = current;
    current = undefined;
    answered = false;
    leaving.kill();
    history.keep();
  };
  const fail = (): void => {
    backOff.failed();
    retire();
    requests.settleAll();
  };
  const requests = openRequests(() => (answered ? deadlineMs : firstMs), fail);
  const onReply = ({ id, health }: NvmlReply): void => {
    const uuid = requests.uuidOf(id);
    if (uuid === undefined) return;
    backOff.worked();
    answered = true;
    const { processes, ...rest } = history.complete(uuid, health);
    const others = processes?.filter(({ pid }) => pid !== process.pid);
    requests.settle(id, others === undefined ? rest : { processes: others, ...rest });
  };
  const start = (): NvmlProcess => {
    const started = startProcess(options, onReply);
    void started.ended.then(() => {
      if (started === current) fail();
      leaving = undefined;
      send();
    });
    return started;
  };
  const send = (): void => {
    if (leaving !== undefined) return;
    try {
      for (const request of requests.takeUnsent()) {
        current ??= start();
        current.send(request);
      }
    } catch {
      fail();
    }
  };

  return {
    read: (uuid) => {
      const underWay = requests.underWay(uuid);
      if (underWay !== undefined) return underWay;
      if (closed || (current === undefined && !backOff.mayStart())) return Promise.resolve({});
      const health = requests.add(uuid);
      send();
      return health;
    },
    close: async () => {
      closed = true;
      retire();
      requests.settleAll();
      if (leaving !== undefined) await waitForEnd(leaving, deadlineMs);
    },
  };
}
