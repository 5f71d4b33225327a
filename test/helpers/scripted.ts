/** A "process" of a device that says what a test wants it to say. */
import { closeSync } from "node:fs";
import { socketPair as descriptorPair } from "../../src/ffi/passing.ts";
import { type Channel, openChannel } from "../../src/process/channel.ts";
import { checkRequest } from "../../src/process/checks.ts";
import type { Method, Request } from "../../src/process/protocol.ts";
import type { RemoteDeviceOptions } from "../../src/process/remote-device.ts";
import type { DeviceProcess, Exit } from "../../src/process/start-process.ts";
import { openRemote, remoteOptions } from "./remote.ts";
import { socketPair } from "./socket-pair.ts";

/** What a small device says of itself. */
export const infoOf = (uuid: string): Record<string, unknown> => ({
  ...{ ordinal: 0, uuid, name: "Emulated GPU", backend: "emulated", driverVersion: 13_000, computeCapability: "0.0" },
  ...{ bytesTotal: 2 ** 30, granuleBytes: 2 ** 21, l2CacheBytes: 0 },
  facts: {
    ...{ integrated: false, wddm: false, virtualMemoryManagement: true, mps: false, pageableMemoryAccess: false },
    ...{ unifiedAddressing: true, managedMemory: true, posixFileDescriptorHandles: true, eccEnabled: false },
  },
});

/** What a driver lists unless told otherwise. */
export const LISTED = [0, 1].map((n) => `GPU-00000000-0000-4000-8000-00000000000${n}`);

export interface Script {
  /** What it does with each request after the first. That to close it is answered. */
  readonly onRequest?: (request: Request, channel: Channel) => void;
  /** What it answers to one to list devices; default: two. */
  readonly onList?: (channel: Channel) => void;
  /** What it answers to the one to open it; default: that it is open. */
  readonly onOpen?: (channel: Channel, uuid: string) => void;
  /** It does not go when it is killed. */
  readonly stubborn?: boolean;
}

/** How such a process is started, what it was asked, and its end. */
export function scripted({ onRequest, onOpen, onList, stubborn = false }: Script) {
  const requests: Request[] = [];
  let exit: (exit: Exit) => void = () => undefined;
  let channel: Channel | undefined;
  const made = {
    requests,
    kills: 0,
    send: (message: unknown): void => channel?.send(message),
    exit: (how: Exit): void => exit(how),
    start: (): DeviceProcess => {
      const [ours, its] = socketPair();
      const [descriptors, itsDescriptors] = descriptorPair();
      const ended = new Promise<Exit>((resolve) => {
        exit = (how) => {
          its.end();
          resolve(how);
        };
      });
      void ended.then(() => closeSync(itsDescriptors));
      const opened = openChannel(its, {
        onMessage: (message) => {
          const request = checkRequest(message);
          if (request.kind === "list") {
            if (onList === undefined) opened.send({ kind: "listed", uuids: LISTED });
            else onList(opened);
          } else if (request.kind !== "open") {
            requests.push(request);
            onRequest?.(request, opened);
            if (request.kind !== "call" || request.method !== "close") return;
            opened.send({ kind: "result", id: request.id, value: undefined });
          } else if (onOpen !== undefined) onOpen(opened, request.request.uuid);
          else opened.send({ kind: "opened", info: infoOf(request.request.uuid) });
        },
        onEnd: () => {
          if (!stubborn) exit({ exitCode: 0, signal: null });
        },
      });
      channel = opened;
      return {
        pid: 2 ** 22 + 2,
        socket: ours,
        descriptors,
        kill: () => {
          made.kills += 1;
          if (!stubborn) exit({ exitCode: null, signal: "SIGKILL" });
        },
        onExit: (listener) => void ended.then(listener),
      };
    },
  };
  return made;
}

/** A device in such a process. */
export async function openScripted(script: Script, given: Partial<RemoteDeviceOptions> = {}) {
  const process = scripted(script);
  const device = await openRemote(await remoteOptions({ start: process.start, ...given }));
  return { device, process };
}

/** Answers calls of one method. */
export const answering =
  (method: Method, value: unknown): NonNullable<Script["onRequest"]> =>
  (request, channel) => {
    if (request.kind === "call" && request.method === method) channel.send({ kind: "result", id: request.id, value });
  };

/** How many calls of a method there were. */
export const calls = (requests: readonly Request[], method: Method): number =>
  requests.filter((request) => request.kind === "call" && request.method === method).length;
