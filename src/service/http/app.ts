/**
 * From a decent request to its answer: which route it is (hono), who asks, what with, whether there is a place for it,
 * and what the service says. Whatever goes wrong on the way becomes a problem; what nobody expected becomes one that
 * says nothing, and is reported to the service's own people.
 */
import { RESPONSE_ALREADY_SENT } from "@hono/node-server/utils/response";
import { Hono } from "hono";
import { toVramError, VramError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import type { Service } from "../service.ts";
import { type Authority, anyone, authorize } from "./auth.ts";
import { readBody, readQuery, requireShape } from "./body.ts";
import { type Exchange, type Timing, writeAnswer, writeProblem } from "./exchange.ts";
import { type FeedRequest, writeFeed } from "./feed.ts";
import { decodePart, headerOf } from "./guards.ts";
import { refusal } from "./problem.ts";
import type { WorkQueue } from "./queue.ts";
import { type Call, type Listener, nameOf, PARAMS, paramsOf, type Route } from "./route.ts";
import { ROUTES } from "./routes.ts";

/** What all requests of a server share. */
export interface Site {
  readonly service: Service;
  readonly authority: Authority;
  readonly queue: WorkQueue;
  readonly bodyBytes: number;
  readonly timing: Timing;
  /** Fires when feeds have to end. */
  readonly ended: AbortSignal;
  /** The OpenAPI document. */
  readonly document: string;
  /** Whether anything new may still begin. */
  readonly isDraining: () => boolean;
  /** Told what went wrong inside, which no caller hears of. */
  readonly report: (what: string, error: unknown) => void;
  /** Feeds that are open, on all listeners. */
  feeds: number;
}

export type App = Hono<{ Bindings: Exchange }>;

/** `/v1/shards/{shard}` as hono writes it. */
const patternOf = (path: string): string => path.replaceAll(/\{([a-z]+)\}/g, ":$1");

function stopping(): VramError {
  return new VramError("SERVICE_STOPPING", "the service begins nothing any more");
}

/** The parameters of a path, checked. */
function readParams(route: Route, exchange: Exchange): Readonly<Record<string, string>> {
  const patterns = route.path.split("/");
  const segments = exchange.path.split("/");
  return Object.fromEntries(
    paramsOf(route).map((name) => {
      const given = decodePart(segments[patterns.indexOf(`{${name}}`)] ?? "");
      return [name, requireShape(PARAMS[name], given, name)];
    }),
  );
}

async function callOf(
  site: Site,
  route: Route,
  exchange: Exchange,
  isOpen: boolean,
): Promise<Call<unknown, unknown, unknown>> {
  const caller =
    isOpen || route.scope === "open" ? anyone(exchange) : await authorize(exchange, site.authority, route.scope);
  // What ends something goes on: leases are given back while a service stops.
  if (site.isDraining() && (route.method === "POST" || route.operationId === "readFeed")) throw stopping();
  return {
    service: site.service,
    caller,
    params: readParams(route, exchange),
    query: readQuery(exchange.query, route.query),
    body: await readBody(exchange, route.body, site.bodyBytes),
    signal: exchange.signal,
    lastEventId: headerOf(exchange.incoming, "last-event-id"),
    document: site.document,
    isDraining: site.isDraining(),
  };
}

async function answerFeed(site: Site, exchange: Exchange, request: FeedRequest): Promise<void> {
  if (site.feeds >= LIMITS.serviceFeeds) {
    throw new VramError("SERVICE_BUSY", `${site.feeds} feeds are open, and ${LIMITS.serviceFeeds} is the most`);
  }
  site.feeds += 1;
  try {
    await writeFeed(exchange, request, site);
  } finally {
    site.feeds -= 1;
  }
}

async function answerRoute(site: Site, route: Route, exchange: Exchange, isOpen: boolean): Promise<void> {
  exchange.route = nameOf(route);
  // hono takes HEAD for GET.
  if (exchange.incoming.method !== route.method) throw notAllowed(route.path);
  const call = await callOf(site, route, exchange, isOpen);
  const perform = async () => route.handle(call);
  const answer = await (route.work?.(call.body) === true ? site.queue.run(perform, exchange.signal) : perform());
  if (answer.kind === "feed") await answerFeed(site, exchange, answer);
  else writeAnswer(exchange, answer.content);
}

function notAllowed(path: string): VramError {
  const allow = ROUTES.filter((route) => route.path === path).map(({ method }) => method);
  return refusal(405, `${path} answers ${allow.join(", ")}`, { allow: allow.join(", ") });
}

/** Answers with the problem that an error is. */
export async function answerError(site: Site, exchange: Exchange, thrown: unknown): Promise<void> {
  const error = toVramError(thrown);
  if (error.code === "INTERNAL")
    site.report(`request ${exchange.correlationId}: ${exchange.route}`, error.cause ?? error);
  await writeProblem(site.service.note, exchange, error);
}

/** The routes of one kind of listener. Where metrics are answered alone, nobody is asked who they are. */
export function createApp(site: Site, listener: Listener): App {
  const app: App = new Hono<{ Bindings: Exchange }>({
    // As it came: hono would decode it, and a name may have a slash.
    getPath: (_, options) => options?.env?.path ?? "",
  });
  const routes = ROUTES.filter(({ listeners }) => listeners.includes(listener));
  const handling =
    (task: (exchange: Exchange) => Promise<void>) =>
    async ({ env }: { readonly env: Exchange }) => {
      try {
        await task(env);
      } catch (thrown) {
        await answerError(site, env, thrown);
      }
      return RESPONSE_ALREADY_SENT;
    };
  for (const route of routes) {
    const answer = (exchange: Exchange): Promise<void> => answerRoute(site, route, exchange, listener === "metrics");
    app.on(route.method, patternOf(route.path), handling(answer));
  }
  for (const path of new Set(routes.map((route) => route.path))) {
    app.all(
      patternOf(path),
      handling(async () => {
        throw notAllowed(path);
      }),
    );
  }
  app.notFound(
    handling(async () => {
      throw refusal(404, "there is nothing at this path; GET /v1/openapi.json says what there is");
    }),
  );
  return app;
}
