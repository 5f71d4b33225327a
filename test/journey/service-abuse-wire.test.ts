/**
 * Bytes that nobody should send ("Shown by" 3 of the service): what does not parse, may mean two things, means another
 * path, or does not end.
 */
import { describe, expect, it } from "vitest";
import { expectProblem, JSON_HEADER, refused, tcp, wire } from "../helpers/abuse.ts";
import { ask, OPERATE, open, openTestServer, readAll, sendRaw, type TestServer, USE } from "../helpers/http.ts";

describe("requests that are none", () => {
  const close = "Connection: close";
  it.each<[string, (test: TestServer) => string, number]>([
    [
      "Transfer-Encoding and Content-Length",
      (test) =>
        wire(
          test,
          "POST /v1/plan HTTP/1.1",
          [JSON_HEADER, "Content-Length: 4", "Transfer-Encoding: chunked"],
          "0\r\n\r\n",
        ),
      400,
    ],
    [
      "two lengths",
      (test) => wire(test, "POST /v1/plan HTTP/1.1", [JSON_HEADER, "Content-Length: 2", "Content-Length: 3"], "{}"),
      400,
    ],
    [
      "a length that is none",
      (test) => wire(test, "POST /v1/plan HTTP/1.1", [JSON_HEADER, "Content-Length: -2"], "{}"),
      400,
    ],
    [
      "an unknown coding",
      (test) => wire(test, "POST /v1/plan HTTP/1.1", [JSON_HEADER, "Transfer-Encoding: gzip"], "{}"),
      400,
    ],
    ["a header of 1 MB", (test) => wire(test, "GET /v1/shards HTTP/1.1", [`X-Long: ${"x".repeat(1_000_000)}`]), 431],
    ["a target of 1 MB", (test) => wire(test, `GET /${"x".repeat(1_000_000)} HTTP/1.1`), 431],
    ["a line that is folded", (test) => wire(test, "GET /v1/shards HTTP/1.1", ["X-A: b", " c"]), 400],
    ["a bare line feed", (test) => `GET /v1/shards HTTP/1.1\nHost: 127.0.0.1:${test.port}\n\n`, 400],
    ["no HTTP", () => "hello\r\n\r\n", 405],
    ["a method nobody knows", (test) => wire(test, "STEAL /v1/shards HTTP/1.1", [close]), 405],
    ["TLS where there is none", () => "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 405],
    ["another protocol", (test) => wire(test, "GET /v1/shards HTTP/3.7"), 400],
    ["TRACE", (test) => wire(test, "TRACE /v1/shards HTTP/1.1", [close]), 405],
    ["CONNECT", (test) => wire(test, "CONNECT evil.example:443 HTTP/1.1", [close]), 405],
    ["OPTIONS", (test) => wire(test, "OPTIONS /v1/shards HTTP/1.1", [close]), 405],
    ["OPTIONS of everything", (test) => wire(test, "OPTIONS * HTTP/1.1", [close]), 400],
    ["PUT", (test) => wire(test, "PUT /v1/shards HTTP/1.1", [close]), 405],
    ["DELETE of what is never deleted", (test) => wire(test, "DELETE /v1/plan HTTP/1.1", [close]), 405],
    ["no Host", () => `GET /v1/shards HTTP/1.1\r\n${close}\r\n\r\n`, 400],
    ["no Host, as of old", () => `GET /v1/shards HTTP/1.0\r\n\r\n`, 400],
    ["two Hosts", (test) => wire(test, "GET /v1/shards HTTP/1.1", ["Host: evil.example", close]), 400],
    ["a Host that is none", (test) => wire(test, "GET /v1/shards HTTP/1.1", [close]).replace("127.0.0.1", "a b"), 400],
    ["two tokens", (test) => wire(test, "GET /v1/shards HTTP/1.1", [`Authorization: Bearer ${USE}`, close]), 400],
    [
      "a target with a host",
      (test) => wire(test, `GET http://127.0.0.1:${test.port}/v1/shards HTTP/1.1`, [close]),
      400,
    ],
    ["a path that goes up", (test) => wire(test, "GET /v1/../../etc/passwd HTTP/1.1", [close]), 400],
    [
      "a path that goes up in disguise",
      (test) => wire(test, "GET /v1/shards/%2e%2E/%2e%2e/etc/passwd HTTP/1.1", [close]),
      400,
    ],
    ["a path that stays", (test) => wire(test, "GET /v1/./shards HTTP/1.1", [close]), 400],
    ["a path with backslashes", (test) => wire(test, "GET /v1\\..\\shards HTTP/1.1", [close]), 400],
    ["a path with NUL", (test) => wire(test, "GET /v1/shards/a%00b HTTP/1.1", [close]), 400],
    ["a path that is no UTF-8", (test) => wire(test, "GET /v1/shards/%ff HTTP/1.1", [close]), 400],
    ["a path with half an escape", (test) => wire(test, "GET /v1/shards/%2 HTTP/1.1", [close]), 400],
    ["a fragment", (test) => wire(test, "GET /v1/shards#a HTTP/1.1", [close]), 400],
    ["an unknown path", (test) => wire(test, "GET /v1/secrets HTTP/1.1", [close]), 404],
    ["another version", (test) => wire(test, "GET /v2/shards HTTP/1.1", [close]), 404],
    ["a path within a path", (test) => wire(test, "GET //v1/shards HTTP/1.1", [close]), 404],
    ["a query that nobody asked for", (test) => wire(test, "GET /v1/shards?a=b HTTP/1.1", [close]), 400],
    ["an unknown key of a query", (test) => wire(test, "DELETE /v1/shards/model?revok=true HTTP/1.1", [close]), 400],
    [
      "a query that says something twice",
      (test) => wire(test, "DELETE /v1/shards/model?revoke=true&revoke=false HTTP/1.1", [close]),
      400,
    ],
    ["a query of objects", (test) => wire(test, "DELETE /v1/shards/model?__proto__=1 HTTP/1.1", [close]), 400],
    ["a query that is no UTF-8", (test) => wire(test, "DELETE /v1/shards/model?revoke=%80 HTTP/1.1", [close]), 400],
    ["too many lines", (test) => wire(test, "GET /v1/audit/entries?last=1001 HTTP/1.1", [close]), 400],
    ["an id that is none", (test) => wire(test, "GET /v1/leases/%2Fetc HTTP/1.1", [close]), 400],
    ["a number that is none", (test) => wire(test, "GET /v1/audit/proofs/1e3 HTTP/1.1", [close]), 400],
    ["a name that is too long", (test) => wire(test, `GET /v1/shards/${"x".repeat(1025)} HTTP/1.1`, [close]), 400],
  ])("%s", async (_, text, status) => {
    const test = await openTestServer();
    const reply = await sendRaw(tcp(test), text(test));
    expectProblem(reply, status, [OPERATE, USE]);
    expect(refused(test)).toMatchObject([{ status, transport: "tcp" }]);
    if (status === 405) expect(reply.headers["allow"]).toMatch(/^(GET|POST)(, (GET|POST|DELETE))*$/);
    expect(test.service.calls).toEqual([]);
  });

  it("HEAD is answered as it may be: without a body", async () => {
    const test = await openTestServer();
    const reply = await ask({ socketPath: test.socketPath }, "/v1/shards", { method: "HEAD" });
    expect([reply.status, reply.headers.allow, reply.text]).toEqual([405, "POST, GET", ""]);
  });

  it("a name may look like a path, and is looked up as a name", async () => {
    const test = await openTestServer();
    const reply = await ask({ socketPath: test.socketPath }, "/v1/shards/..%2F..%2Fetc%2Fpasswd");
    expectProblem(reply, 404);
    expect(test.service.calls[0]?.args).toEqual(["../../etc/passwd"]);
  });

  it.each(["localhost:99999", "127.1", "-"])("Host %s on the socket is nobody's, and does no harm", async (host) => {
    const test = await openTestServer();
    const reply = await ask({ socketPath: test.socketPath }, "/v1/shards", { headers: { host } });
    if (reply.status !== 200) expectProblem(reply, 400);
    expect(test.reports).toEqual([]);
  });

  it("the socket also takes HTTP/1.0, which has no Host", async () => {
    const test = await openTestServer();
    const reply = await sendRaw({ path: test.socketPath }, "GET /v1/shards HTTP/1.0\r\n\r\n");
    expect(reply.status).toBe(200);
  });

  it("two requests at once are two requests", async () => {
    const test = await openTestServer();
    const one = wire(test, "GET /v1/shards HTTP/1.1");
    const text = await (async () => {
      const socket = await open(tcp(test));
      socket.write(one + wire(test, "GET /v1/leases HTTP/1.1", ["Connection: close"]));
      return readAll(socket);
    })();
    expect(text.match(/HTTP\/1\.1 200 OK/g)).toHaveLength(2);
    expect(test.service.calls.map(({ name }) => name)).toEqual(["list", "leases"]);
  });

  it("a broken one behind another ends the connection, and is no answer to that", async () => {
    const test = await openTestServer();
    let seen: () => void = () => undefined;
    const asked = new Promise<void>((resolve) => {
      seen = resolve;
    });
    test.service.instead.devices = async () => {
      seen();
      return new Promise(() => undefined);
    };
    const socket = await open(tcp(test));
    const text = readAll(socket);
    socket.write(wire(test, "GET /v1/devices HTTP/1.1"));
    await asked;
    socket.write("STEAL / HTTP/1.1\r\n\r\n");
    expect(await text).toBe("");
  });
});

describe("requests that take too long", () => {
  const SHORT = { "limits.requestMs": 200, "limits.idleMs": 200 };
  it.each<[string, (test: TestServer) => string]>([
    ["headers, one by one", (test) => `GET /v1/shards HTTP/1.1\r\nHost: 127.0.0.1:${test.port}\r\nX-A: b\r\n`],
    [
      "a body that does not come",
      (test) => wire(test, "POST /v1/plan HTTP/1.1", [JSON_HEADER, "Content-Length: 10"], "{"),
    ],
  ])("%s", async (_, text) => {
    const test = await openTestServer(SHORT);
    expectProblem(await sendRaw(tcp(test), text(test)), 408);
    expect(refused(test)).toMatchObject([{ status: 408, code: "REQUEST_REFUSED" }]);
    expect(test.service.calls).toEqual([]);
  });

  it("a connection on which nothing comes is ended without a word", async () => {
    const test = await openTestServer(SHORT);
    expect(await readAll(await open(tcp(test)))).toBe("");
    expect(test.service.notes).toEqual([]);
  });

  it("so is one on which nothing comes any more", async () => {
    const test = await openTestServer(SHORT);
    const reply = await sendRaw(tcp(test), wire(test, "GET /v1/shards HTTP/1.1"));
    expect([reply.status, reply.headers["keep-alive"]]).toEqual([200, expect.stringContaining("timeout")]);
    expect(refused(test)).toEqual([]);
  });

  it("a client that goes away in the middle of its body is no refusal", async () => {
    const test = await openTestServer();
    const socket = await open(tcp(test));
    socket.write(wire(test, "POST /v1/plan HTTP/1.1", [JSON_HEADER, "Content-Length: 10"], "{"));
    await ask({ port: test.port }, "/healthz");
    socket.destroy();
    await test.server.close();
    expect(test.service.notes.map(({ route }) => route)).toEqual(["GET /healthz"]);
  });
});

describe("[VR-IN-01] a body", () => {
  it("that is no UTF-8", async () => {
    const test = await openTestServer();
    const body = Buffer.from('{"path":"/\xff\xfe"}', "latin1");
    const head = wire(test, "POST /v1/plan HTTP/1.1", [
      JSON_HEADER,
      `Content-Length: ${body.length}`,
      "Connection: close",
    ]);
    expectProblem(await sendRaw(tcp(test), head, body), 400);
    expect(refused(test)).toMatchObject([{ status: 400, code: "REQUEST_REFUSED" }]);
  });

  it("that never ends is not kept, and cut off", async () => {
    const test = await openTestServer();
    const head = wire(test, "POST /v1/plan HTTP/1.1", [JSON_HEADER, "Transfer-Encoding: chunked"]);
    const chunk = `10000\r\n${" ".repeat(65_536)}\r\n`;
    const reply = await sendRaw(tcp(test), head, chunk, chunk);
    expectProblem(reply, 413);
    expect(reply.headers.connection).toBe("close");
  });

  it("that was announced is asked for only if it is wanted", async () => {
    const test = await openTestServer();
    const body = '{"path":"/a"}';
    const headers = [JSON_HEADER, `Content-Length: ${body.length}`, "Expect: 100-continue", "Connection: close"];
    const socket = await open(tcp(test));
    const text = readAll(socket);
    socket.once("data", () => socket.write(body));
    socket.write(wire(test, "POST /v1/plan HTTP/1.1", headers));
    expect(await text).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK\r\n/);
    const unwanted = wire(test, "POST /v1/plan HTTP/1.1", headers).replace(OPERATE, "nobody");
    const reply = await sendRaw(tcp(test), unwanted);
    expectProblem(reply, 401);
    expect(reply.headers.connection).toBe("close");
    const other = wire(test, "POST /v1/plan HTTP/1.1", ["Expect: a-miracle", "Connection: close"]);
    expectProblem(await sendRaw(tcp(test), other), 417);
  });
});
