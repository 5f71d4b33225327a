/** A server around a fake service, and clients for it: one that speaks HTTP, and one that sends what it is told to. */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import http, { type IncomingHttpHeaders, type IncomingMessage } from "node:http";
import { connect, type NetConnectOpts, type Socket } from "node:net";
import { join } from "node:path";
import { afterEach } from "vitest";
import { LIMITS } from "../../src/limits.ts";
import { type HttpServer, openServer, type ServerOptions, type ServerValues } from "../../src/service/http/server.ts";
import { type Problem, problem } from "../../src/service/replies.ts";
import type { TokenInfo } from "../../src/service/tokens.ts";
import { createFakeService, type FakeService } from "./fake-service.ts";
import { temporaryFolder } from "./vram.ts";

export const OPERATE = `vram_operate_${"o".repeat(43)}`;
export const USE = `vram_use_${"u".repeat(43)}`;
/** The user of the service. */
export const UID = process.getuid?.() ?? 0;

const info = (scope: TokenInfo["scope"], fingerprint: string): TokenInfo => ({
  ...{ name: scope, scope, fingerprint, createdAtMs: 0 },
});
const TOKENS = new Map([
  [OPERATE, info("operate", "0b0b0b")],
  [USE, info("use", "0a0a0a")],
]);

export interface TestServer {
  readonly server: HttpServer;
  readonly service: FakeService;
  readonly socketPath: string;
  /** Loopback TCP. */
  readonly port: number;
  readonly metricsPort: number;
  /** What was reported to the service's people. */
  readonly reports: { readonly what: string; readonly error: unknown }[];
  /** Who the kernel says has connected. */
  readonly peer: { uid: number | undefined };
}

const opened: (() => Promise<void>)[] = [];

afterEach(async () => {
  await Promise.all(opened.splice(0).map((close) => close()));
});

export async function serverValues(values: Partial<ServerValues> = {}): Promise<ServerValues> {
  return {
    socket: join(await temporaryFolder(), "run", "vram.sock"),
    listen: "127.0.0.1:0",
    allowedHosts: ["vram.example"],
    metricsListen: "127.0.0.1:0",
    "tls.certFile": undefined,
    "tls.keyFile": undefined,
    "limits.connections": LIMITS.serviceConnections,
    "limits.requests": LIMITS.serviceRequests,
    "limits.waiting": LIMITS.serviceWaiting,
    "limits.bodyBytes": LIMITS.serviceBodyBytes,
    "limits.headerBytes": LIMITS.serviceHeaderBytes,
    "limits.requestMs": LIMITS.serviceRequestMs,
    "limits.idleMs": LIMITS.serviceIdleMs,
    ...values,
  };
}

/** A server on a fresh socket and on loopback, and how to close it. */
export async function keepTestServer(
  values: Partial<ServerValues> = {},
  options: Partial<ServerOptions> & { readonly kept?: number } = {},
): Promise<[TestServer, () => Promise<void>]> {
  const service = createFakeService(options);
  const reports: TestServer["reports"] = [];
  const peer: TestServer["peer"] = { uid: UID };
  const server = await openServer({
    service,
    tokens: { check: async (presented) => TOKENS.get(presented) },
    values: await serverValues(values),
    peerOf: () => {
      if (peer.uid === undefined) throw new Error("no peer");
      return { uid: peer.uid };
    },
    uid: UID,
    groupId: undefined,
    report: (what, error) => void reports.push({ what, error }),
    ...options,
  });
  const { socket, listen, metrics } = server.addresses;
  const ports = { port: listen?.port ?? 0, metricsPort: metrics?.port ?? 0 };
  return [{ server, service, reports, peer, socketPath: socket, ...ports }, () => server.close(0)];
}

/** The same, closed after the test. */
export async function openTestServer(...given: Parameters<typeof keepTestServer>): Promise<TestServer> {
  const [test, close] = await keepTestServer(...given);
  opened.push(close);
  return test;
}

export interface Reply {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly json: () => unknown;
  /** The answer as a problem; throws if it is none. */
  readonly problem: () => Problem;
}

export interface Ask {
  readonly method?: string;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  readonly agent?: http.Agent;
}

/** Where a request goes: the socket, or a port of loopback. */
export type Where = { readonly socketPath: string } | { readonly port: number };

export const readText = async (message: IncomingMessage): Promise<string> =>
  (await message.setEncoding("utf8").toArray()).join("");

/** Sends a request; resolves with the head of the answer. */
export async function begin(where: Where, path: string, ask: Ask = {}): Promise<IncomingMessage> {
  const { method = "GET", body, headers = {}, signal, agent } = ask;
  const text = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body);
  const isChunked = headers["transfer-encoding"] !== undefined;
  const length = text === undefined || isChunked ? {} : { "content-length": Buffer.byteLength(text) };
  const type = text === undefined ? {} : { "content-type": "application/json" };
  const request = http.request({
    ...{ ...where, host: "127.0.0.1", path, method, agent: agent ?? false },
    headers: { ...type, ...length, ...headers },
    ...(signal === undefined ? {} : { signal }),
  });
  request.end(text);
  const [answer] = (await once(request, "response")) as [IncomingMessage];
  return answer;
}

function replyOf(status: number, headers: IncomingHttpHeaders, text: string): Reply {
  const json = (): unknown => JSON.parse(text);
  return { status, headers, text, json, problem: () => problem.parse(json()) };
}

/** Sends a request and reads the whole answer. */
export async function ask(where: Where, path: string, options: Ask = {}): Promise<Reply> {
  const answer = await begin(where, path, options);
  return replyOf(answer.statusCode ?? 0, answer.headers, await readText(answer));
}

export const bearer = (token: string): { readonly authorization: string } => ({ authorization: `Bearer ${token}` });

/** A connection on which a test writes what it likes. */
export async function open(where: NetConnectOpts): Promise<Socket> {
  const socket = connect(where);
  socket.on("error", () => undefined);
  await once(socket, "connect");
  return socket;
}

/** Everything that comes until the connection ends, in whatever way: what was sent to a server that is gone resets it. */
export async function readAll(socket: Socket): Promise<string> {
  let text = "";
  socket.setEncoding("utf8");
  socket.on("data", (chunk) => {
    text += String(chunk);
  });
  if (!socket.closed) await new Promise((resolve) => socket.once("close", resolve));
  return text;
}

/** The first answer in what came over a connection. */
export function parseReply(text: string): Reply {
  const [head = "", ...rest] = text.split("\r\n\r\n");
  const [first = "", ...lines] = head.split("\r\n");
  const headers = Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]),
  );
  return replyOf(Number(first.split(" ")[1]), headers, rest.join("\r\n\r\n"));
}

/** Sends bytes on a connection of their own; the answer, which ends it. */
export async function sendRaw(where: NetConnectOpts, ...parts: readonly (string | Uint8Array)[]): Promise<Reply> {
  const socket = await open(where);
  const answer = readAll(socket);
  for (const part of parts) socket.write(part);
  return parseReply(await answer);
}

export const randomText = (byteLength: number): string => randomBytes(byteLength / 2).toString("hex");
