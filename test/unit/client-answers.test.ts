/** What the client makes of answers, of those that are none, and of connections that are not there or break. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { brokenError } from "../../src/client/transport.ts";
import { errorFromReply, openClient, VramError } from "../../src/client.ts";
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

describe("what the client makes of answers", () => {
  it("turns a problem into the error that it tells of", async () => {
    const error = await listing(problemOf("SHARD_BUSY", { detail: "2 leases", details: { leases: 2 } }));
    expect(error).toMatchObject({ code: "SHARD_BUSY", message: "2 leases", details: { leases: 2 }, retriable: true });
    expect(error.fix).toBe("release its leases, then try again");
    const busy = problemOf("SERVICE_BUSY", { status: 429 });
    const later = await listing({ ...busy, headers: { "retry-after": "2" } });
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
