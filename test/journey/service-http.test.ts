/** The service over HTTP: every route on every listener, who may use it, and what an answer looks like. */
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { VramError } from "../../src/errors.ts";
import { withCorrelation } from "../../src/journal/scope.ts";
import { SECURITY_HEADERS } from "../../src/service/http/exchange.ts";
import { nameOf, type Route } from "../../src/service/http/route.ts";
import { ROUTES } from "../../src/service/http/routes.ts";
import {
  ask,
  bearer,
  OPERATE,
  openTestServer,
  type Reply,
  type TestServer,
  UID,
  USE,
  type Where,
} from "../helpers/http.ts";

/** A request that each route answers, by its name. */
const REQUESTS: Readonly<Record<string, { readonly path: string; readonly body?: unknown; readonly status?: number }>> =
  {
    "POST /v1/plan": { path: "/v1/plan", body: { path: "/models/a.safetensors" } },
    "POST /v1/shards": { path: "/v1/shards", body: { path: "/models/a.safetensors" }, status: 202 },
    "GET /v1/shards": { path: "/v1/shards" },
    "GET /v1/shards/{shard}": { path: "/v1/shards/org%2Fmodel:7b" },
    "DELETE /v1/shards/{shard}": { path: "/v1/shards/model?revoke=true" },
    "POST /v1/shards/{shard}/verifications": {
      path: "/v1/shards/gr%C3%B6%C3%9Fe/verifications",
      body: { maxAgeMs: 0 },
    },
    "GET /v1/operations/{operation}": { path: "/v1/operations/op-aaaaaaaaaaaaaaaaaaaaaaaaaa" },
    "DELETE /v1/operations/{operation}": { path: "/v1/operations/op-aaaaaaaaaaaaaaaaaaaaaaaaaa" },
    "POST /v1/leases": { path: "/v1/leases", body: { shard: "model" }, status: 201 },
    "GET /v1/leases": { path: "/v1/leases" },
    "GET /v1/leases/{lease}": { path: "/v1/leases/lease-1" },
    "POST /v1/leases/{lease}/renewals": { path: "/v1/leases/lease-1/renewals", body: { maxAgeMs: 5 } },
    "DELETE /v1/leases/{lease}": { path: "/v1/leases/lease-1" },
    "POST /v1/statements": { path: "/v1/statements", body: { shard: "model", nonce: "ab".repeat(16) }, status: 201 },
    "GET /v1/statement-keys": { path: "/v1/statement-keys" },
    "POST /v1/statement-keys": { path: "/v1/statement-keys", body: { reason: "yearly" }, status: 201 },
    "POST /v1/resume": { path: "/v1/resume", body: { reason: "looked at it" } },
    "GET /v1/ready": { path: "/v1/ready" },
    "GET /v1/devices": { path: "/v1/devices" },
    "GET /v1/audit/checkpoint": { path: "/v1/audit/checkpoint" },
    "GET /v1/audit/entries": { path: "/v1/audit/entries?last=1" },
    "GET /v1/audit/proofs/{seq}": { path: "/v1/audit/proofs/7" },
    "GET /metrics": { path: "/metrics" },
    "GET /healthz": { path: "/healthz" },
    "GET /readyz": { path: "/readyz" },
    "GET /v1/openapi.json": { path: "/v1/openapi.json" },
  };
/** The feed does not end by itself; test/journey/service-feed.test.ts has it. */
const ANSWERED = ROUTES.filter(({ operationId }) => operationId !== "readFeed");
const named = (routes: readonly Route[]): (readonly [string, Route])[] => routes.map((route) => [nameOf(route), route]);

function send(
  where: Where,
  { method, ...route }: Route,
  headers: Readonly<Record<string, string>> = {},
): Promise<Reply> {
  const request = REQUESTS[nameOf({ method, path: route.path })] ?? { path: "missing" };
  return ask(where, request.path, { method, body: request.body, headers });
}

/** What an answer of this route and status is. */
function expectOutcome(reply: Reply, route: Route): void {
  const status = REQUESTS[nameOf(route)]?.status ?? 200;
  expect(reply.status).toBe(status);
  const outcome = route.outcomes.find((one) => one.status === status);
  expect(reply.headers["content-type"]).toBe(outcome?.type);
  if (outcome?.schema !== undefined) expect(z.strictObject({ answer: outcome.schema }).parse({ answer: reply.json() }));
  for (const [name, value] of Object.entries(SECURITY_HEADERS)) expect(reply.headers[name.toLowerCase()]).toBe(value);
  expect(Object.keys(reply.headers).filter((name) => /^(access-control|server$|x-powered)/.test(name))).toEqual([]);
}

const served = ({ service }: TestServer) => service.notes.filter(({ type }) => type === "request_served");

describe("[VR-API-01] the routes", () => {
  it.each(named(ANSWERED))("%s answers its owner on the socket", async (name, route) => {
    const test = await openTestServer();
    const reply = await send({ socketPath: test.socketPath }, route);
    expectOutcome(reply, route);
    await expect.poll(() => served(test)).toMatchObject([{ route: name, status: reply.status, transport: "socket" }]);
    expect(test.service.notes).toHaveLength(1);
  });

  it.each(named(ANSWERED))("[VR-API-02] %s takes a token with its scope over TCP", async (name, route) => {
    const { service, port } = await openTestServer();
    const isOpen = route.scope === "open";
    const without = await send({ port }, route);
    expect(without.status).toBe(isOpen ? (REQUESTS[name]?.status ?? 200) : 401);
    const used = await send({ port }, route, bearer(USE));
    const operated = await send({ port }, route, bearer(OPERATE));
    expectOutcome(operated, route);
    if (route.scope === "operate") {
      expect(used.problem()).toMatchObject({ status: 403, code: "FORBIDDEN", details: { failure: "wrong-scope" } });
      expect(service.calls).toHaveLength(1);
    } else expectOutcome(used, route);
    const failures = service.notes.filter(({ type }) => type === "auth_failed").map(({ failure }) => failure);
    const expected = { open: [], use: ["no-token"], operate: ["no-token", "wrong-scope"] };
    expect(failures).toEqual(expected[route.scope]);
  });

  it.each(named(ANSWERED))("%s is, or is not, where metrics are answered alone", async (name, route) => {
    const { metricsPort } = await openTestServer();
    const reply = await send({ port: metricsPort }, route);
    if (["GET /metrics", "GET /healthz", "GET /readyz"].includes(name)) expectOutcome(reply, route);
    else expect(reply.problem().status).toBe(404);
  });

  it("has a request here for every route", () => {
    expect(Object.keys(REQUESTS).sort()).toEqual(ANSWERED.map(nameOf).sort());
  });
});

describe("what the service is asked", () => {
  it("has names decoded, options read, and the caller by name", async () => {
    const { service, socketPath, port } = await openTestServer();
    await ask({ socketPath }, "/v1/shards/org%2Fmodel%3A7b?revoke=true", { method: "DELETE" });
    await ask({ socketPath }, "/v1/shards/model", { method: "DELETE" });
    await ask({ port }, "/v1/leases", { method: "POST", body: { shard: "model", holder: "me" }, headers: bearer(USE) });
    await ask({ socketPath }, "/v1/plan", { method: "POST", body: { path: "/a", shards: 2 } });
    await ask({ socketPath }, "/v1/audit/entries");
    expect(service.calls.map(({ name, args }) => [name, ...args.slice(0, 2)])).toEqual([
      ["evict", "org/model:7b", { revoke: true }],
      ["evict", "model", { revoke: false }],
      ["grant", { shard: "model", holder: "me" }, { transport: "tcp", scope: "use", name: "token 0a0a0a" }],
      ["plan", { path: "/a", shards: 2 }, { transport: "socket", scope: "operate", name: `uid ${UID}` }],
      ["logLines", 100],
    ]);
  });

  it("takes a request without a body as one without options", async () => {
    const { service, socketPath } = await openTestServer();
    const reply = await ask({ socketPath }, "/v1/leases/lease-1/renewals", { method: "POST" });
    expect(reply.status).toBe(200);
    expect(service.calls[0]?.args.slice(0, 2)).toEqual(["lease-1", {}]);
  });

  it("answers a seal at once, or with how it ended", async () => {
    const { socketPath } = await openTestServer();
    const body = { path: "/a" };
    const begun = await ask({ socketPath }, "/v1/shards", { method: "POST", body });
    const ended = await ask({ socketPath }, "/v1/shards", { method: "POST", body: { ...body, wait: true } });
    const location = "/v1/operations/op-aaaaaaaaaaaaaaaaaaaaaaaaaa";
    expect([begun.status, begun.headers.location, begun.json()]).toMatchObject([202, location, { state: "running" }]);
    expect([ended.status, ended.headers.location, ended.json()]).toMatchObject([201, location, { state: "succeeded" }]);
  });

  it.each([
    ["DIGEST_MISMATCH", 422, "DIGEST_MISMATCH"],
    ["A_CODE_OF_TOMORROW", 500, "INTERNAL"],
  ])("answers a seal that failed with %s with its problem", async (code, status, shown) => {
    const { service, socketPath } = await openTestServer();
    const { operation } = await service.seal({ path: "/a" }, { transport: "socket", scope: "operate", name: "" });
    const error = { code, message: "it did not", fix: "do", retriable: false, details: { at: 1 } };
    service.instead.seal = async () => ({
      operation,
      ended: Promise.resolve({ ...operation, state: "failed", error }),
    });
    const reply = await ask({ socketPath }, "/v1/shards", { method: "POST", body: { path: "/a", wait: true } });
    expect(reply.problem()).toMatchObject({ status, code: shown });
  });
});

describe("[VR-API-02] callers on the socket", () => {
  it.each([
    ["root", 0, undefined, [200, 200]],
    ["a member of the group", 2000, process.getgid?.(), [200, 403]],
    ["anyone else", 2000, undefined, [403, 403]],
    ["nobody knows who", undefined, process.getgid?.(), [403, 403]],
  ] as const)("%s", async (_, uid, groupId, [used, operated]) => {
    const { service, socketPath, peer } = await openTestServer({}, { groupId });
    peer.uid = uid;
    expect((await ask({ socketPath }, "/v1/shards")).status).toBe(used);
    expect((await ask({ socketPath }, "/v1/leases")).status).toBe(operated);
    const expected =
      uid === 0 ? [] : groupId === undefined || uid === undefined ? ["wrong-peer", "wrong-peer"] : ["wrong-scope"];
    const failed = service.notes.filter(({ type }) => type === "auth_failed");
    expect(failed.map(({ failure }) => failure)).toEqual(expected);
    if (uid === 2000) expect(failed[0]).toMatchObject({ transport: "socket", caller: "uid 2000" });
  });
});

describe("problems", () => {
  it("[VR-IN-04] tell code, fix and details, and when to come back", async () => {
    const { service, socketPath } = await openTestServer();
    const reply = await ask({ socketPath }, "/v1/shards/nothing", { headers: { "x-correlation-id": "work/1" } });
    expect(reply.headers["content-type"]).toBe("application/problem+json");
    expect(reply.json()).toEqual({
      type: "urn:vram-residency:error:SHARD_NOT_FOUND",
      title: "no shard has this id or name",
      status: 404,
      detail: "there is no shard nothing",
      instance: "work/1",
      code: "SHARD_NOT_FOUND",
      fix: "list the shards to see what is resident",
      retriable: false,
      details: { shard: "nothing" },
    });
    service.instead.list = () => {
      throw new VramError("AUDIT_UNAVAILABLE", "no");
    };
    const later = await ask({ socketPath }, "/v1/shards");
    expect([later.status, later.headers["retry-after"], later.problem().retriable]).toEqual([503, "5", true]);
    // What is not there is no refusal: it is an answer.
    expect(service.notes.filter(({ type }) => type === "request_refused")).toEqual([]);
  });

  it("[VR-IN-04] say nothing of the inside, which is reported", async () => {
    const { service, socketPath, reports } = await openTestServer();
    const secrets = [
      new TypeError("cannot read /var/lib/secret"),
      new VramError("STATE_INVALID", "/var/lib/secret: is broken", {
        fix: "mend /var/lib/secret",
        details: { a: "secret" },
      }),
      new VramError("INTERNAL", "secret", { details: { secret: 1 } }),
    ];
    const replies: Reply[] = [];
    for (const secret of secrets) {
      service.instead.devices = async () => {
        throw secret;
      };
      replies.push(await ask({ socketPath }, "/v1/devices"));
    }
    expect(replies.map(({ status }) => status)).toEqual([500, 503, 500]);
    expect(replies.map(({ text }) => text).join("")).not.toMatch(/secret|stack|TypeError|\.ts/);
    expect(reports.map(({ error }) => error)).toEqual([secrets[0], secrets[2]]);
  });

  it("leave out of details what JSON cannot say, and what may be an address", async () => {
    const { service, socketPath } = await openTestServer();
    const circle: Record<string, unknown> = {};
    circle["self"] = circle;
    const asked = async (details: Record<string, unknown>): Promise<unknown> => {
      service.instead.devices = async () => {
        throw new VramError("DEVICE_LOST", "lost", { details });
      };
      return (await ask({ socketPath }, "/v1/devices")).problem().details;
    };
    expect(await asked({ address: 0x7f00n, status: 700 })).toEqual({ status: 700 });
    expect(await asked(circle)).toEqual({});
  });
});

describe("correlation", () => {
  it("carries the caller's id, or one of its own, into the service and back", async () => {
    const { service, socketPath } = await openTestServer();
    const given = await ask({ socketPath }, "/v1/shards", { headers: { "x-correlation-id": "a:b/c-1" } });
    const own = await ask({ socketPath }, "/v1/shards");
    expect(given.headers["x-correlation-id"]).toBe("a:b/c-1");
    expect(own.headers["x-correlation-id"]).toMatch(/^[0-9a-f-]{36}$/);
    expect(service.calls.map(({ correlationId }) => correlationId)).toEqual([
      "a:b/c-1",
      own.headers["x-correlation-id"],
    ]);
  });

  it.each(["", "a b", "x".repeat(129), "ä"])("refuses %o as an id", async (id) => {
    const { socketPath } = await openTestServer();
    const reply = await ask({ socketPath }, "/v1/shards", { headers: { "x-correlation-id": id } });
    expect(reply.problem()).toMatchObject({ status: 400, code: "REQUEST_REFUSED" });
    expect(() => withCorrelation(id, () => undefined)).toThrow(VramError);
  });
});

describe("health", () => {
  it("says when the service is not ready, or about to end", async () => {
    const { service, server, port } = await openTestServer();
    const status = async (path: string): Promise<unknown> => {
      const reply = await ask({ port }, path);
      return [reply.status, reply.json()];
    };
    expect(await status("/readyz")).toEqual([200, { status: "ok" }]);
    service.ready_ = false;
    expect(await status("/readyz")).toEqual([503, { status: "not-ready" }]);
    service.ready_ = true;
    server.drain();
    expect(await status("/readyz")).toEqual([503, { status: "not-ready" }]);
    expect(await status("/healthz")).toEqual([200, { status: "ok" }]);
  });
});
