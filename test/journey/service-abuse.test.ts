/**
 * Callers and bodies that nobody should let in ("Shown by" 3 of the service): each gets its status as a problem that says
 * nothing of the inside, and goes on record.
 */
import { describe, expect, it } from "vitest";
import { LIMITS } from "../../src/limits.ts";
import { expectProblem, failed, post, refused } from "../helpers/abuse.ts";
import { type Ask, ask, bearer, OPERATE, openTestServer, USE } from "../helpers/http.ts";

describe("[VR-API-02] callers who are not let in", () => {
  const bad = `vram_use_${"x".repeat(43)}`;
  it.each<[string, Ask["headers"], number, string]>([
    ["no token", {}, 401, "no-token"],
    ["a token of nobody", { authorization: `Bearer ${bad}` }, 401, "bad-token"],
    ["something else than a token", { authorization: `Basic ${bad}` }, 401, "bad-token"],
    ["an empty token", { authorization: "Bearer " }, 401, "bad-token"],
    ["a wrong scope", { authorization: `Bearer ${USE}` }, 403, "wrong-scope"],
    ["a wrong Host", { ...bearer(OPERATE), host: "evil.example" }, 421, "wrong-host"],
    ["the Host of another port", { ...bearer(OPERATE), host: "127.0.0.1:1" }, 421, "wrong-host"],
    ["a Host without its port", { ...bearer(OPERATE), host: "127.0.0.1" }, 421, "wrong-host"],
    ["a page of another site", { ...bearer(OPERATE), origin: "https://evil.example" }, 403, "cross-site"],
    ["a page without a site", { ...bearer(OPERATE), origin: "null" }, 403, "cross-site"],
    ["a fetch across sites", { ...bearer(OPERATE), "sec-fetch-site": "cross-site" }, 403, "cross-site"],
    ["a fetch of the same site", { ...bearer(OPERATE), "sec-fetch-site": "same-site" }, 403, "cross-site"],
  ])("%s", async (_, headers = {}, status, failure) => {
    const test = await openTestServer();
    const reply = await ask({ port: test.port }, "/v1/leases", { headers });
    expectProblem(reply, status, [OPERATE, USE, bad]);
    expect(reply.headers["www-authenticate"]).toBe(status === 401 ? "Bearer" : undefined);
    expect(failed(test)).toMatchObject([{ failure, transport: "tcp" }]);
    expect(refused(test)).toEqual([]);
    expect(JSON.stringify(test.service.notes)).not.toMatch(/vram_(use|operate)_/);
    expect(test.service.calls).toEqual([]);
  });

  it.each(["localhost:PORT", "127.0.0.1:PORT", "[::1]:PORT", "LOCALHOST:PORT", "vram.example", "vram.example:8443"])(
    "Host %s is one of its names",
    async (name) => {
      const test = await openTestServer();
      const host = name.replace("PORT", String(test.port));
      expect((await ask({ port: test.port }, "/v1/shards", { headers: { ...bearer(USE), host } })).status).toBe(200);
    },
  );

  it.each(["none", "same-origin"])("Sec-Fetch-Site %s is let in", async (site) => {
    const test = await openTestServer();
    const headers = { ...bearer(USE), "sec-fetch-site": site };
    expect((await ask({ port: test.port }, "/v1/shards", { headers })).status).toBe(200);
  });

  it("a page is told nothing even where everyone may ask", async () => {
    const test = await openTestServer();
    const headers = { origin: "https://evil.example" };
    expectProblem(await ask({ port: test.port }, "/healthz", { headers }), 403);
    expectProblem(await ask({ port: test.metricsPort }, "/metrics", { headers }), 403);
  });
});

const deep = (levels: number): string => `{"path":${"[".repeat(levels - 1)}${"]".repeat(levels - 1)}}`;
describe("[VR-IN-01] bodies", () => {
  it.each<[string, string, Ask, number]>([
    ["no JSON", "/v1/plan", post('{"path":'), 400],
    ["a string without an end", "/v1/plan", post('{"path":"a'), 400],
    ["a byte order mark", "/v1/plan", post('\ufeff{"path":"/a"}'), 400],
    ["JSON that is deep", "/v1/plan", post(deep(33)), 400],
    ["JSON that is very deep", "/v1/plan", post("[".repeat(60_000)), 400],
    ["__proto__", "/v1/plan", post('{"path":"/a","__proto__":{"x":1}}'), 400],
    ["__proto__ in disguise", "/v1/plan", post('{"path":"/a","__pr\\u006fto__":1}'), 400],
    ["constructor within", "/v1/shards/model/verifications", post('{"seal":{"constructor" :{}}}'), 400],
    ["prototype within", "/v1/shards/model/verifications", post('{"seal":{"a":[{"prototype":1}]}}'), 400],
    ["a key twice", "/v1/plan", post('{"path":"/a","path":"/b"}'), 400],
    ["half of a surrogate pair", "/v1/plan", post('{"path":"/\\ud800"}'), 400],
    ["an escape that is none", "/v1/plan", post('{"path":"/\\x"}'), 400],
    ["another type", "/v1/plan", post("path=/a", { "content-type": "application/x-www-form-urlencoded" }), 415],
    ["another character set", "/v1/plan", post("{}", { "content-type": "application/json; charset=latin1" }), 415],
    ["no type", "/v1/plan", post("{}", { "content-type": "" }), 415],
    ["compression", "/v1/plan", post("{}", { "content-encoding": "gzip" }), 415],
    ["one byte too much", "/v1/plan", post(" ".repeat(LIMITS.serviceBodyBytes + 1)), 413],
    [
      "too much, in chunks",
      "/v1/plan",
      post(" ".repeat(LIMITS.serviceBodyBytes + 1), { "transfer-encoding": "chunked" }),
      413,
    ],
    ["a body of a GET", "/v1/shards", { method: "GET", body: "{}" }, 400],
    ["a body of a DELETE", "/v1/leases/lease-1", { method: "DELETE", body: "{}" }, 400],
    ["an empty one where there must be something", "/v1/plan", { method: "POST" }, 400],
    ["an unknown field", "/v1/plan", post('{"path":"/a","pth":"/b"}'), 400],
    ["NUL", "/v1/plan", post('{"path":"/a\\u0000b"}'), 400],
  ])("%s", async (_, path, options, status) => {
    const test = await openTestServer();
    const { "transfer-encoding": chunked, ...rest } = options.headers ?? {};
    const headers = {
      ...bearer(OPERATE),
      ...(chunked === undefined ? rest : { ...rest, "transfer-encoding": chunked }),
    };
    const reply = await ask({ port: test.port }, path, { ...options, headers });
    expectProblem(reply, status);
    expect(refused(test)).toMatchObject([{ status, transport: "tcp", caller: "token 0b0b0b" }]);
    expect(test.service.calls).toEqual([]);
  });

  it("is as large as the limit, and as deep", async () => {
    const test = await openTestServer();
    const where = { socketPath: test.socketPath };
    const padded = '{"path":"/a"}'.padEnd(LIMITS.serviceBodyBytes);
    expect((await ask(where, "/v1/plan", post(padded))).status).toBe(200);
    const seal = `{"seal":{"a":${"[".repeat(30)}${"]".repeat(30)}}}`;
    expect((await ask(where, "/v1/shards/model/verifications", post(seal))).status).toBe(200);
    const charset = { "content-type": 'Application/JSON; charset="UTF-8"' };
    expect((await ask(where, "/v1/plan", post('{"path":"/ä","name":"\\u00e4"}', charset))).status).toBe(200);
  });
});
