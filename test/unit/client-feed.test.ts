/** The feed of the client: events as they are cut, connections that break, gaps, and what is no feed of ours. */
import { describe, expect, it } from "vitest";
import { readEvents, type ServerEvent } from "../../src/client/events.ts";
import { type FeedItem, type FeedOptions, openClient } from "../../src/client.ts";
import { eventOf, openStub, problemOf, type Stub, type StubRoute, stubFeed } from "../helpers/stub-service.ts";
import { codeOf } from "../helpers/vram.ts";

async function eventsOf(...chunks: (string | Uint8Array)[]): Promise<ServerEvent[]> {
  async function* source(): AsyncGenerator<Uint8Array> {
    for (const chunk of chunks) yield typeof chunk === "string" ? Buffer.from(chunk) : chunk;
  }
  const events: ServerEvent[] = [];
  for await (const event of readEvents(source())) events.push(event);
  return events;
}

describe("server-sent events", () => {
  it("are read however they are cut", async () => {
    const text =
      'id: a-1\r\nevent: x\r\ndata: {"a":\r\ndata: "ä"}\r\n\r\n:alive\nretry: 5\nodd\n\ndata\n\nid: a\0b\ndata:y\n\n';
    const whole = await eventsOf(text);
    expect(whole).toEqual([
      { id: "a-1", event: "x", data: '{"a":\n"ä"}' },
      { id: "a-1", event: "", data: undefined },
      { id: "a-1", event: "", data: "" },
      { id: "a-1", event: "", data: "y" },
    ]);
    const bytes = Buffer.from(text);
    for (const size of [1, 2, 3, 7]) {
      const parts = Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) =>
        bytes.subarray(at * size, at * size + size),
      );
      expect(await eventsOf(...parts)).toEqual(whole);
    }
    expect(await eventsOf("data: unfinished\n")).toEqual([]);
  });

  it("have a bound, as lines and as events", async () => {
    const long = "x".repeat(600_000);
    await expect(eventsOf(long, long)).rejects.toThrow("a line that is too long");
    await expect(eventsOf(`data: ${long}${long}\n`)).rejects.toThrow("an event that is too long");
    await expect(eventsOf(`data: ${long}\ndata: ${long}\n`)).rejects.toThrow("an event that is too long");
  });
});

interface Reading {
  readonly stub: Stub;
  readonly items: FeedItem[];
  readonly waits: number[];
  readonly stop: AbortController;
  readonly ended: Promise<void>;
  /** Resolves when so many items have come. */
  until(count: number): Promise<void>;
}

async function follow(route: StubRoute, options: FeedOptions = {}): Promise<Reading> {
  const stub = await openStub({ "GET /v1/feed": route });
  const [items, waits]: [FeedItem[], number[]] = [[], []];
  const stop = new AbortController();
  let wake: (() => void) | undefined;
  const pause = async (ms: number): Promise<void> => void waits.push(ms);
  const client = openClient({ socket: stub.socket }, { pause });
  const ended = (async () => {
    for await (const item of client.feed({ ...options, signal: stop.signal })) {
      items.push(item);
      wake?.();
    }
  })();
  ended.catch(() => undefined);
  const until = async (count: number): Promise<void> => {
    while (items.length < count) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  return { stub, items, waits, stop, ended, until };
}

const entry = (seq: number): { type: string; seq: number } => ({ type: "upload_progressed", seq });

describe("the feed", () => {
  it("asks for what is wanted, tells entries and gaps, and ends with its signal", async () => {
    const feed = stubFeed();
    const reading = await follow(feed.route, { correlationId: "c 1", types: ["a", "b"], after: "i-6" });
    await feed.send(eventOf("i-7", { ...entry(7), name: "m" }));
    await feed.send('event: gap\ndata: {"entries":3,"because":"dropped"}\n\n');
    await reading.until(2);
    expect(reading.items).toEqual([
      { kind: "entry", id: "i-7", entry: { ...entry(7), name: "m" } },
      { kind: "gap", id: "i-7", entries: 3, because: "dropped" },
    ]);
    reading.stop.abort();
    await reading.ended;
    expect(reading.stub.asked.map(({ route }) => route)).toEqual(["GET /v1/feed?correlationId=c+1&types=a%2Cb"]);
    expect(reading.stub.asked[0]?.headers).toMatchObject({ accept: "text/event-stream", "last-event-id": "i-6" });
  });

  it("goes on behind the last entry after a connection that broke, ended, or was refused for a moment", async () => {
    const feed = stubFeed();
    const route: StubRoute = (_asked, nth) =>
      nth === 2 ? problemOf("SERVICE_STOPPING", { status: 503 }) : (feed.route as never);
    const reading = await follow(route);
    await feed.send(eventOf("i-1", entry(1)));
    await reading.until(1);
    await feed.end("broken");
    await feed.send(": nothing new\nid: i-5\n\n");
    await feed.end();
    await feed.send(eventOf("i-6", entry(6)));
    await reading.until(2);
    reading.stop.abort();
    await reading.ended;
    expect(feed.after).toEqual([undefined, "i-1", "i-5"]);
    expect(reading.items.map((item) => item.kind === "entry" && item.entry.seq)).toEqual([1, 6]);
    expect(reading.waits).toEqual([250, 500, 1000]);
  });

  it("does not go on by itself where that cannot help", async () => {
    const cases: [StubRoute, string][] = [
      [problemOf("FORBIDDEN", { status: 403 }), "FORBIDDEN"],
      [problemOf("SERVICE_BUSY", { status: 429 }), "SERVICE_BUSY"],
      [{ text: "data: {}\n\n" }, "SERVICE_UNREACHABLE"],
      [{ text: "data: {}\n\n", type: "text/event-stream" }, "SERVICE_UNREACHABLE"],
      [{ text: `data: ${"x".repeat(1_100_000)}`, type: "text/event-stream" }, "SERVICE_UNREACHABLE"],
    ];
    for (const [route, code] of cases) {
      const reading = await follow(route);
      expect(await codeOf(reading.ended)).toBe(code);
      expect(reading.stub.asked).toHaveLength(1);
    }
    const gone = await follow({ text: "", type: "text/event-stream" });
    expect(await codeOf(gone.ended)).toBe("SERVICE_UNREACHABLE");
    expect(gone.stub.asked).toHaveLength(11);
    expect(gone.waits).toEqual([250, 500, 1000, 2000, 4000, 8000, 8000, 8000, 8000, 8000]);
  });

  it("gives up when the service stays away, and waits no longer when it is stopped", async () => {
    const feed = stubFeed();
    const reading = await follow(feed.route);
    await feed.send(eventOf("i-1", entry(1)));
    await reading.until(1);
    await reading.stub.close();
    expect(await codeOf(reading.ended)).toBe("SERVICE_UNREACHABLE");
    expect(reading.waits).toHaveLength(10);

    const { socket } = await openStub({ "GET /v1/feed": { text: "", type: "text/event-stream" } });
    const stop = new AbortController();
    const client = openClient({ socket });
    const waiting = (async () => {
      for await (const _ of client.feed({ signal: stop.signal }));
    })();
    setImmediate(() => stop.abort());
    await waiting;
    for await (const _ of client.feed({ signal: AbortSignal.abort() })) expect.unreachable();
  });
});
