/**
 * The live view of a service's journal. A connection that breaks is opened again, behind the last entry that came; what
 * the service no longer has is told as a gap. What cannot be resumed ends the feed with its error.
 */
import type { IncomingMessage } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { toVramError, VramError } from "../errors.ts";
import { readProblem, readValue } from "./answers.ts";
import { readEvents, type ServerEvent } from "./events.ts";
import { isBroken, notOurs, type Transport } from "./transport.ts";

const feedEntry = z.looseObject({
  /** What happened: docs/api.md. */
  type: z.string(),
  /** 1, 2, … within this start of the service. */
  seq: z.int().min(0),
});
const feedGap = z.object({ entries: z.int().min(0), because: z.string().optional() });

/** An entry as it comes: `type` and `seq`, and whatever belongs to the type. A newer service may have others. @interface */
export type FeedEntry = Readonly<z.infer<typeof feedEntry>>;

/** What a feed yields: an entry, or that some are missing. `id` is what `after` takes. */
export type FeedItem =
  | {
      /** Something happened. */
      readonly kind: "entry";
      /** For `after`; undefined if the service gave none. */
      readonly id: string | undefined;
      /** What happened. */
      readonly entry: FeedEntry;
    }
  /** Entries are not kept any more: so many, or nobody knows how many, because the service was started again. */
  | {
      /** Something is missing. */
      readonly kind: "gap";
      /** For `after`; undefined if the service gave none. */
      readonly id: string | undefined;
      /** How many are missing; 0 if nobody knows. */
      readonly entries: number;
      /** `dropped`: not kept any more; `restarted`: the service was started again. */
      readonly because?: string | undefined;
    };

/** Which entries a feed yields, and from where on. */
export interface FeedOptions {
  /** Only what happens on this behalf. */
  readonly correlationId?: string;
  /** Only entries of these types. */
  readonly types?: readonly string[];
  /** The id of the last item that is known; default: begins with what happens next. */
  readonly after?: string;
  /** Fires: the feed ends, without an error. */
  readonly signal?: AbortSignal | undefined;
}

/** Waits; ends early, without an error, when the signal fires. Tests hand in one that does not wait. */
export type Pause = (ms: number, signal: AbortSignal | undefined) => Promise<void>;

export const realPause: Pause = (ms, signal) =>
  sleep(ms, undefined, signal === undefined ? {} : { signal }).catch(() => undefined);

/** Attempts in a row without an entry, and the wait before each: 0.25 s, 0.5 s, … 8 s; 40 s in all. */
const ATTEMPTS = 10;
const WAIT_MS = 250;
const WAIT_MAX_MS = 8000;
/** The service says something at least every 15 s, if only that it is there; after four times that it is not. */
const IDLE_MS = 60_000;

const brokenFeed = (where: string): VramError =>
  new VramError("SERVICE_UNREACHABLE", `${where}: the feed ends again and again, without an entry`);

function itemOf({ id, event, data }: ServerEvent, where: string): FeedItem | undefined {
  if (data === undefined) return undefined;
  if (event === "gap") return { kind: "gap", id, ...readValue(feedGap, data, where) };
  return { kind: "entry", id, entry: readValue(feedEntry, data, where) };
}

function pathOf({ correlationId, types }: FeedOptions): string {
  const query = new URLSearchParams({
    ...(correlationId === undefined ? {} : { correlationId }),
    ...(types === undefined ? {} : { types: types.join(",") }),
  });
  return query.size === 0 ? "/v1/feed" : `/v1/feed?${query.toString()}`;
}

async function connect(
  transport: Transport,
  options: FeedOptions,
  lastId: string | undefined,
): Promise<IncomingMessage> {
  const { signal } = options;
  const headers = { accept: "text/event-stream", ...(lastId === undefined ? {} : { "last-event-id": lastId }) };
  const exchange = { method: "GET", path: pathOf(options), headers, signal, idleMs: IDLE_MS } as const;
  const answer = await transport.open(exchange);
  if (answer.statusCode === 200 && /^text\/event-stream\b/.test(answer.headers["content-type"] ?? "")) return answer;
  throw readProblem(await transport.read(answer, signal), transport.where);
}

/** The events of one connection, until it ends or breaks. Throws for what is no event of ours. */
async function* eventsOf(stream: IncomingMessage, where: string): AsyncGenerator<ServerEvent, void, undefined> {
  const events = readEvents(stream);
  for (;;) {
    const next = await events.next().catch((thrown: unknown) => {
      if (thrown instanceof RangeError) throw notOurs(where, thrown.message, thrown);
      return undefined;
    });
    if (next === undefined || next.done === true) return;
    yield next.value;
  }
}

/** Whether the same may work in a moment. */
const mayPass = (error: VramError): boolean =>
  isBroken(error) || error.code === "SERVICE_BUSY" || error.code === "SERVICE_STOPPING";

/**
 * The feed of a service. Ends without an error when the signal fires. The first connection has to succeed; later ones are
 * tried again, up to ten times in a row.
 */
export async function* readFeed(
  transport: Transport,
  options: FeedOptions,
  pause: Pause = realPause,
): AsyncGenerator<FeedItem, void, undefined> {
  const { signal } = options;
  const hasEnded = (): boolean => signal?.aborted === true;
  let lastId = options.after;
  let wasOpen = false;
  for (let attempts = 0; !hasEnded(); attempts += 1) {
    if (attempts > 0) await pause(Math.min(WAIT_MS * 2 ** (attempts - 1), WAIT_MAX_MS), signal);
    const stream = await connect(transport, options, lastId).catch((thrown: unknown) => toVramError(thrown));
    if (hasEnded()) return;
    if (stream instanceof VramError) {
      if (!wasOpen || !mayPass(stream) || attempts >= ATTEMPTS) throw stream;
      continue;
    }
    wasOpen = true;
    try {
      for await (const event of eventsOf(stream, transport.where)) {
        lastId = event.id ?? lastId;
        const item = itemOf(event, transport.where);
        if (item === undefined) continue;
        attempts = 0;
        yield item;
      }
    } finally {
      stream.destroy();
    }
    if (attempts >= ATTEMPTS) throw brokenFeed(transport.where);
  }
}
