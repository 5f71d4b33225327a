/** A Python program that attaches, as a process of its own: driven a step at a time, and killed where a test wants it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterEach, expect } from "vitest";
import { ATTACH_SUFFIX } from "../../src/service/attach/protocol.ts";
import { inTime } from "./service-run.ts";

const SCRIPT = fileURLToPath(new URL("attach-consumer.py", import.meta.url));

/** In the order in which it takes them. */
export const STEPS = ["connected", "sent", "granted", "mapped", "read"] as const;
export type Step = (typeof STEPS)[number];

export interface Said {
  readonly step: Step | "gone";
  readonly ok?: boolean;
  readonly tensors?: Readonly<Record<string, string>>;
  readonly problem?: { readonly code: string };
}

export interface Consumer {
  readonly pid: number;
  /** What it says next. */
  next(): Promise<Said>;
  /** Goes on until it has taken this step. */
  to(step: Step): Promise<Said>;
  tell(command: "go" | "read" | "close" | "exit"): void;
  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<void>;
  ended(): Promise<void>;
}

const running: ChildProcess[] = [];
afterEach(async () => {
  for (const child of running.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill("SIGKILL");
    await once(child, "exit");
  }
});

export function startConsumer(socket: string, request: object): Consumer {
  const child = spawn("python3", [SCRIPT, socket + ATTACH_SUFFIX, JSON.stringify(request)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  running.push(child);
  const gone = once(child, "exit");
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<Said> => {
    const line: IteratorResult<string, unknown> = await inTime("the consumer says something", lines.next());
    return line.done === true ? expect.fail("the consumer has ended") : (JSON.parse(line.value) as Said);
  };
  const tell: Consumer["tell"] = (command) => void child.stdin.write(`${command}\n`);
  const ended = async (): Promise<void> => {
    await inTime("the consumer ends", gone);
  };
  return {
    pid: child.pid ?? expect.fail("python3 cannot be started"),
    next,
    tell,
    to: async (step) => {
      let said = await next();
      while (said.step !== step) {
        tell("go");
        said = await next();
      }
      return said;
    },
    kill: async () => {
      child.kill("SIGKILL");
      await ended();
    },
    ended,
  };
}
