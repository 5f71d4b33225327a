/** `vram lease`: a child under a lease. What it inherits, how it ends, and what becomes of it when the lease is lost. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { isForeground, passSignals, startChild, statusOf, unstartable } from "../../src/cli/commands/lease-child.ts";
import * as replies from "../../src/service/replies.ts";
import { vram } from "../helpers/cli.ts";
import { BIN } from "../helpers/cli-process.ts";
import { start, vramAt } from "../helpers/cli-service.ts";
import * as is from "../helpers/stub-replies.ts";
import {
  checked,
  eventOf,
  openStub,
  problemOf,
  type Stub,
  type StubAnswer,
  type StubRoutes,
  stubFeed,
} from "../helpers/stub-service.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const ID = "lease-aaaaaaaaaaaaaaaaaaaaaaaaaa";
const RELEASE = `DELETE /v1/leases/${ID}`;
const RENEWALS = `POST /v1/leases/${ID}/renewals`;
const NODE = process.execPath;

const grants = (remainingMs = 60_000): StubRoutes => ({
  "POST /v1/leases": { status: 201, ...checked(replies.grantedLease, is.granted({ remainingMs })) },
  [RELEASE]: checked(replies.lease, is.lease({ remainingMs: 0 })),
  "GET /v1/feed": problemOf("FORBIDDEN", { status: 403 }),
});

/** A child that says that it is there, and does `then` with what the service answers. */
const child = (then: string): string[] => [
  ...["--", NODE, "-e"],
  `require("http").get({ socketPath: process.env.VRAM_SOCKET, path: "/child?" + process.env.VRAM_LEASE + "," + process.env.VRAM_NAME + "," + process.env.OURS },
    (answer) => { answer.resume(); answer.on("end", () => { ${then} }); }); setInterval(() => {}, 1000);`,
];
const UP: StubAnswer = { text: "go" };

/** Resolves when a route has been asked. */
function gate(answer: StubAnswer = UP): { readonly route: () => StubAnswer; readonly asked: Promise<void> } {
  let open: () => void = () => undefined;
  const asked = new Promise<void>((resolve) => {
    open = resolve;
  });
  return {
    asked,
    route: () => {
      open();
      return answer;
    },
  };
}

describe("vram lease", () => {
  it("runs the child with our environment and the lease, ends as it does, and releases", async () => {
    const words = ["--max-age", "0", "--duration", "5min", "--holder", "engine-1", "m"];
    const { code, err, stub } = await vramAt(
      { ...grants(), "GET /child": UP },
      ["lease", ...words, ...child("process.exit(7)")],
      {
        env: { OURS: "kept" },
      },
    );
    expect(code).toBe(7);
    expect(err).toMatch(/^backend emulated: .*\n$/);
    expect(stub.of("POST /v1/leases")[0]?.body).toEqual({
      shard: "m",
      maxAgeMs: 0,
      durationMs: 300_000,
      holder: "engine-1",
    });
    expect(stub.of("GET /child")[0]?.route).toBe(`GET /child?${ID},llama.safetensors,kept`);
    expect(stub.of(RELEASE)).toHaveLength(1);
  });

  it("prints one JSON document when the child has ended", async () => {
    const { code, out } = await vramAt({ ...grants(), "GET /child": UP }, [
      "lease",
      "--json",
      "m",
      ...child("process.exit(0)"),
    ]);
    expect(code).toBe(0);
    await expect(out).toMatchFileSnapshot(join(import.meta.dirname, "../golden/lease.json"));
  });

  it("ends with 128 and the signal that killed the child", async () => {
    const routes = { ...grants(), "GET /child": UP };
    expect((await vramAt(routes, ["lease", "m", ...child('process.kill(process.pid, "SIGKILL")')])).code).toBe(137);
  });

  it("starts nothing without a lease, without a command, or with one that cannot be run", async () => {
    const refused = await vramAt({ "POST /v1/leases": problemOf("WORKER_STOPPED") }, [
      "lease",
      "m",
      "--",
      "/bin/false",
    ]);
    expect(refused.code).toBe(5);
    const none = await vramAt(grants(), ["lease", "m"]);
    expect(none.code).toBe(2);
    expect(none.err).toContain("fix   vram lease m -- my-engine --port 8000");
    expect(none.stub.asked).toEqual([]);
    const absent = await vramAt(grants(), ["lease", "m", "--", "/no/such/engine"]);
    expect(absent.code).toBe(127);
    expect(absent.err).toContain("/no/such/engine: command not found\n");
    expect(absent.stub.of(RELEASE)).toHaveLength(1);
    expect(absent.stub.of("POST /v1/leases")[0]?.body).toEqual({
      shard: "m",
      holder: `/no/such/engine (pid ${process.pid})`,
    });
    const file = join(await temporaryFolder(), "file");
    await writeFile(file, "");
    const json = await vramAt(grants(), ["lease", "--json", "m", "--", file]);
    expect(json).toMatchObject({ code: 126, err: expect.stringContaining("may not be run") as string });
    expect(JSON.parse(json.out)).toMatchObject({ ok: false, exit: 126, released: true });
    await expect(startChild([NODE, "\0"], {})).rejects.toThrow("null bytes");
    expect((await vramAt(grants(), ["lease", "m", "--", "\0"])).code).toBe(1);
  });

  it("says when the lease could not be given back, unless it had ended", async () => {
    const routes = { ...grants(), "GET /child": UP, [RELEASE]: problemOf("SERVICE_STOPPING") };
    const stopping = await vramAt(routes, ["lease", "m", ...child("process.exit(0)")]);
    expect(stopping.code).toBe(0);
    expect(stopping.err).toContain(
      "the lease could not be released, it ends by itself when its time is over: SERVICE_STOPPING it is\n",
    );
    const ended = { ...routes, [RELEASE]: problemOf("LEASE_NOT_FOUND") };
    expect((await vramAt(ended, ["lease", "m", ...child("process.exit(0)")])).err).not.toContain("released");
  });

  it("does not start when it is interrupted before, and gives back what was granted", async () => {
    const stop = new AbortController();
    const granted = checked(replies.grantedLease, is.granted());
    const { code, stub } = await vramAt(
      {
        ...grants(),
        "POST /v1/leases": {
          raw: (response) => {
            response.setHeader("content-type", "application/json");
            response.end(JSON.stringify(granted.json), () => setImmediate(() => stop.abort("SIGINT")));
          },
        },
      },
      ["lease", "m", "--", NODE, "-e", "setInterval(() => {}, 1000)"],
      { signal: stop.signal },
    );
    // Whichever comes first: no child, or one that is told to end.
    expect([130, 143]).toContain(code);
    expect(stub.asked.length).toBeGreaterThan(0);
  });

  it("reaches a service over TCP, and passes on no other service's socket", async () => {
    const stub = await openStub(grants(), "port");
    const script =
      "process.exit(process.env.VRAM_SOCKET === undefined && process.env.VRAM_LEASE !== undefined ? 0 : 1)";
    const argv = ["lease", "--url", stub.url, "m", "--", NODE, "-e", script];
    expect((await vram(argv, { env: { VRAM_SOCKET: "/other.sock" } })).code).toBe(0);
  });
});

describe("signals", () => {
  it.each<[NodeJS.Signals]>([["SIGTERM"], ["SIGINT"], ["SIGHUP"]])(
    "%s reaches the child, whose end is ours",
    async (name) => {
      // The child asks a second time when it listens.
      const ready = gate();
      const stub = await openStub({ ...grants(), "GET /child": UP, "GET /ready": ready.route });
      const then = `process.on("${name}", () => process.exit(9)); require("http").get({ socketPath: process.env.VRAM_SOCKET, path: "/ready" }, (a) => a.resume())`;
      const running = start(["lease", "m", ...child(then)], { VRAM_SOCKET: stub.socket });
      await ready.asked;
      running.signal(name);
      expect((await running.result).code).toBe(9);
      expect(running.listeners()).toBe(0);
      expect(stub.of(RELEASE)).toHaveLength(1);
    },
  );

  it("are not handed on to a child that the terminal tells itself, except for SIGTERM", () => {
    const sent: NodeJS.Signals[] = [];
    const one = {
      ended: Promise.resolve({ code: 0, signal: null }),
      kill: (name: NodeJS.Signals) => void sent.push(name),
      terminate: () => undefined,
    };
    let listener: (signal: NodeJS.Signals) => void = () => undefined;
    const stop = new AbortController();
    const host = {
      ...{
        env: {},
        out: () => undefined,
        err: () => undefined,
        outIsTerminal: false,
        errIsTerminal: false,
        columns: 80,
      },
      signal: stop.signal,
      onSignal: (hear: typeof listener) => {
        listener = hear;
        return () => undefined;
      },
    };
    passSignals(host, one, () => true);
    for (const name of ["SIGINT", "SIGHUP", "SIGTERM"] as const) listener(name);
    expect(sent).toEqual(["SIGTERM"]);
    const { onSignal: _none, ...plain } = host;
    const off = passSignals(plain, one, () => false);
    stop.abort();
    off();
    expect(sent).toEqual(["SIGTERM", "SIGTERM"]);
    expect(isForeground("7 (a (b) c) S 1 7 7 34816 7 4194304")).toBe(true);
    expect(isForeground("7 (x) S 1 7 7 34816 9 4194304")).toBe(false);
    expect(isForeground("7 (x) S 1 7 7 0 -1 4194304")).toBe(false);
  });

  it("kill a child that does not go", async () => {
    const deaf = await startChild(
      [NODE, "-e", 'process.on("SIGTERM", () => {}); process.kill(process.pid, "SIGSTOP")'],
      {},
    );
    deaf.terminate(50);
    expect(statusOf(await deaf.ended)).toBe(137);
    expect(statusOf({ code: null, signal: null })).toBe(128);
    expect(unstartable(new Error("odd"), "x")).toBeUndefined();
  });
});

describe("a lease that is lost", () => {
  it("ends the child, loudly, as soon as the feed tells", async () => {
    const [feed, up] = [stubFeed(), gate()];
    const stub = await openStub({ ...grants(), "GET /v1/feed": feed.route, "GET /child": up.route });
    const running = start(["lease", "--json", "m", ...child("")], { VRAM_SOCKET: stub.socket });
    await up.asked;
    await feed.send(eventOf("i-1", { type: "lease_revoked", seq: 1, leaseId: ID, because: "unreliable" }));
    const { code, err, out } = await running.result;
    expect(code).toBe(143);
    expect(err).toContain(
      "LEASE LOST llama.safetensors: it was revoked (unreliable)\nthe command gets SIGTERM now, and SIGKILL in 10 s\n",
    );
    expect(JSON.parse(out)).toMatchObject({ ok: false, lost: "it was revoked (unreliable)", exit: 143, renewals: 0 });
  });

  it("leaves the child alone where that is asked for", async () => {
    const refused = gate(problemOf("SHARD_NOT_RESIDENT", { detail: "it is mismatched" }));
    let go: () => void = () => undefined;
    const stub: Stub = await openStub({
      ...grants(500),
      [RENEWALS]: refused.route,
      "GET /child": () =>
        new Promise<StubAnswer>((resolve) => {
          go = () => resolve(UP);
        }),
    });
    const running = start(["lease", "--on-revoke", "keep", "m", ...child("process.exit(4)")], {
      VRAM_SOCKET: stub.socket,
    });
    await refused.asked;
    // The child waits for this answer, and so has outlived the renewal that was refused.
    while (stub.of("GET /child").length === 0) await new Promise((resolve) => setImmediate(resolve));
    go();
    const { code, err } = await running.result;
    expect(code).toBe(4);
    expect(err).toContain("LEASE LOST llama.safetensors: it is mismatched\nthe command goes on (--on-revoke keep)");
  });

  it("is not lost while it is renewed", async () => {
    const renewed = gate(checked(replies.renewedLease, { lease: is.lease() }));
    const stub = await openStub({
      ...grants(500),
      [RENEWALS]: renewed.route,
      "GET /child": async () => {
        await renewed.asked;
        return UP;
      },
    });
    const running = start(["lease", "--json", "m", ...child("process.exit(0)")], { VRAM_SOCKET: stub.socket });
    const { code, out, err } = await running.result;
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ ok: true, renewals: 1, released: true });
    expect(err).not.toContain("LOST");
  });
});

describe.skipIf(!existsSync(BIN))("vram lease as a process", () => {
  it("lends the child its standard input, output and error, and hears of signals", async () => {
    const ready = gate();
    const stub = await openStub({ ...grants(), "GET /child": UP, "GET /ready": ready.route });
    const then = `process.on("SIGTERM", () => process.exit(9)); process.stdin.on("data", (data) => { process.stdout.write("out " + data); process.stderr.write("err"); require("http").get({ socketPath: process.env.VRAM_SOCKET, path: "/ready" }, (a) => a.resume()); })`;
    const parent = spawn(NODE, [BIN, "lease", "m", ...child(then)], {
      env: { ...process.env, VRAM_SOCKET: stub.socket },
    });
    const texts = { out: "", err: "" };
    parent.stdout.on("data", (data: Buffer) => {
      texts.out += data.toString();
    });
    parent.stderr.on("data", (data: Buffer) => {
      texts.err += data.toString();
    });
    const ended = new Promise<unknown>((resolve) => parent.once("close", resolve));
    parent.stdin.write("hello");
    await ready.asked;
    parent.kill("SIGTERM");
    expect(await ended).toBe(9);
    expect(texts).toEqual({ out: "out hello", err: expect.stringMatching(/err$/) as string });
    expect(stub.of(RELEASE)).toHaveLength(1);
  });
});
