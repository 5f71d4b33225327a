/** Starting the process of a device, and ending it. What it does is in `device-run.ts`, what it says in `protocol.ts`. */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync } from "node:fs";
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { fileURLToPath } from "node:url";
import { assert } from "../assert.ts";
import { countHandle } from "../dispose.ts";
import { socketPair } from "../ffi/passing.ts";
import type { OpenRequest } from "./protocol.ts";

/** How a process ended; neither, if it could not even be started. */
export interface Exit {
  readonly exitCode: number | null;
  readonly signal: string | null;
}

/** A process that was started, and our end of its channel. */
export interface DeviceProcess {
  /** 0 if it could not be started. */
  readonly pid: number;
  readonly socket: Duplex;
  /** Our end of the socket that descriptors come over; whoever takes the process over closes it. */
  readonly descriptors: number;
  /** SIGKILL. Harmless when it is gone. */
  kill(): void;
  /** Calls `listener` once, when there is no such process any more. */
  onExit(listener: (exit: Exit) => void): void;
}

/** What has to be known of a process before its first request: `uuid`, if it is to see one GPU only. */
export type StartRequest = Pick<OpenRequest, "backend" | "libraryPath"> & Partial<Pick<OpenRequest, "uuid">>;

export type StartProcess = (request: StartRequest, env: Readonly<Record<string, string>>) => DeviceProcess;

/**
 * The whole environment of the process. It is handed over at its start: the driver reads it when it is loaded. The cache
 * of compiled kernels is writable by the same user; kernels are loaded at once, so that none is loaded in a measurement.
 */
export function deviceEnvironment(
  { backend, uuid, libraryPath }: StartRequest,
  env: Readonly<Record<string, string>>,
): Record<string, string> {
  return {
    ...env,
    ...(libraryPath === undefined ? {} : { LD_LIBRARY_PATH: libraryPath }),
    ...(backend === "emulated" || uuid === undefined ? {} : { CUDA_VISIBLE_DEVICES: uuid }),
    CUDA_CACHE_DISABLE: "1",
    CUDA_MODULE_LOADING: "EAGER",
  };
}

/** Spawns it, and gives its end of the pair away: only the process has it from here on. */
function spawnDevice(entry: URL, env: Record<string, string>, [ours, its]: readonly [number, number]): ChildProcess {
  try {
    return spawn(process.execPath, [fileURLToPath(entry), String(process.pid)], {
      env,
      // The fourth is the channel, CHANNEL_FD; the fifth is DESCRIPTOR_FD.
      stdio: ["ignore", "ignore", "ignore", "pipe", its],
    });
  } catch (error) {
    closeSync(ours);
    throw error;
  } finally {
    closeSync(its);
  }
}

/**
 * How processes are started from this entry file. One keeps nothing alive, and ends with the thread that started it.
 */
export function startFrom(entry: URL): StartProcess {
  return (request, env) => {
    const pair = socketPair();
    const child = spawnDevice(entry, deviceEnvironment(request, env), pair);
    const ended = new Promise<Exit>((resolve) => {
      child.once("exit", (exitCode, signal) => resolve({ exitCode, signal }));
      // Not started at all, in which case no exit follows.
      child.on("error", () => {
        if (child.pid === undefined) resolve({ exitCode: null, signal: null });
      });
    });
    const socket = child.stdio[3];
    assert(socket instanceof Socket, "the fourth descriptor of a device's process is a socket");
    void ended.then(countHandle("device-process"));
    child.unref();
    socket.unref();
    return {
      pid: child.pid ?? 0,
      socket,
      descriptors: pair[0],
      kill: () => void child.kill("SIGKILL"),
      onExit: (listener) => void ended.then(listener),
    };
  };
}
