/**
 * One request and its answer: who asks, on whose behalf, and the one place where an answer is written. Every answer has
 * the same headers against browsers and caches, none has CORS, and none says what runs here. When it has gone out, or
 * the client has gone away, that is told once.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { VramError } from "../../errors.ts";
import type { Transport } from "../../journal/service-body.ts";
import { LIMITS } from "../../limits.ts";
import type { Caller, ServiceRecord } from "../service.ts";
import { authFailureOf, isRefused, problemHeaders, problemOf, statusOf } from "./problem.ts";

export const SECURITY_HEADERS = {
  "Cache-Control": "no-store",
  "Content-Security-Policy": "default-src 'none'",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
} as const;

export const PROBLEM_TYPE = "application/problem+json";

export interface Timing {
  /** A feed on which nothing happens says so this often. */
  readonly keepAliveMs: number;
  /** A client that takes nothing for so long is ended. */
  readonly stallMs: number;
}

export interface Exchange {
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
  readonly transport: Transport;
  readonly correlationId: string;
  /** Fires when the client goes away before it has the whole answer. */
  readonly signal: AbortSignal;
  /** Fires it. */
  readonly abandon: () => void;
  /** The client waits for `100 Continue` before it sends a body. */
  readonly awaitsContinue: boolean;
  /** A client that takes nothing of its answer for so long is ended. */
  readonly stallMs: number;
  /** Path and query as they came, encoded; empty until the target is known to be one. */
  path: string;
  query: string;
  /** As the table of routes has it; `other` for what is no route. */
  route: string;
  /** Known once the route has let it in. */
  caller: Caller | undefined;
}

/** A whole answer. */
export interface Content {
  readonly status: number;
  readonly type: string;
  readonly text: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** The head of an answer. */
export function writeHead(
  { outgoing, correlationId }: Exchange,
  status: number,
  headers: Readonly<Record<string, string | number>>,
): void {
  outgoing.writeHead(status, { ...SECURITY_HEADERS, "X-Correlation-Id": correlationId, ...headers });
}

/** Writes an answer, unless there is nobody left to read it. */
export function writeAnswer(exchange: Exchange, { status, type, text, headers }: Content): void {
  const { outgoing, stallMs } = exchange;
  if (outgoing.destroyed || outgoing.headersSent) return;
  const bytes = Buffer.from(text, "utf8");
  writeHead(exchange, status, { "Content-Type": type, "Content-Length": bytes.byteLength, ...headers });
  outgoing.end(bytes);
  // What does not fit into the socket waits for the client; not forever.
  if (outgoing.writableLength > 0) outgoing.setTimeout(stallMs, () => outgoing.destroy());
}

/** Throws away what still comes of a body, within limits. False if there is more: then the connection cannot be kept. */
export async function discardBody(incoming: IncomingMessage): Promise<boolean> {
  if (incoming.readableEnded || incoming.complete) return true;
  if (incoming.destroyed) return false;
  return new Promise((resolve) => {
    let byteLength = 0;
    const end = (): void => {
      clearTimeout(timer);
      incoming.off("data", take).off("end", end).off("close", end);
      resolve(incoming.complete);
    };
    const take = (chunk: Buffer): void => {
      byteLength += chunk.byteLength;
      if (byteLength > LIMITS.serviceDiscardBytes) end();
    };
    const timer = setTimeout(end, LIMITS.serviceDiscardMs);
    incoming.on("data", take).on("end", end).on("close", end);
    incoming.resume();
  });
}

/** Puts on record what was refused, by status and code alone: nothing the caller wrote gets into a log this way. */
export function noteRefusal(
  note: ServiceRecord,
  error: VramError,
  exchange: Pick<Exchange, "transport" | "caller">,
): void {
  const caller = exchange.caller === undefined ? {} : { caller: exchange.caller.name };
  const { transport } = exchange;
  const failure = authFailureOf(error);
  if (failure !== undefined) {
    note.authFailed({ failure, transport, ...caller });
  } else if (isRefused(error)) {
    note.requestRefused({ status: statusOf(error), code: error.code, transport, ...caller });
  }
}

/** Answers with a problem. */
export async function writeProblem(note: ServiceRecord, exchange: Exchange, error: VramError): Promise<void> {
  const { incoming, outgoing, correlationId } = exchange;
  if (outgoing.destroyed || outgoing.headersSent) {
    outgoing.destroy();
    return;
  }
  noteRefusal(note, error, exchange);
  // A client that is still writing reads the answer only if it can write on. One that asked first sends nothing.
  const isRead = exchange.awaitsContinue ? incoming.complete : await discardBody(incoming);
  writeAnswer(exchange, {
    status: statusOf(error),
    type: PROBLEM_TYPE,
    text: JSON.stringify(problemOf(error, correlationId)),
    headers: { ...problemHeaders(error), ...(isRead ? {} : { Connection: "close" }) },
  });
}
