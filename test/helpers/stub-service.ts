/**
 * A service without anything behind it: an HTTP server on a socket or a port of its own that answers as a test has it,
 * and remembers what it was asked. What looks like a reply of the contract is held against its schema.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterEach, expect } from "vitest";
import type { z } from "zod";
import { ERROR_TABLE, type ErrorCode } from "../../src/errors.ts";
import { problem } from "../../src/service/replies.ts";
import { temporaryFolder } from "./vram.ts";

/** What a route answers: a document, text, or whatever the test does with the response. */
export type StubAnswer =
  | { readonly status?: number; readonly json: unknown; readonly headers?: Readonly<Record<string, string>> }
  | { readonly status?: number; readonly text: string; readonly type?: string }
  | { readonly raw: (response: ServerResponse, request: IncomingMessage) => void };

export interface Asked {
  /** `GET /v1/shards`, with its query, as it was sent. */
  readonly route: string;
  readonly body: unknown;
  readonly headers: IncomingMessage["headers"];
}

export type StubRoute = StubAnswer | ((asked: Asked, nth: number) => StubAnswer | Promise<StubAnswer>);
/** By method and path, without the query. */
export type StubRoutes = Readonly<Record<string, StubRoute>>;

export interface Stub {
  readonly socket: string;
  readonly url: string;
  readonly asked: Asked[];
  /** What was asked of one route. */
  of(route: string): readonly Asked[];
  close(): Promise<void>;
}

/** A reply that the schema has nothing against, field for field. */
export function checked<T>(schema: z.ZodType<T>, value: T): { readonly json: T } {
  expect(schema.parse(value)).toEqual(value);
  return { json: value };
}

/** A problem as the service writes it. */
export function problemOf(
  code: ErrorCode,
  { status = 409, detail = `${code} it is`, details = {} }: { status?: number; detail?: string; details?: object } = {},
): StubAnswer {
  const { meaning, fix, retriable } = ERROR_TABLE[code];
  const document = { type: `urn:vram:${code}`, title: meaning, status, detail, instance: "c-1", code, fix, retriable };
  return { status, ...checked(problem, { ...document, details: { ...details } }) };
}

const servers: Server[] = [];

async function bodyOf(request: IncomingMessage): Promise<unknown> {
  const text = Buffer.concat((await request.toArray()) as Buffer[]).toString();
  return text === "" ? undefined : JSON.parse(text);
}

function write(answer: StubAnswer, response: ServerResponse, request: IncomingMessage): void {
  if ("raw" in answer) {
    answer.raw(response, request);
  } else if ("json" in answer) {
    response.writeHead(answer.status ?? 200, { "content-type": "application/json", ...answer.headers });
    response.end(JSON.stringify(answer.json));
  } else {
    response.writeHead(answer.status ?? 200, { "content-type": answer.type ?? "text/plain" });
    response.end(answer.text);
  }
}

/** A service with these routes, on a socket or on a port; gone after the test. Other routes have not been found. */
export async function openStub(routes: StubRoutes, on: "socket" | "port" = "socket"): Promise<Stub> {
  const asked: Asked[] = [];
  const pathOf = (route: string): string => route.split("?")[0] ?? "";
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const route = `${request.method ?? ""} ${request.url ?? ""}`;
    const one: Asked = { route, body: await bodyOf(request), headers: request.headers };
    const nth = asked.filter((earlier) => pathOf(earlier.route) === pathOf(route)).length;
    asked.push(one);
    const found = routes[pathOf(route)];
    const reply = typeof found === "function" ? await found(one, nth) : found;
    write(reply ?? problemOf("REQUEST_REFUSED", { status: 404, detail: `no route ${route}` }), response, request);
  };
  const server = createServer((request, response) => {
    answer(request, response).catch((thrown: unknown) => response.destroy(thrown as Error));
  });
  servers.push(server);
  const socket = join(await temporaryFolder(), "vram.sock");
  await new Promise<void>((resolve) => {
    if (on === "socket") server.listen(socket, resolve);
    else server.listen(0, "127.0.0.1", resolve);
  });
  const url = on === "socket" ? "" : `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    ...{ socket, url, asked },
    of: (route) => asked.filter((one) => pathOf(one.route) === route),
    close: () => closeServer(server),
  };
}

function closeServer(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((resolve) => server.close(() => resolve()));
}

afterEach(async () => {
  for (const server of servers.splice(0)) await closeServer(server);
});

/** A feed that a test writes to; the connections that were made to it, one after the other. */
export interface StubFeed {
  readonly route: StubRoute;
  /** Of each connection, in order: where it continues. */
  readonly after: (string | undefined)[];
  /** Writes to the newest connection, as soon as there is one that has not been ended. */
  send(text: string): Promise<void>;
  /** Ends the newest connection: in order, or by breaking it. */
  end(how?: "broken"): Promise<void>;
}

/** An entry as an event. */
export const eventOf = (id: string, entry: object): string => `id: ${id}\ndata: ${JSON.stringify(entry)}\n\n`;

export function stubFeed(): StubFeed {
  const after: (string | undefined)[] = [];
  let current: ServerResponse | undefined;
  let arrived: (() => void) | undefined;
  const connection = async (): Promise<ServerResponse> => {
    while (current === undefined) {
      await new Promise<void>((resolve) => {
        arrived = resolve;
      });
    }
    return current;
  };
  return {
    after,
    route: {
      raw: (response, request) => {
        after.push(request.headers["last-event-id"] as string | undefined);
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write(":\n\n");
        current = response;
        arrived?.();
      },
    },
    send: async (text) => {
      const response = await connection();
      await new Promise<void>((resolve) => response.write(text, () => resolve()));
    },
    end: async (how) => {
      const response = await connection();
      current = undefined;
      if (how === "broken") response.destroy();
      else response.end();
    },
  };
}
