/** `vram seal`: what is asked of the service, lists of digests, waiting with progress, and being interrupted. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { OperationReply } from "../../src/client.ts";
import * as replies from "../../src/service/replies.ts";
import { vram } from "../helpers/cli.ts";
import { vramAt } from "../helpers/cli-service.ts";
import * as is from "../helpers/stub-replies.ts";
import {
  checked,
  eventOf,
  openStub,
  problemOf,
  type StubAnswer,
  type StubRoutes,
  stubFeed,
} from "../helpers/stub-service.ts";
import { temporaryFolder } from "../helpers/vram.ts";

beforeEach(() => void vi.useFakeTimers({ toFake: ["Date"], now: is.NOW }));
afterEach(() => void vi.useRealTimers());

const replied = (operation: OperationReply): StubAnswer => checked(replies.operation, operation);
const BEGUN: StubRoutes = { "POST /v1/shards": { status: 202, ...checked(replies.operation, is.operation()) } };
const OPERATION = "GET /v1/operations/op-aaaaaaaaaaaaaaaaaaaaaaaaaa";
const CANCEL = "DELETE /v1/operations/op-aaaaaaaaaaaaaaaaaaaaaaaaaa";
/** A feed on which nothing happens, because it cannot be had. */
const NO_FEED: StubRoutes = { "GET /v1/feed": problemOf("SERVICE_BUSY", { status: 429 }) };
/** An operation that ends as it is looked at for the second time. */
const ending = (operation: OperationReply): StubRoutes => ({
  ...{ ...BEGUN, ...NO_FEED },
  [OPERATION]: (_asked, nth) => replied(nth === 0 ? is.operation() : operation),
});

const bodiesOf = (stub: { of(route: string): readonly { readonly body: unknown }[] }): unknown[] =>
  stub.of("POST /v1/shards").map(({ body }) => body);

describe("vram seal", () => {
  it("begins, says what to look for, and how", async () => {
    const { code, out, err, stub } = await vramAt(BEGUN, ["seal", "m", "/abs/n"]);
    expect(code).toBe(0);
    expect(out).toBe("op-aaaaaaaaaaaaaaaaaaaaaaaaaa  llama.safetensors\n".repeat(2));
    expect(err).toBe("being sealed: `vram ps` shows how far it is, --wait waits for it\n");
    expect(bodiesOf(stub)).toEqual([{ path: join(process.cwd(), "m") }, { path: "/abs/n" }]);
    expect(stub.asked).toHaveLength(2);
  });

  it("hands on what it is given", async () => {
    const words = ["--name", "n", "--device", "2", "--format", "raw", "--expect", `sha256:${is.DIGEST}`, "--sha256"];
    const { stub } = await vramAt(BEGUN, ["seal", ...words, "/m"]);
    expect(bodiesOf(stub)).toEqual([
      { path: "/m", name: "n", device: 2, format: "raw", expected: `sha256:${is.DIGEST}`, sha256: true },
    ]);
    const correlated = stub.asked[0]?.headers["x-correlation-id"];
    expect(correlated).toMatch(/^[0-9a-f-]{36}$/);
  });

  it("takes digests from a list in which every file has to be", async () => {
    const folder = await temporaryFolder();
    const sums = join(folder, "SUMS");
    const [a, b, c] = ["a", "b", "c"].map((digit) => digit.repeat(64)) as [string, string, string];
    await writeFile(sums, `${a}  /m\nsha256:${b}  /m\nsha256:${c}  rel\nfsverity:${a}  /m\n`);
    const { stub, code } = await vramAt(BEGUN, ["seal", "--sums", sums, "/m", "rel", "./rel"]);
    expect(code).toBe(0);
    const rel = join(process.cwd(), "rel");
    expect(bodiesOf(stub)).toEqual([
      { path: "/m", expected: a },
      { path: rel, expected: `sha256:${c}` },
      { path: rel, expected: `sha256:${c}` },
    ]);
    const unlisted = await vramAt(BEGUN, ["seal", "--sums", sums, "/m", "/other"]);
    expect(unlisted).toMatchObject({ code: 2, out: "" });
    expect(unlisted.err).toContain(`${sums} does not list /other`);
    expect(unlisted.stub.asked).toEqual([]);
    await writeFile(sums, `${a}  /m\n${b}  /m\n`);
    expect((await vramAt(BEGUN, ["seal", "--sums", sums, "/m"])).err).toContain("lists /m with different digests");
    expect((await vram(["seal", "--sums", join(folder, "none"), "/m"])).code).toBe(1);
    expect((await vram(["seal", "--sums", sums, "--expect", a, "/m"])).code).toBe(2);
  });

  it("refuses what cannot be meant of several files", async () => {
    for (const words of [
      ["--name", "n"],
      ["--expect", is.DIGEST],
    ]) {
      const { code, err } = await vram(["seal", ...words, "a", "b"]);
      expect(code).toBe(2);
      expect(err).toContain("belong to a single file");
    }
    expect((await vram(["seal"])).code).toBe(2);
  });

  it("goes on to the next file when one is refused, and ends where all would be", async () => {
    const routes = (code: "NAME_CONFLICT" | "FORBIDDEN"): StubRoutes => ({
      "POST /v1/shards": (_asked, nth) => (nth === 0 ? problemOf(code) : replied(is.operation())),
    });
    const on = await vramAt(routes("NAME_CONFLICT"), ["seal", "--json", "/a", "/b"]);
    expect(on.code).toBe(1);
    expect(JSON.parse(on.out)).toMatchObject({
      schema: "vram-residency/seal/v1",
      ok: false,
      operations: [{ state: "running" }],
      errors: [{ name: "/a", error: { code: "NAME_CONFLICT" } }],
    });
    const end = await vramAt(routes("FORBIDDEN"), ["seal", "/a", "/b"]);
    expect(end.code).toBe(4);
    expect(end.stub.asked).toHaveLength(1);
  });
});

describe("vram seal --wait", () => {
  it("waits for the end also without a feed, and shows what was sealed", async () => {
    const { code, out, err, stub } = await vramAt(ending(is.succeeded()), ["seal", "--wait", "/m"]);
    expect(code).toBe(0);
    expect(out).toBe(
      "NAME               DIGEST           SIZE  COMPARED WITH  GPU  TOOK\n" +
        "llama.safetensors  5f70bf18a086  5.0 GiB  witnessed      0    3 s\n",
    );
    expect(err).toMatch(/^backend emulated: /);
    expect(stub.of(OPERATION)).toHaveLength(2);
    const json = await vramAt(ending(is.succeeded()), ["seal", "--wait", "--json", "/m"]);
    await expect(json.out).toMatchFileSnapshot(join(import.meta.dirname, "../golden/seal.json"));
    const odd = is.succeeded({ result: { shards: [] } });
    expect(await vramAt(ending(odd), ["seal", "--wait", "/m"])).toMatchObject({ code: 0, out: "" });
  });

  it("shows progress with rate and time left on a terminal, as the feed tells it, and hears from it of the end", async () => {
    const feed = stubFeed();
    let done: (() => void) | undefined;
    const told = new Promise<void>((resolve) => {
      done = resolve;
    });
    const stub = await openStub({
      ...BEGUN,
      "GET /v1/feed": feed.route,
      [OPERATION]: async () => {
        await told;
        return replied(is.succeeded());
      },
    });
    const running = vram(["seal", "--wait", "/m"], { env: { VRAM_SOCKET: stub.socket }, terminal: true, columns: 120 });
    const GIB = 2 ** 30;
    const progress = { type: "upload_progressed", name: "llama.safetensors", bytesDone: GIB, bytesTotal: 5 * GIB };
    await feed.send('event: gap\ndata: {"entries":1}\n\n');
    await feed.send(eventOf("i-1", { ...progress, seq: 1 }));
    await feed.send(eventOf("i-2", { type: "uploaded", seq: 2 }));
    await feed.send(eventOf("i-3", { type: "operation_ended", operation: "seal", seq: 3 }));
    done?.();
    const { code, err } = await running;
    expect(code).toBe(0);
    expect(err).toMatch(/█+░+ 1\.0 GiB of 5\.0 GiB, .*\/s.* {2}llama\.safetensors/);
    expect(err).toContain("\r\u001b[2K");
    expect(stub.of("GET /v1/feed").map(({ route }) => route)).toEqual([
      "GET /v1/feed?correlationId=c-1&types=upload_progressed%2Coperation_ended",
    ]);
  });

  it.each<[number, string]>([
    [3, "DIGEST_MISMATCH"],
    [1, "OUT_OF_VRAM"],
    [1, "NEWER_CODE"],
  ])("ends with %i if the operation fails with %s", async (exit, code) => {
    const { code: status, err, out } = await vramAt(ending(is.failed(code, "no")), ["seal", "--wait", "/m"]);
    expect([status, out]).toEqual([exit, ""]);
    expect(err).toContain("/m: ");
    expect(err).toContain("fix   mend it");
  });

  it("does not guess why an operation failed", async () => {
    const { error: _why, ...silent } = is.failed("INTERNAL", "x");
    expect((await vramAt(ending(silent), ["seal", "--wait", "/m"])).err).toContain("nobody says why");
  });

  it("reports a service that goes away meanwhile", async () => {
    const gone: StubRoutes = { ...BEGUN, ...NO_FEED, [OPERATION]: { raw: (response) => void response.destroy() } };
    expect((await vramAt(gone, ["seal", "--wait", "/m", "/n"])).code).toBe(6);
  });
});

describe("vram seal, interrupted", () => {
  /** Interrupts as soon as the operation is looked at. */
  async function interrupted(answer: StubAnswer, argv: readonly string[] = []) {
    const stop = new AbortController();
    const routes: StubRoutes = {
      ...{ ...BEGUN, ...NO_FEED },
      [OPERATION]: () => {
        stop.abort("SIGINT");
        return replied(is.operation());
      },
      [CANCEL]: answer,
    };
    return vramAt(routes, ["seal", "--wait", ...argv, "/m", "/n"], { signal: stop.signal });
  }

  it("cancels the operation, begins no other, and exits 130", async () => {
    const { code, err, stub, out } = await interrupted(replied(is.failed("ABORTED", "the operation was aborted")));
    expect([code, out]).toEqual([130, ""]);
    expect(err).toContain("error ABORTED: /m: the operation was aborted");
    expect(stub.of(CANCEL)).toHaveLength(1);
    expect(stub.of("POST /v1/shards")).toHaveLength(1);
    const json = await interrupted(replied(is.failed("ABORTED", "a")), ["--json"]);
    expect(json.code).toBe(130);
    expect(JSON.parse(json.out)).toMatchObject({ ok: false, errors: [{ error: { code: "ABORTED" } }] });
  });

  it("says so when it comes too late, or when it cannot be cancelled", async () => {
    const late = await interrupted(replied(is.succeeded()));
    expect(late.code).toBe(130);
    expect(late.err).toContain("interrupted too late: it was sealed by then\n");
    expect(late.out).toContain("llama.safetensors  5f70bf18a086");
    const not = await interrupted(problemOf("FORBIDDEN"));
    expect(not.code).toBe(130);
    expect(not.err).toContain("interrupted, but llama.safetensors could not be cancelled: FORBIDDEN it is");
    expect(not.err).toContain("fix   `vram ps` shows what became of it");
  });

  it("cancels also what was begun while the interruption came", async () => {
    const stop = new AbortController();
    const begun = BEGUN["POST /v1/shards"] as StubAnswer;
    const routes: StubRoutes = {
      ...NO_FEED,
      "POST /v1/shards": () => {
        stop.abort("SIGINT");
        return begun;
      },
      [CANCEL]: replied(is.failed("ABORTED", "a")),
    };
    const { code, stub } = await vramAt(routes, ["seal", "--wait", "/m"], { signal: stop.signal });
    expect(code).toBe(130);
    expect(stub.of(CANCEL)).toHaveLength(1);
  });
});
