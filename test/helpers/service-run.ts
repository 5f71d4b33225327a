/**
 * `vram serve` of `dist` as a process of its own: started, asked over its socket, and killed. What it leaves is looked
 * for in `/proc`. After each test there is no process of any of them.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { afterEach } from "vitest";
import { present } from "../../src/assert.ts";
import { type Client, type FeedEntry, openClient } from "../../src/client.ts";
import { BIN } from "./cli-process.ts";
import { isRunning, until, WATCHDOG_MS } from "./nvml-monitor.ts";
import { SIZES } from "./remote.ts";
import { MIB, temporaryFolder } from "./vram.ts";

const SCRIPT = fileURLToPath(new URL("service-process.mjs", import.meta.url));

/** What a service has on a machine. */
export interface Home {
  readonly folder: string;
  readonly stateDir: string;
  /** Where the locks of GPUs are, and the socket. */
  readonly runtimeDir: string;
  readonly socket: string;
}

export async function makeHome(): Promise<Home> {
  const folder = await temporaryFolder();
  mkdirSync(join(folder, "run"), { mode: 0o700 });
  const runtimeDir = join(folder, "run", "vram-residency");
  return { folder, stateDir: join(folder, "state"), runtimeDir, socket: join(runtimeDir, "vram.sock") };
}

/** How a service is started. */
export interface Start {
  /** Of `vram serve`, behind those that are always there: a key that is given again has the later value. */
  readonly args?: readonly string[];
  /** Its devices can be told to misbehave, and have this deadline in ms; it is in a time in which nobody waits. */
  readonly test?: { readonly floorMs?: number; readonly isHasty?: boolean };
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** The command as a process. It may refuse to serve. */
export interface Launched {
  readonly pid: number;
  readonly out: () => string;
  /** What it tells on standard error. */
  readonly err: () => string;
  readonly hasEnded: () => boolean;
  /** Settles when it has ended, and all that it wrote was read. */
  readonly exit: Promise<Exit>;
  /** The same, unless that takes too long. */
  ended(): Promise<Exit>;
  signal(name: NodeJS.Signals): void;
  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<void>;
}

/** A process that serves. */
export interface Running extends Launched {
  readonly home: Home;
  readonly client: Client;
  /** The feed from its first entry on, as far as it has come. */
  readonly entries: readonly FeedEntry[];
  of(type: string): readonly FeedEntry[];
  /** Resolves when it has told this on standard error. */
  told(text: string): Promise<void>;
  /** The `nth` entry of this type that matches; it may still come. */
  entry(type: string, matches?: (entry: FeedEntry) => boolean, nth?: number): Promise<FeedEntry>;
  /** Resolves when everything wanted is resident and every device runs. */
  ready(): Promise<void>;
}

const launched: Launched[] = [];

afterEach(async () => {
  for (const one of launched.splice(0)) {
    if (!one.hasEnded()) await one.kill();
    await until("no process of a device is left", () => devicesOf(one.pid).length === 0);
  }
});

/** The task, unless it takes too long. */
export async function inTime<T>(what: string, task: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${WATCHDOG_MS} ms: ${what}`)), WATCHDOG_MS);
  });
  try {
    return await Promise.race([task, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits for conditions that are looked at whenever something came. */
function createBell() {
  const waiting = new Set<() => void>();
  const next = (): Promise<void> => new Promise((resolve) => void waiting.add(resolve));
  return {
    ring: (): void => {
      for (const wake of waiting) wake();
      waiting.clear();
    },
    until: (what: string, isTrue: () => boolean): Promise<void> =>
      inTime(
        what,
        (async () => {
          while (!isTrue()) await next();
        })(),
      ),
  };
}

/** Processes of devices that this one started and that run, also when it is gone itself. */
export function devicesOf(pid: number): readonly number[] {
  const isOurs = (one: number): boolean => {
    try {
      const [, entry = "", service] = readFileSync(`/proc/${one}/cmdline`, "utf8").split("\0");
      return /^device-process\.m?js$/.test(basename(entry)) && service === String(pid) && isRunning(one);
    } catch {
      return false;
    }
  };
  return readdirSync("/proc").map(Number).filter(isOurs);
}

function spawnCommand(
  { folder, stateDir }: Home,
  { args = [], test }: Start,
): ChildProcessByStdio<null, Readable, Readable> {
  const entry = test === undefined ? BIN : SCRIPT;
  return spawn(process.execPath, [entry, "serve", "--json", "--state-dir", stateDir, ...args], {
    env: {
      HOME: folder,
      XDG_RUNTIME_DIR: join(folder, "run"),
      VRAM_BACKEND: "emulated",
      VRAM_EMULATED_BYTES: String(128 * MIB),
      VRAM_HASH_THREADS: "0",
      ...(test === undefined ? {} : { VRAM_TEST_SERVICE: JSON.stringify({ folder, sizes: SIZES, ...test }) }),
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
}

function launchRung(home: Home, start: Start, ring: () => void): Launched {
  const child = spawnCommand(home, start);
  const texts = { out: "", err: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    texts.out += text;
    ring();
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    texts.err += text;
    ring();
  });
  let hasEnded = false;
  const exit = new Promise<Exit>((resolve) => {
    child.once("close", (code, signal) => {
      hasEnded = true;
      resolve({ code, signal });
      ring();
    });
  });
  const ended = (): Promise<Exit> => inTime("the service ends", exit);
  const made: Launched = {
    pid: present(child.pid, "the pid of a service"),
    out: () => texts.out,
    err: () => texts.err,
    hasEnded: () => hasEnded,
    exit,
    ended,
    signal: (name) => void child.kill(name),
    kill: async () => {
      child.kill("SIGKILL");
      await ended();
    },
  };
  launched.push(made);
  return made;
}

/** Starts the command. */
export const launch = (home: Home, start: Start = {}): Launched => launchRung(home, start, () => undefined);

/** Starts a service, which answers when this resolves. What is wanted may still be on its way. */
export async function startService(home: Home, start: Start = {}): Promise<Running> {
  const bell = createBell();
  const made = launchRung(home, start, bell.ring);
  await bell.until("the service serves, or ends", () => made.out().endsWith("\n") || made.hasEnded());
  if (made.hasEnded()) throw new Error(`it does not serve: ${made.err()}`);
  const { socket, instanceId } = JSON.parse(made.out()) as { readonly socket: string; readonly instanceId: string };
  const client = openClient({ socket }, { pause: async () => undefined });
  const entries: FeedEntry[] = [];
  const stop = new AbortController();
  void made.exit.then(() => {
    stop.abort();
    client.close();
  });
  const follow = async (): Promise<void> => {
    for await (const item of client.feed({ after: `${instanceId}-0`, signal: stop.signal })) {
      if (item.kind === "entry") entries.push(item.entry);
      bell.ring();
    }
  };
  // It breaks when the service does, which each test sees for itself.
  void follow().catch(() => undefined);
  const of = (type: string): readonly FeedEntry[] => entries.filter((entry) => entry.type === type);
  return {
    ...{ ...made, home, client, entries, of },
    told: (text) => bell.until(`it tells ${text}`, () => made.err().includes(text)),
    entry: async (type, matches = () => true, nth = 1) => {
      const found = (): FeedEntry | undefined => of(type).filter(matches)[nth - 1];
      await bell.until(`entry ${nth} of ${type}`, () => found() !== undefined);
      return present(found(), type);
    },
    ready: () =>
      inTime(
        "the service is ready",
        (async () => {
          while ((await client.health()) !== "ok");
        })(),
      ),
  };
}
