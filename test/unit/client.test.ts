/** The typed client against a stub: what it sends, how it reads answers, and what becomes of everything else. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { brokenError } from "../../src/client/transport.ts";
import { type Client, errorFromReply, openClient, VramError, withCorrelation } from "../../src/client.ts";
import * as replies from "../../src/service/replies.ts";
import * as is from "../helpers/stub-replies.ts";
import { checked, openStub, problemOf, type StubAnswer } from "../helpers/stub-service.ts";
import { codeOf, temporaryFolder } from "../helpers/vram.ts";

/** What a call that has to fail is rejected with. */
async function errorOf(call: Promise<unknown>): Promise<VramError> {
  const thrown = await call.then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(thrown).toBeInstanceOf(VramError);
  return thrown as VramError;
}

/** What listing says when the service answers so. */
async function listing(answer: StubAnswer): Promise<VramError> {
  const { socket } = await openStub({ "GET /v1/shards": answer });
  return errorOf(openClient({ socket }).list());
}

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

describe("what the client makes of answers", () => {
  it("turns a problem into the error that it tells of", async () => {
    const error = await listing(problemOf("SHARD_BUSY", { detail: "2 leases", details: { leases: 2 } }));
    expect(error).toMatchObject({ code: "SHARD_BUSY", message: "2 leases", details: { leases: 2 }, retriable: true });
    expect(error.fix).toBe("release its leases, then try again");
    const busy = problemOf("SERVICE_BUSY", { status: 429 });
    const later = await listing({ ...busy, headers: { "retry-after": "2" } } as StubAnswer);
    expect(later).toMatchObject({ code: "SERVICE_BUSY", details: { retryAfterMs: 2000 } });
  });

  it("keeps a code that it does not know in the message", () => {
    const error = errorFromReply({ code: "NEWER", message: "m", fix: "f", retriable: true, details: { a: 1 } });
    expect(error).toMatchObject({ code: "INTERNAL", message: "NEWER: m", fix: "f", details: { a: 1, code: "NEWER" } });
    const odd = errorFromReply({ code: "toString", message: "m", fix: "f", retriable: true, details: {} });
    expect(odd.code).toBe("INTERNAL");
  });

  it.each<[string, StubAnswer, RegExp]>([
    ["no JSON", { text: "<html>" }, /an answer that is no JSON/],
    ["another document", { json: { shards: 1 } }, /backend: Invalid/],
    ["a document that is no object", { json: 7 }, /the answer: Invalid/],
    ["an error without a problem", { status: 502, text: "Bad gateway" }, /status 502 without a problem/],
    ["a redirect", { status: 302, text: "" }, /status 302/],
    [
      "no HTTP",
      { raw: (response) => void response.socket?.end("SSH-2.0-OpenSSH\r\n") },
      /it does not speak HTTP as it should/,
    ],
  ])("refuses %s", async (_what, answer, message) => {
    const error = await listing(answer);
    expect(error).toMatchObject({ code: "SERVICE_UNREACHABLE" });
    expect(error.message).toMatch(message);
    expect(error.fix).toContain("name another socket or address");
  });

  it("leaves out what a newer service says besides, and refuses an answer without end", async () => {
    const { socket } = await openStub({ "GET /v1/leases/l": { json: { ...is.lease(), more: 1 } } });
    expect(await openClient({ socket }).lease("l")).toEqual(is.lease());
    const chunk = Buffer.alloc(1024 * 1024, 0x20);
    let sent = 0;
    const error = await listing({
      raw: (response) => {
        const write = (): void => {
          while (!response.destroyed && response.write(chunk)) sent += 1;
        };
        response.on("drain", write);
        write();
      },
    });
    expect(error).toMatchObject({
      code: "SERVICE_UNREACHABLE",
      message: expect.stringContaining("67108864 bytes") as string,
    });
    expect(sent).toBeLessThan(200);
  });

  it("reads readiness also where the status says that it is not, and a problem in its place", async () => {
    const notReady = is.readiness({ ready: false, reasons: ["a device is lost"] });
    const ready = { status: 503, ...checked(replies.readiness, notReady) };
    const { socket } = await openStub({
      "GET /v1/ready": ready,
      "GET /readyz": problemOf("FORBIDDEN", { status: 403 }),
    });
    expect(await openClient({ socket }).ready()).toEqual(notReady);
    expect(await codeOf(openClient({ socket }).health())).toBe("FORBIDDEN");
  });
});

describe("connections", () => {
  it("says where nobody answers, and how to start a service", async () => {
    const folder = await temporaryFolder();
    const plain = join(folder, "file");
    await writeFile(plain, "");
    for (const socket of [join(folder, "none"), plain, join(plain, "x")]) {
      const error = await errorOf(openClient({ socket }).list());
      expect(error).toMatchObject({ code: "SERVICE_UNREACHABLE", retriable: true });
      expect(error.message).toContain(`no service answers at ${socket}: E`);
      expect(error.fix).toMatch(/`vram serve`/);
      expect(error.fix).toContain(socket);
    }
    const stub = await openStub({}, "port");
    await stub.close();
    expect((await errorOf(openClient({ url: stub.url }).list())).message).toContain(`${stub.url}: ECONNREFUSED`);
  });

  it("tells a refusal of the system, and passes on what is an error of ours", () => {
    const refused = Object.assign(new Error("connect EACCES"), { code: "EACCES" });
    expect(brokenError("/s", refused, undefined)).toMatchObject({ code: "FORBIDDEN" });
    const ours = new VramError("CLOSED", "c");
    expect(brokenError("/s", ours, undefined)).toBe(ours);
    expect(brokenError("/s", "odd", undefined).message).toBe("no service answers at /s: odd");
  });

  it("is stopped by its signal, before and while it waits", async () => {
    const stop = new AbortController();
    const stub = await openStub({
      "GET /v1/shards": { raw: () => stop.abort() },
      "POST /v1/leases": {
        raw: (response) => {
          response.writeHead(200);
          response.write("{");
          during.abort();
        },
      },
    });
    const during = new AbortController();
    const client = openClient({ socket: stub.socket });
    expect(await codeOf(client.list({ signal: stop.signal }))).toBe("ABORTED");
    expect(await codeOf(client.list({ signal: stop.signal }))).toBe("ABORTED");
    expect(await codeOf(client.grant({ shard: "m" }, { signal: during.signal }))).toBe("ABORTED");
    expect(stub.asked).toHaveLength(2);
  });

  it("asks again where a kept connection had ended, and only where asking is all it did", async () => {
    let connections = 0;
    const stub = await openStub(
      {
        "GET /v1/shards": (_asked, nth) =>
          nth === 1
            ? { raw: (response) => void response.socket?.resetAndDestroy() }
            : checked(replies.listing, is.listing({ shards: [] })),
        "DELETE /v1/leases/l": {
          raw: (response) => {
            connections += 1;
            response.socket?.destroy();
          },
        },
      },
      "port",
    );
    const client = openClient({ url: stub.url });
    await client.list();
    await client.list();
    expect(stub.asked).toHaveLength(3);
    expect(await codeOf(client.release("l"))).toBe("SERVICE_UNREACHABLE");
    expect(connections).toBe(1);
    client.close();
  });

  it("says so when the connection breaks within an answer", async () => {
    const error = await listing({
      raw: (response) => {
        response.writeHead(200, { "content-length": "100" });
        response.write('{"backend":', () => response.destroy());
      },
    });
    expect(error.code).toBe("SERVICE_UNREACHABLE");
  });
});
