/**
 * One HTTP exchange with a service, over its Unix socket or TCP. What answers may be anything: every answer has a bound,
 * redirects are not followed, and whatever goes wrong below HTTP is one of three errors: nobody there, not let in, not ours.
 */
import http, { type IncomingMessage, type RequestOptions } from "node:http";
import https from "node:https";
import { systemReason, toVramError, VramError } from "../errors.ts";
import { currentScope } from "../journal/scope.ts";

/** Where a service is. A token is for TCP; on a socket the service knows who asks. */
export type ServiceAddress =
  | {
      /** Path of a Unix socket. */
      readonly socket: string;
    }
  | {
      /** `http://` or `https://`, a host and a port; with a token `https://`, unless it is loopback. */
      readonly url: string;
      /** As `vram token add` printed it. */
      readonly token?: string;
    };

export interface Exchange {
  readonly method: "GET" | "POST" | "DELETE";
  /** Path and query, encoded. */
  readonly path: string;
  /** Sent as JSON. */
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** The connection is given up when nothing comes for so long; never, if absent. */
  readonly idleMs?: number;
}

export interface Answer {
  readonly status: number;
  readonly text: string;
  readonly retryAfter: string | undefined;
}

export interface Transport {
  /** What to call it in a message. */
  readonly where: string;
  /** Asks, and reads the whole answer, whatever its status. */
  ask(exchange: Exchange): Promise<Answer>;
  /** Asks, and hands over the answer unread. */
  open(exchange: Exchange): Promise<IncomingMessage>;
  /** Reads an answer that was handed over. */
  read(answer: IncomingMessage, signal: AbortSignal | undefined): Promise<Answer>;
  /** Ends the connections that are kept. */
  close(): void;
}

/** A listing of 8192 shards of 2 KiB each is 16 MiB; 1000 lines of the audit log, of 64 KiB at most, are as many MiB. */
const ANSWER_BYTES = 64 * 1024 * 1024;
/** Connections kept for the next request; a client that asks for more at once opens them anew. */
const KEPT_CONNECTIONS = 4;
const TOKEN = /^[\x21-\x7e]{1,512}$/;
const LOOPBACK = /^(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])$/;

const invalid = (argument: string, message: string, fix: string): VramError =>
  new VramError("INVALID_ARGUMENT", message, { fix, details: { argument } });

/** Something answers, but not as a service of this version does. */
export const notOurs = (where: string, what: string, cause?: unknown): VramError =>
  new VramError("SERVICE_UNREACHABLE", `${where}: what answers there is no vram service of this version: ${what}`, {
    cause,
    fix: "name another socket or address; if it is the right one, install the same version on both sides",
    details: { answer: what },
  });

/** Whether the connection is what failed, and not what came over it. */
export const isBroken = (error: VramError): boolean =>
  error.code === "SERVICE_UNREACHABLE" && error.details["answer"] === undefined;

interface Target {
  readonly where: string;
  readonly protocol: typeof http | typeof https;
  readonly options: RequestOptions;
  readonly headers: Readonly<Record<string, string>>;
}

function urlOf(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isPlain = url !== undefined && /^https?:$/.test(url.protocol) && url.username + url.password === "";
  if (isPlain && url.pathname === "/" && url.search + url.hash === "") return url;
  throw invalid("url", "the address of a service is http:// or https://, a host and a port, and no more", "correct it");
}

function targetOf(address: ServiceAddress): Target {
  if ("socket" in address) {
    const { socket } = address;
    return { where: socket, protocol: http, options: { socketPath: socket }, headers: {} };
  }
  const url = urlOf(address.url);
  const { token } = address;
  if (token !== undefined && !TOKEN.test(token)) {
    throw invalid("token", "the token has characters that no token has", "`vram token add` makes one");
  }
  // Whoever reads the token on its way can use it.
  if (token !== undefined && url.protocol === "http:" && !LOOPBACK.test(url.hostname)) {
    throw invalid("url", "a token is sent to another machine by https only", "name an https:// address");
  }
  const hostname = url.hostname.replace(/^\[(.*)\]$/, "$1");
  return {
    where: url.origin,
    protocol: url.protocol === "https:" ? https : http,
    options: { hostname, ...(url.port === "" ? {} : { port: url.port }) },
    headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
  };
}

/** What went wrong below HTTP, as one of our errors. */
export function brokenError(where: string, thrown: unknown, signal: AbortSignal | undefined): VramError {
  if (thrown instanceof VramError) return thrown;
  if (signal?.aborted === true) return toVramError(new DOMException("", "AbortError"));
  const code = thrown instanceof Error && "code" in thrown ? String(thrown.code) : "";
  if (code === "EACCES" || code === "EPERM") {
    return new VramError("FORBIDDEN", `${where}: this user may not connect to the service`, {
      cause: thrown,
      fix: "run it as the service's user, or have the key `allowedGroup` of its configuration name a group of yours",
    });
  }
  if (code.startsWith("HPE_")) return notOurs(where, "it does not speak HTTP as it should", thrown);
  const why = systemReason(thrown) ?? (thrown instanceof Error ? thrown.message : String(thrown));
  return new VramError("SERVICE_UNREACHABLE", `no service answers at ${where}: ${why}`, {
    cause: thrown,
    fix: `start one with \`vram serve\`, or name another one than ${where} with --socket, VRAM_SOCKET or --url`,
  });
}

async function readText(where: string, answer: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let byteLength = 0;
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    byteLength += chunk.byteLength;
    if (byteLength > ANSWER_BYTES) throw notOurs(where, `an answer of more than ${ANSWER_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** The way to a service. Nothing is connected before something is asked. `INVALID_ARGUMENT` for an address that is none. */
export function openTransport(address: ServiceAddress): Transport {
  const { where, protocol, options, headers } = targetOf(address);
  const agent = new protocol.Agent({ keepAlive: true, maxFreeSockets: KEPT_CONNECTIONS });

  const begin = (exchange: Exchange, isKept: boolean): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const { method, path, body, signal, idleMs } = exchange;
      const bytes = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
      const correlationId = currentScope()?.correlationId;
      const request = protocol.request({
        ...{ ...options, method, path, agent: isKept ? agent : false },
        ...(signal === undefined ? {} : { signal }),
        headers: {
          ...{ accept: "application/json", ...headers, ...exchange.headers },
          ...(correlationId === undefined ? {} : { "x-correlation-id": correlationId }),
          ...(bytes === undefined ? {} : { "content-type": "application/json", "content-length": bytes.byteLength }),
        },
      });
      request.on("response", resolve);
      request.on("error", (error: NodeJS.ErrnoException) => {
        // The service closed the connection while nothing was on it. Asking is safe to repeat.
        if (isKept && request.reusedSocket && error.code === "ECONNRESET") resolve(begin(exchange, false));
        else reject(error);
      });
      if (idleMs !== undefined) {
        request.setTimeout(idleMs, () => request.destroy(new Error(`nothing came for ${idleMs} ms`)));
      }
      request.end(bytes);
    });

  // What changes something has a connection of its own: nobody could say whether it was done, if one that was kept ended.
  const open: Transport["open"] = (exchange) =>
    begin(exchange, exchange.method === "GET").catch((thrown: unknown) => {
      throw brokenError(where, thrown, exchange.signal);
    });

  const read: Transport["read"] = async (answer, signal) => {
    try {
      const text = await readText(where, answer);
      return { status: answer.statusCode ?? 0, text, retryAfter: answer.headers["retry-after"] };
    } catch (thrown) {
      throw brokenError(where, thrown, signal);
    }
  };

  return {
    where,
    open,
    read,
    ask: async (exchange) => read(await open(exchange), exchange.signal),
    close: () => agent.destroy(),
  };
}
