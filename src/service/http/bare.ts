/**
 * An answer to what is no request: written to the socket as text, because there is nothing to answer with. The client
 * may still be writing; what it writes is thrown away for a moment, or a reset would overtake the answer.
 */
import { STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";
import type { VramError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import { PROBLEM_TYPE, SECURITY_HEADERS } from "./exchange.ts";
import { problemHeaders, problemOf } from "./problem.ts";

function bareText(error: VramError, correlationId: string): string {
  const problem = problemOf(error, correlationId);
  const body = JSON.stringify(problem);
  const headers = {
    ...SECURITY_HEADERS,
    ...problemHeaders(error),
    "Content-Type": PROBLEM_TYPE,
    "Content-Length": Buffer.byteLength(body),
    "X-Correlation-Id": correlationId,
    Connection: "close",
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  return [`HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status] ?? ""}`, ...lines, "", body].join("\r\n");
}

/** Answers and ends a connection. Once for each: what comes behind a broken request breaks again. */
export function endBare(socket: Duplex, error: VramError, correlationId: string): void {
  let byteLength = 0;
  const timer = setTimeout(() => socket.destroy(), LIMITS.serviceDiscardMs);
  socket.removeAllListeners("data");
  socket.on("error", () => socket.destroy());
  socket.on("close", () => clearTimeout(timer));
  socket.on("end", () => socket.destroy());
  socket.on("data", (chunk: Buffer) => {
    byteLength += chunk.byteLength;
    if (byteLength > LIMITS.serviceDiscardBytes) socket.destroy();
  });
  socket.end(bareText(error, correlationId));
  socket.resume();
}
