/**
 * The way to a process that talks to NVML: started when it is first asked, killed when it does not answer in time, and
 * started again when it is next asked; left alone for a minute at a time if that keeps failing. An idle process keeps
 * nothing alive, and ends with this one.
 */
import { fork } from "node:child_process";
import type { Clock } from "../clock.ts";
import { countHandle } from "../dispose.ts";
import { LIMITS } from "../limits.ts";
import type { NvmlQuestion, NvmlReply, NvmlRequest } from "./nvml-serve.ts";

/** How the process is started. */
export interface NvmlStart {
  readonly library: string;
  readonly env: Readonly<Record<string, string>>;
  readonly entry: URL;
  /** For the back-off; deadlines are timers of the event loop. */
  readonly clock: Pick<Clock, "monotonicMs">;
}

export interface NvmlLinkOptions<Answer> extends NvmlStart {
  /** How long who asks waits, in milliseconds; and for the first answer of a process. */
  readonly deadlineMs: number;
  readonly firstMs: number;
  /** What is answered when the process does not. */
  readonly absent: Answer;
  readonly answerOf: (reply: NvmlReply, uuid: string) => Answer;
  /** The process has been told to end, or has ended. */
  readonly onEnd?: () => void;
}

export interface NvmlLink<Answer> {
  /** Never rejects. Who asks the same while it is under way shares the answer. */
  ask(question: NvmlQuestion): Promise<Answer>;
  /** Never throws; may be called twice. */
  close(): Promise<void>;
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

interface NvmlProcess {
  /** What cannot be sent is not answered. */
  send(request: NvmlRequest): void;
  kill(): void;
  /** Resolves when there is no such process any more. */
  readonly ended: Promise<void>;
}

function startProcess({ library, env, entry }: NvmlStart, onReply: (reply: NvmlReply) => void): NvmlProcess {
  const child = fork(entry, [library, String(process.pid)], {
    execArgv: [],
    env: { ...env },
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

interface Waiting<Answer> {
  readonly question: NvmlQuestion;
  readonly key: string;
  readonly answer: (answer: Answer) => void;
  readonly deadline: NodeJS.Timeout;
  sent: boolean;
}

/** Requests without an answer, one for each question. Their deadlines keep the event loop alive; nothing else does. */
function openRequests<Answer>(absent: Answer, deadlineMs: () => number, onLate: () => void) {
  const waiting = new Map<number, Waiting<Answer>>();
  const shared = new Map<string, Promise<Answer>>();
  let lastId = 0;
  const settle = (id: number, answer: Answer): void => {
    const request = waiting.get(id);
    if (request === undefined) return;
    waiting.delete(id);
    shared.delete(request.key);
    clearTimeout(request.deadline);
    request.answer(answer);
  };
  return {
    uuidOf: (id: number): string | undefined => waiting.get(id)?.question.uuid,
    settle,
    /** Nobody knows, any of them. */
    settleAll: (): void => {
      for (const id of waiting.keys()) settle(id, absent);
    },
    /** The answer under way, if there is one. */
    underWay: (question: NvmlQuestion): Promise<Answer> | undefined => shared.get(JSON.stringify(question)),
    add: (question: NvmlQuestion): Promise<Answer> => {
      const key = JSON.stringify(question);
      const answered = new Promise<Answer>((answer) => {
        lastId += 1;
        waiting.set(lastId, { question, key, answer, deadline: setTimeout(onLate, deadlineMs()), sent: false });
      });
      shared.set(key, answered);
      return answered;
    },
    /** Those that have to be sent, each once. */
    takeUnsent: (): readonly NvmlRequest[] => {
      const unsent = [...waiting].filter(([, request]) => !request.sent);
      for (const [, request] of unsent) request.sent = true;
      return unsent.map(([id, { question }]) => ({ id, ...question }));
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

/** Nothing is started before something is asked. A request that is late ends the process, and all others under way. */
export function openNvmlLink<Answer>(options: NvmlLinkOptions<Answer>): NvmlLink<Answer> {
  const { absent, deadlineMs, firstMs } = options;
  const backOff = openBackOff(options.clock);
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
    options.onEnd?.();
  };
  const fail = (): void => {
    backOff.failed();
    retire();
    requests.settleAll();
  };
  const requests = openRequests(absent, () => (answered ? deadlineMs : firstMs), fail);
  const onReply = (reply: NvmlReply): void => {
    const uuid = requests.uuidOf(reply.id);
    if (uuid === undefined) return;
    backOff.worked();
    answered = true;
    requests.settle(reply.id, options.answerOf(reply, uuid));
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
    ask: (question) => {
      const underWay = requests.underWay(question);
      if (underWay !== undefined) return underWay;
      if (closed || (current === undefined && !backOff.mayStart())) return Promise.resolve(absent);
      const answer = requests.add(question);
      send();
      return answer;
    },
    close: async () => {
      closed = true;
      retire();
      requests.settleAll();
      if (leaving !== undefined) await waitForEnd(leaving, deadlineMs);
    },
  };
}
