/**
 * The listeners of a service: its Unix socket, TCP where that is configured (loopback, or TLS), and metrics and health
 * alone where those are. All of them or none: what cannot be opened leaves nothing behind. A close lets requests finish
 * for a while, then ends what is left.
 */
import { once } from "node:events";
import http from "node:http";
import https from "node:https";
import type { AddressInfo } from "node:net";
import { type Address, isLoopback, parseAddress } from "../../config/kinds.ts";
import type { ConfigValues } from "../../config/table.ts";
import { type ReleaseFailureReporter, UndoStack } from "../../dispose.ts";
import { systemReason, VramError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import { VERSION } from "../../version.ts";
import { ATTACH_SUFFIX } from "../attach/protocol.ts";
import { type AttachServer, openAttachServer } from "../attach/server.ts";
import type { Service } from "../service.ts";
import type { TokenStore } from "../tokens.ts";
import type { Site } from "./app.ts";
import type { PeerOf } from "./auth.ts";
import type { Timing } from "./exchange.ts";
import { createHostCheck, type HostCheck } from "./guards.ts";
import { attachListener, type Connections, type WebServer } from "./listener.ts";
import { openApiText } from "./openapi.ts";
import { createWorkQueue } from "./queue.ts";
import type { Listener } from "./route.ts";
import { openSocket, prepareSocket } from "./socket-file.ts";
import { readTls, type Tls } from "./tls.ts";

/** The keys of the configuration that a server follows. */
export type ServerValues = Pick<
  ConfigValues,
  | "socket"
  | "listen"
  | "allowedHosts"
  | "metricsListen"
  | "tls.certFile"
  | "tls.keyFile"
  | "limits.connections"
  | "limits.requests"
  | "limits.waiting"
  | "limits.bodyBytes"
  | "limits.headerBytes"
  | "limits.requestMs"
  | "limits.idleMs"
>;

export interface ServerOptions {
  readonly service: Service;
  readonly tokens: Pick<TokenStore, "check">;
  readonly values: ServerValues;
  /** `peerCredentials` of `ffi/`. */
  readonly peerOf: PeerOf;
  /** The user that the service runs as. */
  readonly uid: number;
  /** The number of `allowedGroup`; undefined: nobody but that user and root. */
  readonly groupId: number | undefined;
  /** Told what could not be released, and what went wrong inside, which no caller hears of. */
  readonly report: ReleaseFailureReporter;
  /** Of what is written to clients; default: `LIMITS`. */
  readonly timing?: Timing;
}

export interface HttpServer {
  /** Where it is reached: the path of the socket, and the addresses with their ports. */
  readonly addresses: { readonly socket: string; readonly listen?: Address; readonly metrics?: Address };
  /** From now on nothing new begins: `SERVICE_STOPPING`. What is held can be given back, and health is answered. */
  drain(): void;
  /** Takes no new connections, ends feeds and idle connections, and every other one behind its answer. */
  stopAccepting(): void;
  /** Waits so long for requests at work, then ends them. The socket's file is gone. Can be called again. */
  close(waitMs?: number): Promise<void>;
}

interface State {
  open: boolean;
  draining: boolean;
  closing: boolean;
  readonly ended: AbortController;
}

interface Opened {
  readonly server: WebServer;
  readonly connections: Connections;
}

const CLOSE_MS = 5000;
/** Late requests are looked for four times within their deadline. */
const checkingMs = (requestMs: number): number => Math.min(5000, Math.max(50, requestMs / 4));

function createServer(values: ServerValues, tls: Tls | undefined): WebServer {
  const requestMs = values["limits.requestMs"];
  const options: http.ServerOptions = {
    maxHeaderSize: values["limits.headerBytes"],
    headersTimeout: requestMs,
    requestTimeout: requestMs,
    keepAliveTimeout: values["limits.idleMs"],
    connectionsCheckingInterval: checkingMs(requestMs),
    insecureHTTPParser: false,
    // Asked for by the guards, which answer with a problem.
    requireHostHeader: false,
    noDelay: true,
  };
  const server =
    tls === undefined
      ? http.createServer(options)
      : https.createServer({ ...options, ...tls, handshakeTimeout: requestMs });
  server.maxConnections = values["limits.connections"];
  return server;
}

async function listening(server: WebServer, where: { path: string } | Address, name: string): Promise<void> {
  server.listen(where);
  try {
    await once(server, "listening");
  } catch (cause) {
    throw new VramError("INVALID_ARGUMENT", `${name}: cannot listen there: ${systemReason(cause) ?? "unknown"}`, {
      cause,
      fix: "choose another address, or stop what listens on it",
      details: { argument: name },
    });
  }
}

/** The address of a key; undefined if it is off. Throws where others could read along. */
function addressOf(values: ServerValues, key: "listen" | "metricsListen", tls: Tls | undefined): Address | undefined {
  const address = parseAddress(values[key]);
  if (address === undefined || tls !== undefined || isLoopback(address)) return address;
  throw new VramError("INVALID_ARGUMENT", `${key}: other machines reach ${values[key]}, and TLS is not configured`, {
    fix: "set tls.certFile and tls.keyFile, or listen on 127.0.0.1",
    details: { argument: key },
  });
}

function createSite(options: ServerOptions, state: State): Site {
  const { service, tokens, values, peerOf, uid, groupId, report } = options;
  return {
    ...{ service, report, document: openApiText(VERSION), feeds: 0, ended: state.ended.signal },
    authority: { tokens, peerOf, uid, hasGroup: groupId !== undefined },
    queue: createWorkQueue({ requests: values["limits.requests"], waiting: values["limits.waiting"] }),
    bodyBytes: values["limits.bodyBytes"],
    timing: options.timing ?? { keepAliveMs: LIMITS.serviceFeedKeepAliveMs, stallMs: LIMITS.serviceStallMs },
    isDraining: () => state.draining,
  };
}

async function closeServer({ server, connections }: Opened, waitMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    // It says so if it was not listening, which is as good.
    server.close(() => resolve());
  });
  const timer = setTimeout(connections.endAll, waitMs);
  await closed;
  clearTimeout(timer);
}

/** Opens all listeners. `INVALID_ARGUMENT`, `STATE_INVALID` or `STATE_BUSY` if one cannot be opened; then none is. */
export async function openServer(options: ServerOptions): Promise<HttpServer> {
  const { values, uid, groupId, report } = options;
  const state: State = { open: false, draining: false, closing: false, ended: new AbortController() };
  const site = createSite(options, state);
  const tls = await readTls(values["tls.certFile"], values["tls.keyFile"]);
  const opened: Opened[] = [];
  const undo = new UndoStack(report);

  const open = async (listener: Listener, where: { path: string } | Address, name: string): Promise<WebServer> => {
    const isTcp = "host" in where;
    const server = createServer(values, isTcp ? tls : undefined);
    let isOwnHost: HostCheck = () => false;
    const connections = attachListener(server, site, {
      ...{ listener, isOpen: () => state.open, isClosing: () => state.closing },
      ...(isTcp ? { isOwnHost: (host: string) => isOwnHost(host) } : {}),
    });
    await listening(server, where, name);
    server.on("error", (error) => report(name, error));
    const running = { server, connections };
    undo.defer(name, () => closeServer(running, 0));
    opened.push(running);
    if (isTcp) {
      const { port } = server.address() as AddressInfo;
      const own = { host: where.host, port, isLoopback: isLoopback(where), isTls: tls !== undefined };
      isOwnHost = createHostCheck(own, values.allowedHosts);
    }
    return server;
  };
  const openTcp = async (key: "listen" | "metricsListen", listener: Listener): Promise<Address | undefined> => {
    const address = addressOf(values, key, tls);
    if (address === undefined) return undefined;
    const server = await open(listener, address, key);
    return { host: address.host, port: (server.address() as AddressInfo).port };
  };

  try {
    const owner = { uid, groupId };
    await prepareSocket(values.socket, owner);
    await open("socket", { path: values.socket }, "socket");
    await openSocket(values.socket, owner);
    const attaching = await openAttachServer({
      ...{ service: options.service, path: values.socket + ATTACH_SUFFIX, peerOf: options.peerOf, report },
      ...{ uid, groupId, queue: site.queue, stallMs: site.timing.stallMs },
    });
    undo.defer("the attach socket", () => attaching.close());
    const listen = await openTcp("listen", "tcp");
    const metrics = await openTcp("metricsListen", "metrics");
    undo.disarm();
    state.open = true;
    return runningServer({ socket: values.socket, listen, metrics }, opened, attaching, state);
  } catch (error) {
    await undo.unwind();
    throw error;
  }
}

function runningServer(
  { socket, listen, metrics }: { socket: string; listen: Address | undefined; metrics: Address | undefined },
  opened: readonly Opened[],
  attaching: AttachServer,
  state: State,
): HttpServer {
  const stopAccepting = (): void => {
    state.draining = true;
    state.closing = true;
    attaching.drain();
    state.ended.abort();
    for (const { server, connections } of opened) {
      server.close();
      connections.endIdle();
    }
  };
  let closing: Promise<unknown> | undefined;
  return {
    addresses: {
      socket,
      ...(listen === undefined ? {} : { listen }),
      ...(metrics === undefined ? {} : { metrics }),
    },
    drain: () => {
      state.draining = true;
      attaching.drain();
    },
    stopAccepting,
    close: async (waitMs = CLOSE_MS) => {
      stopAccepting();
      closing ??= Promise.all([attaching.close(), ...opened.map((running) => closeServer(running, waitMs))]);
      await closing;
    },
  };
}
