/**
 * The live view of the journal over HTTP, as server-sent events (WHATWG HTML, "Server-sent events"): `id` is the start
 * of the service and the entry's number, so that a client that comes back goes on where it was, and is told of a gap
 * where it cannot. A client that does not read costs a bounded buffer and a bounded time.
 */

import type { ServerResponse } from "node:http";
import { firstOf } from "../../clock.ts";
import { VramError } from "../../errors.ts";
import type { Entry } from "../../journal/entry.ts";
import type { FeedItem, Service } from "../service.ts";
import { type Exchange, type Timing, writeHead } from "./exchange.ts";

export const FEED_TYPE = "text/event-stream";

/** What a client wants to see. */
export interface FeedRequest {
  readonly kind: "feed";
  /** The number of the last entry it has; undefined: from now on. */
  readonly after: number | undefined;
  /** It comes from another start of the service, whose entries are gone. */
  readonly isElsewhere: boolean;
  readonly correlationId: string | undefined;
  readonly types: ReadonlySet<string> | undefined;
}

const EVENT_ID = /^([A-Za-z0-9_.-]{1,128})-(0|[1-9][0-9]{0,14})$/;
const TYPES = /^[a-z_]{1,64}(?:,[a-z_]{1,64})*$/;

const invalid = (argument: string, message: string): VramError =>
  new VramError("INVALID_ARGUMENT", message, { details: { argument } });

/** Reads where a client was, and what it wants to see. */
export function feedRequest(
  instanceId: string,
  lastEventId: string | undefined,
  query: { readonly correlationId?: string | undefined; readonly types?: string | undefined },
): FeedRequest {
  const { correlationId, types } = query;
  if (types !== undefined && !TYPES.test(types))
    throw invalid("types", "types are names of entries, with commas between");
  const wanted = { correlationId, types: types === undefined ? undefined : new Set(types.split(",")) };
  if (lastEventId === undefined || lastEventId === "") {
    return { kind: "feed", after: undefined, isElsewhere: false, ...wanted };
  }
  const [, instance, seq] = EVENT_ID.exec(lastEventId) ?? [];
  if (instance === undefined) throw invalid("Last-Event-ID", "this is no id of a feed");
  const isElsewhere = instance !== instanceId;
  return { kind: "feed", after: isElsewhere ? 0 : Number(seq), isElsewhere, ...wanted };
}

const eventText = (event: string, data: unknown, id?: string): string =>
  `${id === undefined ? "" : `id: ${id}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;

const isWanted = ({ correlationId, types }: FeedRequest, entry: Entry): boolean =>
  (correlationId === undefined || entry.correlationId === correlationId) && (types?.has(entry.type) ?? true);

/** Resolves when the client has taken what was written; rejects if it takes nothing for `stallMs`, or is gone. */
function drained(outgoing: ServerResponse, stallMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (end: () => void) => () => {
      clearTimeout(timer);
      outgoing.off("drain", onDrain).off("close", onClose);
      end();
    };
    const gone = (): void => reject(new VramError("ABORTED", "the client does not read its feed"));
    const onDrain = settle(resolve);
    const onClose = settle(gone);
    const timer = setTimeout(settle(gone), stallMs);
    outgoing.on("drain", onDrain).on("close", onClose);
  });
}

/** Writes a feed until the client goes away, does not read, or `ended` fires. Never rejects: its head has been sent. */
export async function writeFeed(
  exchange: Exchange,
  request: FeedRequest,
  { service, timing, ended }: { readonly service: Service; readonly timing: Timing; readonly ended: AbortSignal },
): Promise<void> {
  const { outgoing } = exchange;
  const signal = firstOf(exchange.signal, ended);
  /** The last entry looked at: also one that is not wanted moves the place to go on from. */
  let seq: number | undefined;
  const idOf = (at: number): string => `${service.instanceId}-${at}`;
  const write = async (text: string): Promise<void> => {
    if (!outgoing.write(text)) await drained(outgoing, timing.stallMs);
  };
  const textOf = (item: FeedItem): string | undefined => {
    if (item.kind === "gap") return eventText("gap", { entries: item.entries, because: "dropped" });
    seq = item.entry.seq;
    return isWanted(request, item.entry) ? eventText(item.entry.type, item.entry, idOf(seq)) : undefined;
  };
  const keepAlive = setInterval(() => {
    if (outgoing.writableNeedDrain) return;
    outgoing.write(`: nothing new\n${seq === undefined ? "" : `id: ${idOf(seq)}\n`}\n`);
  }, timing.keepAliveMs);

  writeHead(exchange, 200, { "Content-Type": FEED_TYPE, "X-Accel-Buffering": "no" });
  outgoing.flushHeaders();
  try {
    if (request.isElsewhere) await write(eventText("gap", { entries: 0, because: "restarted" }));
    // Whoever breaks off before the first entry knows where he was.
    const after = request.after ?? service.feed.newest();
    if (request.after === undefined) await write(`id: ${idOf(after)}\n\n`);
    for await (const item of service.feed.read(after, signal)) {
      const text = textOf(item);
      if (text !== undefined) await write(text);
    }
    outgoing.end();
  } catch {
    outgoing.destroy();
  } finally {
    clearInterval(keepAlive);
  }
}
