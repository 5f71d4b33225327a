/**
 * The life of a device's process: it dies with its parent, keeps its memory to itself, opens one device, serves it, and
 * ends when the channel does; or it says which devices there are, and ends. What a terminal or a service manager sends to all processes alike is the parent's to
 * judge. The entry file is `device-process.ts`.
 */
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { ReleaseFailureReporter } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import { setCloseOnExec } from "../ffi/descriptors.ts";
import { dieWithParent, keepMemoryPrivate } from "../ffi/process.ts";
import { openChannel } from "./channel.ts";
import { checkRequest, toWire } from "./checks.ts";
import { DESCRIPTOR_FD, sendDescriptor } from "./descriptors.ts";
import { type ServedDevice, serveDevice } from "./device-server.ts";
import type { ListRequest, OpenRequest, Reply, Request } from "./protocol.ts";

/** Where the process finds its end of the channel. */
export const CHANNEL_FD = 3;

/** Opens the device that is asked for. */
export type OpenDevice = (request: OpenRequest, report: ReleaseFailureReporter) => Promise<ServedDevice>;

/** What the first request may ask for. */
export interface FirstTasks {
  readonly open: OpenDevice;
  /** UUIDs of the devices that a driver shows. */
  readonly list: (request: ListRequest, report: ReleaseFailureReporter) => Promise<readonly string[]>;
}

/** How the process ends. Neither returns to what it was doing. */
export interface Endings {
  /** In order: what was opened with the driver is taken down by it. */
  readonly exit: () => void;
  /** At once: the device is lost, and its driver may hang in taking anything down. */
  readonly kill: () => void;
}

/** What the process shares with the service. */
export interface Ends {
  readonly socket: Duplex;
  /** The socket that descriptors go over. */
  readonly descriptors: number;
}

/** Serves the device that the other side asks for. The first request opens it, or lists those there are. */
export function serveSocket({ socket, descriptors }: Ends, { open, list }: FirstTasks, { exit, kill }: Endings): void {
  let serve: ((request: Request) => void) | undefined;
  let begun = false;
  const send = (reply: Reply): void => channel.send(reply);
  const report: ReleaseFailureReporter = (what, thrown) =>
    send({ kind: "release_failed", what, error: toWire(toVramError(thrown)) });

  const start = async (request: OpenRequest): Promise<void> => {
    const served = await open(request, report);
    serve = serveDevice(served, channel, kill, (id, descriptor) => sendDescriptor(descriptors, id, descriptor));
    send({ kind: "opened", info: served.device.info });
  };
  const leave = async (reply: Reply): Promise<void> => {
    send(reply);
    await channel.flush();
    exit();
  };
  const begin = async (request: Request): Promise<void> => {
    try {
      if (request.kind === "open") await start(request.request);
      else if (request.kind === "list") await leave({ kind: "listed", uuids: await list(request, report) });
    } catch (thrown) {
      await leave({ kind: "refused", error: toWire(toVramError(thrown)) });
    }
  };
  const channel = openChannel(socket, {
    onMessage: (message) => {
      const request = checkRequest(message);
      if (serve !== undefined) {
        serve(request);
        return;
      }
      if (begun || (request.kind !== "open" && request.kind !== "list")) {
        throw new VramError("INTERNAL", "the first request opens the device");
      }
      begun = true;
      void begin(request);
    },
    onEnd: exit,
  });
}

/** Makes this process the one of a device. `parentPid`: of the process that started it. */
export function runDeviceProcess(parentPid: number, tasks: FirstTasks): void {
  dieWithParent(parentPid);
  keepMemoryPrivate();
  setCloseOnExec(DESCRIPTOR_FD);
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => undefined);
  serveSocket({ socket: new Socket({ fd: CHANNEL_FD }), descriptors: DESCRIPTOR_FD }, tasks, {
    exit: () => process.exit(),
    kill: () => process.kill(process.pid, "SIGKILL"),
  });
}
