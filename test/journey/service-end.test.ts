/** Requests that take a while: their turn, clients that do not wait for them, and the end of the service meanwhile. */
import { describe, expect, it } from "vitest";
import type { Plan } from "../../src/service/replies.ts";
import { ask, bearer, begin, OPERATE, open, openTestServer, readAll, USE } from "../helpers/http.ts";

/** A plan that is answered when the test says so. */
function slowPlan(test: Awaited<ReturnType<typeof openTestServer>>) {
  let answer: () => void = () => undefined;
  let started: () => void = () => undefined;
  const begun = new Promise<void>((resolve) => {
    started = resolve;
  });
  const caller = { transport: "socket", scope: "use", name: "" } as const;
  test.service.instead.plan = async (request) => {
    delete test.service.instead.plan;
    const result = await test.service.plan(request, caller);
    started();
    return new Promise<Plan>((resolve) => {
      answer = () => resolve(result);
    });
  };
  return { begun, answer: () => answer() };
}

describe("[VR-API-03] the end", () => {
  const body = { path: "/a" };

  it("refuses what is new, lets leases be given back, and answers health, while it drains", async () => {
    const { server, socketPath } = await openTestServer();
    server.drain();
    const refused = await ask({ socketPath }, "/v1/leases", { method: "POST", body: { shard: "model" } });
    expect([refused.problem(), refused.headers["retry-after"]]).toMatchObject([
      { status: 503, code: "SERVICE_STOPPING" },
      "5",
    ]);
    expect((await ask({ socketPath }, "/v1/leases/lease-1", { method: "DELETE" })).status).toBe(200);
    expect((await ask({ socketPath }, "/v1/shards")).status).toBe(200);
    expect((await ask({ socketPath }, "/healthz")).status).toBe(200);
  });

  it("waits for requests at work, and ends idle connections at once", async () => {
    const test = await openTestServer();
    const idle = await open({ path: test.socketPath });
    const slow = slowPlan(test);
    const asked = ask({ socketPath: test.socketPath }, "/v1/plan", {
      method: "POST",
      body,
      headers: { connection: "keep-alive" },
    });
    await slow.begun;
    const closed = test.server.close(60_000);
    await readAll(idle);
    slow.answer();
    expect((await asked).status).toBe(200);
    await closed;
  });

  it("ends requests that take longer than it waits", async () => {
    const test = await openTestServer();
    const slow = slowPlan(test);
    const asked = begin({ socketPath: test.socketPath }, "/v1/plan", { method: "POST", body });
    await slow.begun;
    await Promise.all([expect(asked).rejects.toThrow(/hang up|reset/), test.server.close(0)]);
    slow.answer();
  });

  it("tells a client that comes on a kept connection to go", async () => {
    const test = await openTestServer();
    const slow = slowPlan(test);
    const socket = await open({ path: test.socketPath });
    const text = readAll(socket);
    const post = `POST /v1/plan HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"path":"/a"}`;
    socket.write(post);
    await slow.begun;
    const closed = test.server.close(60_000);
    // Sent behind the one at work.
    socket.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    await expect.poll(() => test.service.notes.length).toBe(0);
    slow.answer();
    expect(await text).toContain("HTTP/1.1 200 OK");
    await closed;
  });
});

describe("requests that make a device work", () => {
  it("wait for their turn, are turned away beyond that, and leave when their client does", async () => {
    const test = await openTestServer({ "limits.requests": 1, "limits.waiting": 1 });
    const where = { port: test.port };
    const post = { method: "POST", body: { path: "/a" }, headers: bearer(OPERATE) };
    const slow = slowPlan(test);
    const first = ask(where, "/v1/plan", post);
    await slow.begun;
    const leaving = [new AbortController(), new AbortController()];
    const others = leaving.map(({ signal }) => ask(where, "/v1/plan", { ...post, signal }));
    const busy = await Promise.race(others);
    expect([busy.problem(), busy.headers["retry-after"]]).toMatchObject([
      { code: "SERVICE_BUSY", retriable: true },
      "1",
    ]);
    // Cheap ones are not among them.
    expect((await ask(where, "/v1/shards", { headers: bearer(USE) })).status).toBe(200);
    for (const controller of leaving) controller.abort();
    await Promise.allSettled(others);
    const waits = (): Promise<boolean> =>
      ask(where, "/v1/plan", { ...post, signal: AbortSignal.timeout(50) }).then(
        () => false,
        () => true,
      );
    await expect.poll(waits).toBe(true);
    slow.answer();
    expect((await first).status).toBe(200);
    await expect.poll(async () => (await ask(where, "/v1/plan", post)).status).toBe(200);
  });

  it.each(["/v1/shards/model/verifications", "/v1/leases"])("hear at %s that their client went away", async (path) => {
    const test = await openTestServer();
    const leaving = new AbortController();
    const heard = new Promise<unknown>((resolve) => {
      const until = (signal: AbortSignal) =>
        new Promise<never>((_, reject) => {
          leaving.abort();
          signal.addEventListener("abort", () => {
            reject(new Error("aborted"));
            resolve("heard");
          });
        });
      test.service.instead.verify = (_shard, _request, signal) => until(signal);
      test.service.instead.grant = (_request, _caller, signal) => until(signal);
    });
    const post = { method: "POST", body: path === "/v1/leases" ? { shard: "model" } : {}, signal: leaving.signal };
    await expect(begin({ socketPath: test.socketPath }, path, post)).rejects.toThrow(/aborted/);
    expect(await heard).toBe("heard");
  });

  it("a seal goes on without the client that waited for it", async () => {
    const test = await openTestServer({ "limits.requests": 1, "limits.waiting": 0 });
    const { operation } = await test.service.seal({ path: "/a" }, { transport: "socket", scope: "operate", name: "" });
    const leaving = new AbortController();
    test.service.instead.seal = async () => {
      leaving.abort();
      return { operation, ended: new Promise(() => undefined) };
    };
    const body = { path: "/a", wait: true };
    const waiting = begin({ socketPath: test.socketPath }, "/v1/shards", {
      method: "POST",
      body,
      signal: leaving.signal,
    });
    await expect(waiting).rejects.toThrow(/aborted/);
    // Its place is free again.
    await expect
      .poll(
        async () =>
          (await ask({ socketPath: test.socketPath }, "/v1/plan", { method: "POST", body: { path: "/a" } })).status,
      )
      .toBe(200);
  });
});
