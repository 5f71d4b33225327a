/** The typed client against a stub: what each function asks, and what it gives back. */
import { describe, expect, it } from "vitest";
import { type Client, openClient, withCorrelation } from "../../src/client.ts";
import * as replies from "../../src/service/replies.ts";
import * as is from "../helpers/stub-replies.ts";
import { checked, openStub, type StubAnswer } from "../helpers/stub-service.ts";

interface Call {
  readonly route: string;
  readonly call: (client: Client) => Promise<unknown>;
  readonly answer: StubAnswer;
  readonly body?: unknown;
  /** What comes back, where it is not the answer itself. */
  readonly gives?: unknown;
}

const NAME = "a/b c";
const ENCODED = "a%2Fb%20c";
const plan = { path: "/m", device: 1 };
const CALLS: Readonly<Record<string, Call>> = {
  plan: { route: "POST /v1/plan", call: (c) => c.plan(plan), answer: checked(replies.plan, is.plan()), body: plan },
  seal: {
    route: "POST /v1/shards",
    call: (c) => c.seal({ path: "/m", wait: true }),
    answer: { status: 202, ...checked(replies.operation, is.operation()) },
    body: { path: "/m", wait: true },
  },
  operation: {
    route: `GET /v1/operations/${ENCODED}`,
    call: (c) => c.operation(NAME),
    answer: checked(replies.operation, is.succeeded()),
  },
  cancel: {
    route: `DELETE /v1/operations/${ENCODED}`,
    call: (c) => c.cancel(NAME),
    answer: checked(replies.operation, is.failed("ABORTED", "stopped")),
  },
  list: {
    route: "GET /v1/shards",
    call: (c) => c.list(),
    answer: checked(replies.listing, is.fullListing()),
  },
  show: {
    route: `GET /v1/shards/${ENCODED}`,
    call: (c) => c.show(NAME),
    answer: { json: { shards: [is.record()], missing: [is.missing()] } },
  },
  verify: {
    route: `POST /v1/shards/${ENCODED}/verifications`,
    call: (c) => c.verify(NAME),
    answer: checked(replies.verification, is.verification()),
    body: {},
  },
  grant: {
    route: "POST /v1/leases",
    call: (c) => c.grant({ shard: NAME, maxAgeMs: 0 }),
    answer: { status: 201, ...checked(replies.grantedLease, is.granted()) },
    body: { shard: NAME, maxAgeMs: 0 },
  },
  renew: {
    route: `POST /v1/leases/${ENCODED}/renewals`,
    call: (c) => c.renew(NAME),
    answer: checked(replies.renewedLease, { lease: is.lease() }),
    body: {},
  },
  release: {
    route: `DELETE /v1/leases/${ENCODED}`,
    call: (c) => c.release(NAME),
    answer: checked(replies.lease, is.lease()),
  },
  lease: { route: `GET /v1/leases/${ENCODED}`, call: (c) => c.lease(NAME), answer: checked(replies.lease, is.lease()) },
  leases: {
    route: "GET /v1/leases",
    call: (c) => c.leases(),
    answer: checked(replies.leases, { leases: [is.lease()] }),
    gives: [is.lease()],
  },
  evict: {
    route: `DELETE /v1/shards/${ENCODED}`,
    call: (c) => c.evict(NAME),
    answer: checked(replies.eviction, is.eviction()),
  },
  resume: {
    route: "POST /v1/resume",
    call: (c) => c.resume({ reason: "r" }),
    answer: checked(replies.devices, { devices: [is.device()] }),
    body: { reason: "r" },
    gives: [is.device()],
  },
  devices: {
    route: "GET /v1/devices",
    call: (c) => c.devices(),
    answer: checked(replies.devices, { devices: [] }),
    gives: [],
  },
  ready: { route: "GET /v1/ready", call: (c) => c.ready(), answer: checked(replies.readiness, is.readiness()) },
  health: {
    route: "GET /readyz",
    call: (c) => c.health(),
    answer: { status: 503, json: { status: "not-ready" } },
    gives: "not-ready",
  },
  logCheckpoint: {
    route: "GET /v1/audit/checkpoint",
    call: (c) => c.logCheckpoint(),
    answer: { text: "note\n" },
    gives: "note\n",
  },
  logLines: {
    route: "GET /v1/audit/entries?last=2",
    call: (c) => c.logLines(2),
    answer: { text: '{"v":1}\n{"v":1}\n' },
    gives: ['{"v":1}', '{"v":1}'],
  },
  logProof: {
    route: "GET /v1/audit/proofs/17",
    call: (c) => c.logProof(17),
    answer: { text: "proof" },
    gives: "proof",
  },
  metrics: { route: "GET /metrics", call: (c) => c.metrics(), answer: { text: "# HELP\n" }, gives: "# HELP\n" },
  openapi: { route: "GET /v1/openapi.json", call: (c) => c.openapi(), answer: { json: { openapi: "3.1.0" } } },
};

describe("what the client asks", () => {
  it.each(Object.entries(CALLS))("%s", async (_name, { route, call, answer, body, gives }) => {
    const stub = await openStub({ [route.split("?")[0] ?? ""]: answer });
    const client = openClient({ socket: stub.socket });
    expect(await call(client)).toEqual(gives ?? ("json" in answer ? answer.json : undefined));
    client.close();
    expect(stub.asked.map((one) => [one.route, one.body])).toEqual([[route, body]]);
  });

  it("says on whose behalf, and by which token; on a socket there is no token", async () => {
    const routes = {
      "GET /v1/shards": checked(replies.listing, is.listing()),
      "DELETE /v1/shards/m": checked(replies.eviction, is.eviction()),
    };
    const [socket, port] = [await openStub(routes), await openStub(routes, "port")];
    await withCorrelation("c-42", () => openClient({ socket: socket.socket }).list());
    expect(socket.asked[0]?.headers).toMatchObject({ "x-correlation-id": "c-42", host: "localhost" });
    expect(socket.asked[0]?.headers).not.toHaveProperty("authorization");
    const client = openClient({ url: port.url, token: "vram_use_abc" });
    expect(client.where).toBe(port.url);
    await client.list();
    await client.evict("m", { revoke: true });
    await client.logLines().catch(() => undefined);
    expect(port.asked.map(({ route }) => route)).toEqual([
      "GET /v1/shards",
      "DELETE /v1/shards/m?revoke=true",
      "GET /v1/audit/entries",
    ]);
    for (const { headers } of port.asked) expect(headers.authorization).toBe("Bearer vram_use_abc");
    expect(port.asked[0]?.headers).not.toHaveProperty("x-correlation-id");
  });

  it("asks nothing under a name that would lead elsewhere", async () => {
    const stub = await openStub({});
    const client = openClient({ socket: stub.socket });
    for (const name of ["", ".", ".."]) expect(() => client.show(name)).toThrow(/is no id or name/);
    expect(stub.asked).toEqual([]);
  });

  it("refuses addresses that are none, and tokens that would travel in the clear", () => {
    for (const url of ["localhost:80", "ftp://h/", "http://h/v1", "http://u:p@h/", "http://h/?q", "http://h/#x", ""]) {
      expect(() => openClient({ url }), url).toThrow(/the address of a service is/);
    }
    expect(() => openClient({ url: "http://10.0.0.1:1/", token: "t" })).toThrow(/by https only/);
    expect(() => openClient({ url: "http://127.0.0.1:1/", token: "a b" })).toThrow(/characters that no token has/);
    for (const url of ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "https://gpu.example"]) {
      openClient({ url, token: "t" }).close();
    }
    openClient({ url: "http://10.0.0.1:1" }).close();
  });
});
