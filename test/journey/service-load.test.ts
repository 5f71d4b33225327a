/** Many requests at once, decent ones and others, stay within the limits ("Shown by" 3 of the service). */
import http from "node:http";
import { afterEach, describe, expect, it } from "vitest";
import { LIMITS } from "../../src/limits.ts";
import { post } from "../helpers/abuse.ts";
import { type Ask, ask, bearer, OPERATE, openTestServer, randomText, USE } from "../helpers/http.ts";

describe("many at once", () => {
  const agents: http.Agent[] = [];
  afterEach(() => {
    for (const agent of agents.splice(0)) agent.destroy();
  });

  /** Requests of all kinds, decent and not; none of them ends in a server error that is not meant. */
  const MIXED: readonly [string, Ask][] = [
    ["/v1/shards", { headers: bearer(USE) }],
    ["/v1/shards/model", { headers: bearer(USE) }],
    ["/v1/shards/nothing", { headers: bearer(USE) }],
    ["/v1/plan", { ...post('{"path":"/a"}'), headers: bearer(USE) }],
    ["/v1/leases", { ...post('{"shard":"model"}'), headers: bearer(USE) }],
    ["/v1/leases", { ...post(`{"shard":"${"x".repeat(2000)}"}`), headers: bearer(USE) }],
    ["/v1/shards", { ...post("{"), headers: bearer(OPERATE) }],
    ["/v1/shards", { headers: bearer("nobody") }],
    ["/v1/leases", { headers: bearer(USE) }],
    ["/v1/plan", { ...post(" ".repeat(70_000)), headers: bearer(USE) }],
    ["/v1/shards/%zz", { headers: bearer(USE) }],
    ["/healthz", { headers: { host: "evil.example" } }],
    ["/metrics", { headers: bearer(USE) }],
    ["/nowhere", {}],
  ];

  it("256 connections and 10,000 requests meet no error but those that are meant, and leave nothing behind", async () => {
    const test = await openTestServer({ "limits.requests": 8, "limits.waiting": 32 });
    const agent = new http.Agent({ keepAlive: true, maxSockets: LIMITS.serviceConnections });
    agents.push(agent);
    const statuses = new Map<number, number>();
    const before = process.memoryUsage().heapUsed;
    let next = 0;
    const client = async (): Promise<void> => {
      for (let at = next++; at < 10_000; at = next++) {
        const [path, options] = MIXED[at % MIXED.length] ?? ["/healthz", {}];
        const { status } = await ask({ port: test.port }, path, { ...options, agent });
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
        // What the fake writes down is not the server's.
        if (at % 100 === 0) [test.service.notes.length, test.service.calls.length] = [0, 0];
      }
    };
    await Promise.all(Array.from({ length: LIMITS.serviceConnections }, client));
    expect([...statuses.values()].reduce((sum, count) => sum + count)).toBe(10_000);
    const known = [200, 201, 400, 401, 403, 404, 413, 421, 429, 503];
    expect([...statuses.keys()].filter((status) => !known.includes(status))).toEqual([]);
    expect(test.reports).toEqual([]);
    agent.destroy();
    await test.server.close();
    globalThis.gc?.();
    // Without a collection on demand this includes garbage: 10,000 requests of 64 KiB each would be 640 MiB.
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(128 * 1024 * 1024);
  });

  it("a token that is guessed is told apart from none by nothing", async () => {
    const test = await openTestServer();
    const guesses = Array.from({ length: 20 }, () => `vram_operate_${randomText(42)}x`);
    const replies = await Promise.all(
      guesses.map((guess) =>
        ask({ port: test.port }, "/v1/shards", { headers: { ...bearer(guess), "x-correlation-id": "a" } }),
      ),
    );
    expect(new Set(replies.map(({ text }) => text)).size).toBe(1);
  });
});
