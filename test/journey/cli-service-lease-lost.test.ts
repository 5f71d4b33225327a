/** `vram lease`: signals, and what becomes of the child when the lease is lost. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { isForeground, passSignals, startChild, statusOf, unstartable } from "../../src/cli/commands/lease-child.ts";
import * as replies from "../../src/service/replies.ts";
import { BIN } from "../helpers/cli-process.ts";
import { start } from "../helpers/cli-service.ts";
import { child, gate, grants, ID, NODE, RELEASE, RENEWALS, UP } from "../helpers/lease-child.ts";
import * as is from "../helpers/stub-replies.ts";
import { checked, eventOf, openStub, problemOf, stubFeed } from "../helpers/stub-service.ts";

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
    const ready = gate();
    const { socket } = await openStub({ "GET /child": UP, "GET /ready": ready.route });
    const [, command = "", ...args] = child(
      'process.on("SIGTERM", () => {}); require("http").get({ socketPath: process.env.VRAM_SOCKET, path: "/ready" }, (a) => a.resume())',
    );
    const deaf = await startChild([command, ...args], { VRAM_SOCKET: socket });
    await ready.asked;
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
    const arrived = gate();
    const stub = await openStub({
      ...grants(500),
      [RENEWALS]: refused.route,
      // The child waits for this answer, and so outlives the renewal that is refused.
      "GET /child": async () => {
        arrived.route();
        await refused.asked;
        return UP;
      },
    });
    const running = start(["lease", "--on-revoke", "keep", "m", ...child("process.exit(4)")], {
      VRAM_SOCKET: stub.socket,
    });
    await arrived.asked;
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
