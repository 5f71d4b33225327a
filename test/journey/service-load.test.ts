/** Many requests at once, decent ones and others, stay within the limits ("Shown by" 3 of the service). */
import http from "node:http";
import { afterEach, describe, expect, it } from "vitest";
import { LIMITS } from "../../src/limits.ts";
import { post } from "../helpers/abuse.ts";
import { type Ask, ask, bearer, OPERATE, open, openTestServer, randomText, readAll, USE } from "../helpers/http.ts";

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

  it("requests sent on one connection without waiting for answers are so many", async () => {
    const test = await openTestServer();
    let answer: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      answer = resolve;
    });
    const state = await test.service.ready();
    test.service.calls.length = 0;
    test.service.instead.ready = async () => {
      await held;
      return state;
    };
    const socket = await open({ path: test.socketPath });
    const text = readAll(socket);
    const one = "GET /v1/ready HTTP/1.1\r\nHost: x\r\n";
    const count = LIMITS.servicePipelined + 4;
    for (let sent = 1; sent < count; sent += 1) socket.write(`${one}\r\n`);
    socket.write(`${one}Connection: close\r\n\r\n`);
    await expect.poll(() => test.service.calls.length).toBe(LIMITS.servicePipelined);
    answer();
    const statuses = [...(await text).matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status);
    expect(statuses).toEqual([...Array<string>(LIMITS.servicePipelined).fill("200"), "429", "429", "429", "429"]);
  });

  it("those that wait behind another's answer hear that their client went away", async () => {
    const test = await openTestServer();
    const heard: AbortSignal[] = [];
    test.service.instead.verify = (_shard, _request, signal) => {
      heard.push(signal);
      return new Promise((_, reject) => {
        signal.addEventListener("abort", () => reject(new Error("aborted")));
      });
    };
    const socket = await open({ path: test.socketPath });
    socket.write("POST /v1/shards/model/verifications HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3));
    await expect.poll(() => heard.length).toBe(3);
    socket.destroy();
    await expect.poll(() => heard.map(({ aborted }) => aborted)).toEqual([true, true, true]);
  });

  it("an answer that nobody takes is given up", async () => {
    const test = await openTestServer({}, { timing: { keepAliveMs: 60_000, stallMs: 50 } });
    const note = "x".repeat(20_000_000);
    test.service.instead.logCheckpoint = async () => note;
    const socket = await open({ path: test.socketPath });
    socket.write("GET /v1/audit/checkpoint HTTP/1.1\r\nHost: x\r\n\r\n");
    await expect.poll(() => test.service.notes).toMatchObject([{ type: "request_served", status: 200 }]);
    expect((await readAll(socket)).length).toBeLessThan(note.length);
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
