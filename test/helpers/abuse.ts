/** Requests that nobody should send, as they stand on the wire, and what must come back. */
import { expect } from "vitest";
import { type Ask, OPERATE, type Reply, type TestServer } from "./http.ts";

/** What must stand in no answer: code, paths of this machine, stacks. */
export const INSIDE =
  /node_modules|node:|\/work\/|\/tmp\/|\/home\/|\.ts\b|\\n\s+at |TypeError|SyntaxError|ZodError|HPE_/;

export const refused = ({ service }: TestServer) => service.notes.filter(({ type }) => type === "request_refused");
export const failed = ({ service }: TestServer) => service.notes.filter(({ type }) => type === "auth_failed");

export function expectProblem(reply: Reply, status: number, secrets: readonly string[] = []): void {
  expect(reply.status).toBe(status);
  expect(reply.headers["content-type"]).toBe("application/problem+json");
  expect(reply.headers["x-correlation-id"]).toBe(reply.problem().instance);
  expect(reply.headers["x-content-type-options"]).toBe("nosniff");
  expect(reply.problem().status).toBe(status);
  const whole = reply.text + JSON.stringify(reply.headers);
  expect(whole).not.toMatch(INSIDE);
  for (const secret of secrets) expect(whole).not.toContain(secret);
}

export const tcp = ({ port }: TestServer) => ({ host: "127.0.0.1", port });

/** A request as it stands on the wire, with the headers that it needs. */
export const wire = (test: TestServer, first: string, headers: readonly string[] = [], body = ""): string =>
  [first, `Host: 127.0.0.1:${test.port}`, `Authorization: Bearer ${OPERATE}`, ...headers, "", body].join("\r\n");

export const JSON_HEADER = "Content-Type: application/json";
export const post = (body: string | Uint8Array, headers: Readonly<Record<string, string>> = {}): Ask => ({
  ...{ method: "POST", body: typeof body === "string" ? body : Buffer.from(body).toString("latin1"), headers },
});
