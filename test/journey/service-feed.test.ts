/** The feed over HTTP: what a client sees, where it goes on, and what becomes of one that does not read. */
import { once } from "node:events";
import { describe, expect, it } from "vitest";
import type { Entry, EntryBody } from "../../src/journal/entry.ts";
import { LIMITS } from "../../src/limits.ts";
import type { Timing } from "../../src/service/http/exchange.ts";
import { INSTANCE } from "../helpers/fake-service.ts";
import { ask, begin, open, openTestServer, readAll, type TestServer } from "../helpers/http.ts";

const failed = (what: string): EntryBody => ({ type: "release_failed", what, message: "" });
const QUIET: Timing = { keepAliveMs: 60_000, stallMs: 60_000 };

/** A client of the feed: its blocks, as they come. */
async function follow(test: TestServer, path = "/v1/feed", headers: Readonly<Record<string, string>> = {}) {
  const answer = await begin({ socketPath: test.socketPath }, path, { headers });
  answer.setEncoding("utf8");
  let text = "";
  answer.on("data", (chunk) => {
    text += String(chunk);
  });
  const all = (): readonly string[] => text.split("\n\n").slice(0, -1);
  /** Without the first place, which is told before anything happens. */
  const blocks = (): readonly string[] => all().filter((one, index) => index > 0 || !/^id: \S+$/.test(one));
  return {
    answer,
    blocks,
    /** The place that was told first. */
    place: async (): Promise<string> => {
      while (all().length === 0) await once(answer, "data");
      return all()[0]?.replace("id: ", "") ?? "";
    },
    /** Resolves when so many have come. */
    until: async (count: number): Promise<readonly string[]> => {
      while (blocks().length < count) await once(answer, "data");
      return blocks();
    },
  };
}

const block = (entry: Entry): string =>
  `id: ${INSTANCE}-${entry.seq}\nevent: ${entry.type}\ndata: ${JSON.stringify(entry)}`;

describe("[VR-API-01] the feed", () => {
  it("tells entries as they happen", async () => {
    const test = await openTestServer();
    test.service.feed.append(failed("before"));
    const feed = await follow(test);
    expect([feed.answer.statusCode, feed.answer.headers["content-type"]]).toEqual([200, "text/event-stream"]);
    await expect.poll(test.service.feed.readers).toBe(1);
    const entries = [test.service.feed.append(failed("a\nb")), test.service.feed.append(failed("c"))];
    expect(await feed.until(2)).toEqual(entries.map(block));
    feed.answer.destroy();
    await expect.poll(test.service.feed.readers).toBe(0);
    await expect.poll(() => test.service.notes).toMatchObject([{ type: "request_served", route: "GET /v1/feed" }]);
  });

  it("goes on behind the last entry that a client has", async () => {
    const test = await openTestServer();
    const entries = ["a", "b", "c"].map((what) => test.service.feed.append(failed(what)));
    const feed = await follow(test, "/v1/feed", { "last-event-id": `${INSTANCE}-1` });
    expect(await feed.until(2)).toEqual(entries.slice(1).map(block));
    // Whoever breaks off before anything happens misses nothing either.
    const idle = await follow(test);
    const place = await idle.place();
    idle.answer.destroy();
    const missed = test.service.feed.append(failed("d"));
    const again = await follow(test, "/v1/feed", { "last-event-id": place });
    expect(await again.until(1)).toEqual([block(missed)]);
  });

  it("tells of a gap where entries are not kept any more, or are those of an earlier start", async () => {
    const test = await openTestServer({}, { kept: 2 });
    const entries = ["a", "b", "c", "d"].map((what) => test.service.feed.append(failed(what)));
    const dropped = 'event: gap\ndata: {"entries":1,"because":"dropped"}';
    const feed = await follow(test, "/v1/feed", { "last-event-id": `${INSTANCE}-1` });
    expect(await feed.until(3)).toEqual([dropped, ...entries.slice(2).map(block)]);
    const restarted = 'event: gap\ndata: {"entries":0,"because":"restarted"}';
    const other = await follow(test, "/v1/feed", { "last-event-id": "another-1" });
    expect(await other.until(4)).toEqual([restarted, dropped.replace("1", "2"), ...entries.slice(2).map(block)]);
  });

  it("tells what a client asks for, and its place among the others when nothing happens", async () => {
    const test = await openTestServer({}, { timing: { ...QUIET, keepAliveMs: 20 } });
    const feed = await follow(test, "/v1/feed?correlationId=mine&types=release_failed,heartbeat");
    await expect.poll(test.service.feed.readers).toBe(1);
    expect(await feed.until(1)).toEqual([": nothing new"]);
    test.service.feed.append(failed("not mine"), "other");
    test.service.feed.append({ type: "audit_failed", message: "", final: false }, "mine");
    const wanted = [failed("mine"), { type: "heartbeat" } as const].map((body) =>
      test.service.feed.append(body, "mine"),
    );
    test.service.feed.append(failed("not mine"), "other");
    await expect.poll(feed.blocks).toContain(`: nothing new\nid: ${INSTANCE}-5`);
    expect(feed.blocks().filter((text) => text.startsWith("id"))).toEqual(wanted.map(block));
  });

  it.each([
    ["/v1/feed?types=A", {}],
    ["/v1/feed?types=a,,b", {}],
    ["/v1/feed", { "last-event-id": "x" }],
    ["/v1/feed", { "last-event-id": `${INSTANCE}-01` }],
  ])("refuses %s with %o", async (path, headers) => {
    const { socketPath } = await openTestServer();
    const reply = await ask({ socketPath }, path, { headers });
    expect(reply.problem()).toMatchObject({ status: 400, code: "INVALID_ARGUMENT" });
  });

  it("takes an empty id for none, as a browser would send it", async () => {
    const test = await openTestServer();
    const feed = await follow(test, "/v1/feed", { "last-event-id": "" });
    await expect.poll(test.service.feed.readers).toBe(1);
    const entry = test.service.feed.append(failed("a"));
    expect(await feed.until(1)).toEqual([block(entry)]);
  });

  it("has room for so many clients", async () => {
    const test = await openTestServer();
    const feeds = await Promise.all(Array.from({ length: LIMITS.serviceFeeds }, () => follow(test)));
    const reply = await ask({ socketPath: test.socketPath }, "/v1/feed");
    expect(reply.problem()).toMatchObject({ status: 429, code: "SERVICE_BUSY" });
    expect(reply.headers["retry-after"]).toBe("1");
    feeds[0]?.answer.destroy();
    await expect.poll(test.service.feed.readers).toBe(LIMITS.serviceFeeds - 1);
    expect((await follow(test)).answer.statusCode).toBe(200);
  });

  it("ends a client that does not read", async () => {
    const test = await openTestServer({}, { kept: 10_000, timing: { keepAliveMs: 10, stallMs: 50 } });
    const socket = await open({ path: test.socketPath });
    socket.write(`GET /v1/feed HTTP/1.1\r\nHost: x\r\n\r\n`);
    await expect.poll(test.service.feed.readers).toBe(1);
    // More than the buffers of a socket hold.
    for (let sent = 0; sent < 200; sent += 1) test.service.feed.append(failed("x".repeat(10_000)));
    await expect.poll(test.service.feed.readers).toBe(0);
    expect((await readAll(socket)).length).toBeLessThan(2_000_000);
  });

  it("ends a client that goes away while it does not read", async () => {
    const test = await openTestServer({}, { kept: 10_000, timing: QUIET });
    const socket = await open({ path: test.socketPath });
    socket.write(`GET /v1/feed HTTP/1.1\r\nHost: x\r\n\r\n`);
    await expect.poll(test.service.feed.readers).toBe(1);
    for (let sent = 0; sent < 200; sent += 1) test.service.feed.append(failed("x".repeat(10_000)));
    socket.destroy();
    await expect.poll(test.service.feed.readers).toBe(0);
  });

  it("ends when the service stops, and begins no more", async () => {
    const test = await openTestServer();
    const feed = await follow(test);
    test.server.drain();
    expect((await ask({ socketPath: test.socketPath }, "/v1/feed")).problem().code).toBe("SERVICE_STOPPING");
    const ended = once(feed.answer, "end");
    test.server.stopAccepting();
    await ended;
    await test.server.close();
  });

  it("ends when the service's feed fails", async () => {
    const test = await openTestServer();
    Object.assign(test.service.feed, {
      read: () => {
        throw new Error("no feed");
      },
    });
    await expect(ask({ socketPath: test.socketPath }, "/v1/feed")).rejects.toThrow(/aborted|hang up/);
  });
});
