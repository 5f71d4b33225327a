/**
 * What happens to a request from its first byte: an exchange is made of it, the guards look at it, hono finds its route.
 * What is too broken for that (it does not parse, is too long, or does not end) gets a bare answer on the socket.
 */
import { randomUUID } from "node:crypto";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { Server as TlsServer } from "node:https";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { getRequestListener, RequestError } from "@hono/node-server";
import { RESPONSE_ALREADY_SENT } from "@hono/node-server/utils/response";
import { VramError } from "../../errors.ts";
import { withCorrelation } from "../../journal/scope.ts";
import { LIMITS } from "../../limits.ts";
import { type App, answerError, createApp, type Site } from "./app.ts";
import { rememberPeer } from "./auth.ts";
import { endBare } from "./bare.ts";
import { type Exchange, noteRefusal } from "./exchange.ts";
import { type HostCheck, headerOf, requireDecent, requireTarget } from "./guards.ts";
import { refusal, statusOf } from "./problem.ts";
import type { Listener } from "./route.ts";

export type WebServer = Server | TlsServer;

/** How a listener takes requests. */
export interface ListenerOptions {
  readonly listener: Listener;
  /** The names it goes by; absent on a socket. Asked for at each request: a port may be known only after listening. */
  readonly isOwnHost?: HostCheck;
  /** Whether all of the server is there: nobody is answered before. */
  readonly isOpen: () => boolean;
  /** Whether connections are ended after their answer. */
  readonly isClosing: () => boolean;
}

/** The exchange that a request begins; it tells of its end. */
function beginExchange(
  site: Site,
  { listener, isClosing }: ListenerOptions,
  [incoming, outgoing, awaitsContinue]: readonly [IncomingMessage, ServerResponse, boolean],
): Exchange {
  const begun = performance.now();
  const abort = new AbortController();
  const given = headerOf(incoming, "x-correlation-id");
  const exchange: Exchange = {
    ...{
      incoming,
      outgoing,
      awaitsContinue,
      stallMs: site.timing.stallMs,
      route: "other",
      caller: undefined,
      path: "",
      query: "",
    },
    transport: listener === "socket" ? "socket" : "tcp",
    correlationId: given !== undefined && isCorrelationId(given) ? given : randomUUID(),
    signal: abort.signal,
    abandon: () => abort.abort(),
  };
  outgoing.once("close", () => {
    if (!outgoing.writableFinished) abort.abort();
    if (!outgoing.headersSent) return;
    const { route, transport } = exchange;
    const served = { route, transport, status: outgoing.statusCode, durationMs: performance.now() - begun };
    withCorrelation(exchange.correlationId, () => site.service.note.requestServed(served));
  });
  if (isClosing()) outgoing.shouldKeepAlive = false;
  return exchange;
}

function isCorrelationId(text: string): boolean {
  try {
    return withCorrelation(text, () => true);
  } catch {
    return false;
  }
}

/** Throws unless the request may be looked at. */
function guard(exchange: Exchange, { isOwnHost }: ListenerOptions): void {
  const { incoming, transport, correlationId } = exchange;
  requireDecent(incoming, transport, isOwnHost);
  const given = headerOf(incoming, "x-correlation-id");
  if (given !== undefined && given !== correlationId) {
    throw refusal(400, "X-Correlation-Id is at most 128 letters, digits and . _ : / -");
  }
  Object.assign(exchange, requireTarget(incoming));
  const expect = headerOf(incoming, "expect");
  if (expect !== undefined && expect.toLowerCase() !== "100-continue")
    throw refusal(417, "only 100-continue is expected");
}

async function answer(site: Site, app: App, exchange: Exchange, options: ListenerOptions): Promise<void> {
  const { incoming, outgoing } = exchange;
  try {
    guard(exchange, options);
  } catch (thrown) {
    await answerError(site, exchange, thrown);
    return;
  }
  const listen = getRequestListener((request) => app.fetch(request, exchange), {
    overrideGlobalObjects: false,
    autoCleanupIncoming: false,
    hostname: "localhost",
    errorHandler: async (thrown) => {
      const isTheirs = thrown instanceof RequestError;
      await answerError(site, exchange, isTheirs ? refusal(400, "Host and target are no address") : thrown);
      return RESPONSE_ALREADY_SENT;
    },
  });
  await listen(incoming, outgoing);
}

const METHODS = "GET, POST, DELETE";

const flood = (): VramError =>
  new VramError("SERVICE_BUSY", `more than ${LIMITS.servicePipelined} requests on one connection have no answer yet`);

type ClientError = Error & { readonly code?: string };

/** What is wrong with a request that is none; undefined for a client that merely went away. */
function clientRefusal({ code = "" }: ClientError, socket: Duplex): VramError | undefined {
  // A connection on which nothing ever came asked for nothing.
  if (code === "ERR_HTTP_REQUEST_TIMEOUT" && "bytesRead" in socket && socket.bytesRead === 0) return undefined;
  if (code === "HPE_INVALID_EOF_STATE") return undefined;
  if (code === "HPE_HEADER_OVERFLOW") return refusal(431, "the headers of the request are too long");
  if (code === "ERR_HTTP_REQUEST_TIMEOUT") return refusal(408, "the request took too long to arrive");
  if (code === "HPE_CHUNK_EXTENSIONS_OVERFLOW") return refusal(413, "the body has too long chunk extensions");
  if (code === "HPE_INVALID_METHOD") return refusal(405, "this method is not one", { allow: METHODS });
  return code.startsWith("HPE_") ? refusal(400, "the request is not HTTP/1.1") : undefined;
}

/** The connections of a listener. */
export interface Connections {
  /** With the requests that are being answered on each. */
  readonly open: Map<Duplex, Set<Exchange>>;
  /** Ends those on which nothing is being answered. */
  readonly endIdle: () => void;
  /** Ends all of them. */
  readonly endAll: () => void;
}

function followConnections(server: WebServer, { listener, isOpen }: ListenerOptions, site: Site): Connections {
  const open = new Map<Duplex, Set<Exchange>>();
  /** As they came; those without a TLS handshake yet are among these only. */
  const raw = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    raw.add(socket);
    socket.once("close", () => raw.delete(socket));
  });
  const follow = (socket: Socket): void => {
    // A service answers when all of it is there.
    if (!isOpen()) {
      socket.destroy();
      return;
    }
    if (listener === "socket") rememberPeer(socket, site.authority.peerOf);
    open.set(socket, new Set());
    socket.once("close", () => {
      // Those that wait behind another answer hear of it here only.
      for (const exchange of open.get(socket) ?? []) exchange.abandon();
      open.delete(socket);
    });
  };
  // The socket that requests come on: with TLS it is there after the handshake.
  server.on(server instanceof TlsServer ? "secureConnection" : "connection", follow);
  const endIdle = (): void => {
    for (const [socket, exchanges] of open) if (exchanges.size === 0) socket.destroy();
  };
  const endAll = (): void => {
    for (const socket of raw) socket.destroy();
  };
  return { open, endIdle, endAll };
}

/** Has a server take requests. */
export function attachListener(server: WebServer, site: Site, options: ListenerOptions): Connections {
  const app = createApp(site, options.listener);
  const transport = options.listener === "socket" ? "socket" : "tcp";
  const connections = followConnections(server, options, site);
  const { open } = connections;

  const take = (incoming: IncomingMessage, outgoing: ServerResponse, awaitsContinue = false): void => {
    const exchange = beginExchange(site, options, [incoming, outgoing, awaitsContinue]);
    const { socket } = incoming;
    open.get(socket)?.add(exchange);
    outgoing.once("close", () => {
      open.get(socket)?.delete(exchange);
      if (options.isClosing()) socket.destroySoon();
    });
    const isFlood = (open.get(socket)?.size ?? 0) > LIMITS.servicePipelined;
    withCorrelation(exchange.correlationId, () => {
      const answering = isFlood ? answerError(site, exchange, flood()) : answer(site, app, exchange, options);
      answering.catch((thrown: unknown) => {
        site.report("an answer", thrown);
        outgoing.destroy();
      });
    });
  };
  const refuse = (socket: Duplex, error: VramError, current?: Exchange): void => {
    const { caller, route = "other", correlationId = randomUUID() } = current ?? {};
    withCorrelation(correlationId, () => {
      noteRefusal(site.service.note, error, { transport, caller });
      site.service.note.requestServed({ route, status: statusOf(error), durationMs: 0, transport });
    });
    endBare(socket, error, correlationId);
  };

  server.on("request", (incoming, outgoing) => take(incoming, outgoing));
  server.on("checkContinue", (incoming, outgoing) => take(incoming, outgoing, true));
  server.on("checkExpectation", (incoming, outgoing) => take(incoming, outgoing));
  server.on("connect", (_, socket) => {
    refuse(socket, refusal(405, "this is no proxy", { allow: METHODS }));
  });
  server.on("clientError", (error: ClientError, socket) => {
    const [current, ...others] = open.get(socket) ?? [];
    const refused = clientRefusal(error, socket);
    // An answer here must be that to the request that broke: one that has begun, or belongs to another, is none.
    const isOther = current !== undefined && (current.incoming.complete || current.outgoing.headersSent);
    if (refused === undefined || isOther || others.length > 0 || !socket.writable) socket.destroy();
    else refuse(socket, refused, current);
  });
  return connections;
}
