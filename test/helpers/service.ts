/** Services as tests have them: the real composition, with devices whose processes run in this one. */
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import http from "node:http";
import { join } from "node:path";
import { afterEach } from "vitest";
import { mergeSettings } from "../../src/config/config.ts";
import type { Place } from "../../src/config/places.ts";
import type { ConfigValues } from "../../src/config/table.ts";
import { peerCredentials } from "../../src/ffi/sockets.ts";
import type { Entry } from "../../src/journal/entry.ts";
import type { OpenedDevice } from "../../src/process/open-device.ts";
import { openProcessDevice } from "../../src/process/open-device.ts";
import type { StartProcess } from "../../src/process/start-process.ts";
import type { ServiceOptions } from "../../src/service/ground.ts";
import { type HttpServer, openServer } from "../../src/service/http/server.ts";
import { type OpenService, openService } from "../../src/service/open-service.ts";
import type { Caller, Service } from "../../src/service/service.ts";
import { openTokens } from "../../src/service/tokens.ts";
import { type InProcess, inProcess, SIZES } from "./remote.ts";
import { temporaryFolder } from "./vram.ts";

/** Who asks on the socket. */
export const CALLER: Caller = { transport: "socket", scope: "operate", name: "uid 1000" };
export const NEVER: AbortSignal = new AbortController().signal;

/** A folder with what a service has on a machine. */
export interface Home {
  readonly folder: string;
  readonly stateDir: string;
  readonly place: Place;
}

export async function makeHome(): Promise<Home> {
  const folder = await temporaryFolder();
  const runtime = join(folder, "run");
  await mkdir(runtime, { mode: 0o700 });
  const place: Place = {
    env: { XDG_RUNTIME_DIR: runtime },
    cwd: folder,
    uid: process.getuid?.() ?? 0,
    exists: () => false,
    realpath: (path) => path,
  };
  return { folder, stateDir: join(folder, "state"), place };
}

/** A device of a service under test. */
export interface TestDevice {
  readonly uuid: string;
  readonly process: InProcess;
  readonly opened: OpenedDevice;
  /** Of the allocation that was made as number `index`, from 0. */
  flipBit(index: number, offset: number, bit: number): Promise<void>;
}

export interface TestService extends OpenService {
  readonly service: Service;
  readonly values: ConfigValues;
  readonly entries: readonly Entry[];
  /** Every device that was opened, in order; one that was opened again is there twice. */
  readonly devices: readonly TestDevice[];
  /** Ends the process of a device that runs. */
  kill(uuid?: string): void;
  /** Entries of a type. */
  of<T extends Entry["type"]>(type: T): Extract<Entry, { type: T }>[];
  /** Closes, unless it was closed or abandoned. */
  end(): Promise<void>;
}

const open = new Set<TestService>();

/** The servers in front of a test's service: its socket, and a TCP port with a token of each scope. */
export interface Front {
  readonly server: HttpServer;
  readonly socket: string;
  readonly port: number;
  readonly tokens: Readonly<Record<"use" | "operate", string>>;
  /** Asks over TCP with a token, or on the socket without. */
  readonly ask: (
    method: string,
    path: string,
    body?: object,
    token?: string,
  ) => Promise<{ status: number; text: string }>;
}

/** Lets callers reach a service; closed with `end`. */
export async function openFront(test: TestService, home: Home): Promise<Front> {
  const store = openTokens(home.stateDir);
  const tokens = { use: (await store.add("u", "use")).token, operate: (await store.add("o", "operate")).token };
  const socket = join(home.folder, "run", "test.sock");
  const server = await openServer({
    ...{ service: test.service, tokens: store, peerOf: peerCredentials, uid: home.place.uid, groupId: undefined },
    values: { ...test.values, socket, listen: "127.0.0.1:0" },
    report: () => undefined,
  });
  fronts.add(server);
  const port = server.addresses.listen?.port ?? 0;
  const ask: Front["ask"] = async (method, path, body, token) => {
    const target = token === undefined ? { socketPath: socket } : { host: "127.0.0.1", port };
    const headers = {
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    };
    const request = http.request({ ...target, method, path, headers });
    request.end(body === undefined ? undefined : JSON.stringify(body));
    const [reply] = (await once(request, "response")) as [http.IncomingMessage];
    const parts: Buffer[] = [];
    for await (const part of reply) parts.push(part as Buffer);
    return { status: reply.statusCode ?? 0, text: Buffer.concat(parts).toString() };
  };
  return { server, socket, port, tokens, ask };
}

const fronts = new Set<HttpServer>();

afterEach(async () => {
  for (const server of fronts) await server.close(0);
  fronts.clear();
  for (const one of [...open]) await one.end();
});

/** Opens a service on one emulated device of 128 MiB, unless `settings` say otherwise; restores what is wanted. */
export async function openTestService(
  home: Home,
  settings: Readonly<Record<string, unknown>> = {},
  {
    readers: others = [],
    settle = true,
    ...more
  }: Pick<ServiceOptions, "clock" | "readers"> & { settle?: boolean } = {},
): Promise<TestService> {
  const all = {
    stateDir: home.stateDir,
    backend: "emulated",
    "emulated.bytes": "128 MiB",
    hashThreads: 0,
    ...settings,
  };
  const given = Object.entries(all).map(([key, value]) => ({
    key,
    value,
    origin: { layer: "flags", flag: key } as const,
  }));
  const config = { ...mergeSettings(given, home.place), files: [] };
  const entries: Entry[] = [];
  const devices: TestDevice[] = [];
  const start: StartProcess = (request, env) => {
    const process: InProcess = inProcess(async (asked, report) => {
      const opened = await openProcessDevice(asked, report, { sizes: SIZES });
      const allocations: number[] = [];
      const allocate = opened.device.allocate.bind(opened.device);
      opened.device.allocate = async (byteLength) => {
        const id = await allocate(byteLength);
        allocations.push(id);
        return id;
      };
      const flipBit = (index: number, offset: number, bit: number): Promise<void> =>
        opened.device.flipBit(allocations[index] ?? 0, offset, bit);
      devices.push({ uuid: asked.uuid, process, opened, flipBit });
      return opened;
    });
    return process.start(request, env);
  };
  const readers = [{ required: false, accept: (entry: Entry) => void entries.push(entry) }, ...others];
  const opened = await openService({ config, place: home.place, readers, start, ...more });
  opened.restore();
  if (settle) await opened.settled();
  let ended = false;
  const once = async (task: () => Promise<void>): Promise<void> => {
    if (ended) return;
    ended = true;
    open.delete(test);
    await task();
  };
  const test: TestService = {
    ...opened,
    close: () => once(() => opened.close()),
    abandon: () =>
      once(async () => {
        await opened.abandon();
        // What the end of the process would do.
        for (const { process, opened: device } of devices) {
          process.exit({ exitCode: null, signal: "SIGKILL" });
          await device.close();
        }
      }),
    values: config.values,
    entries,
    devices,
    kill: (uuid) => {
      const device = devices.findLast((one) => uuid === undefined || one.uuid === uuid);
      device?.process.exit({ exitCode: null, signal: "SIGKILL" });
      // The kernel would take its lock and its memory.
      void device?.opened.close();
    },
    of: (type) => entries.filter((entry) => entry.type === type) as never,
    end: () => test.close(),
  };
  open.add(test);
  return test;
}
