/** The feed: what is kept, what a reader who comes back is told, and what one who is too slow is. */
import { describe, expect, it } from "vitest";
import type { Entry } from "../../src/journal/entry.ts";
import { createFeed } from "../../src/service/feed.ts";
import type { FeedItem } from "../../src/service/service.ts";

const entry = (seq: number, type: Entry["type"] = "heartbeat"): Entry =>
  ({ type, seq, timeMs: 0, durability: "transient", gates: false }) as Entry;

const told = (item: FeedItem): number | string => (item.kind === "gap" ? `gap ${item.entries}` : item.entry.seq);

/** The next `count` items. */
async function take(
  items: AsyncIterable<FeedItem>,
  count: number,
  stop: AbortController,
): Promise<(number | string)[]> {
  const taken: (number | string)[] = [];
  for await (const item of items) {
    taken.push(told(item));
    if (taken.length === count) stop.abort();
  }
  return taken;
}

describe("the feed", () => {
  it("begins with what comes, continues where one stopped, and leaves out what nobody follows", async () => {
    const feed = createFeed();
    for (const seq of [1, 2, 3]) void feed.reader.accept(entry(seq));
    const stop = new AbortController();
    const fresh = take(feed.read(feed.newest(), stop.signal), 2, stop);
    void feed.reader.accept(entry(4));
    void feed.reader.accept(entry(5, "request_served"));
    void feed.reader.accept(entry(6));
    expect(await fresh).toEqual([4, 6]);
    const again = new AbortController();
    expect(await take(feed.read(1, again.signal), 4, again)).toEqual([2, 3, 4, 6]);
  });

  it("tells a reader how much he missed, and bounds what is kept", async () => {
    const feed = createFeed(10);
    for (let seq = 1; seq <= 100; seq += 1) void feed.reader.accept(entry(seq));
    const stop = new AbortController();
    const taken = await take(feed.read(0, stop.signal), 3, stop);
    expect(taken[0]).toMatch(/^gap \d+$/);
    const first = Number(taken[1]);
    expect(taken[0]).toBe(`gap ${first - 1}`);
    expect(first).toBeGreaterThan(80);
    expect(taken[2]).toBe(first + 1);
  });

  it("ends for a reader who goes away while he waits", async () => {
    const stop = new AbortController();
    const waiting = take(createFeed().read(0, stop.signal), 1, stop);
    stop.abort();
    expect(await waiting).toEqual([]);
  });
});
