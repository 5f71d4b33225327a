/** The commands that talk to a service: help, what they show, exit codes, terminals, and where the service is. */

import { readFileSync } from "node:fs";
import { chmod, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { addressOf, requireOwnFolder } from "../../src/cli/service-address.ts";
import type { ErrorCode } from "../../src/errors.ts";
import * as replies from "../../src/service/replies.ts";
import { vram } from "../helpers/cli.ts";
import { vramAt } from "../helpers/cli-service.ts";
import * as is from "../helpers/stub-replies.ts";
import { checked, openStub, problemOf, type StubRoutes } from "../helpers/stub-service.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const golden = (name: string): string => join(import.meta.dirname, "../golden", name);
const COMMANDS = ["seal", "ps", "show", "plan", "verify", "lease", "evict", "resume"];

beforeEach(() => void vi.useFakeTimers({ toFake: ["Date"], now: is.NOW }));
afterEach(() => void vi.useRealTimers());

const LISTING: StubRoutes = { "GET /v1/shards": checked(replies.listing, is.fullListing()) };
const SHOWN: StubRoutes = {
  "GET /v1/shards/m": {
    json: {
      shards: [is.record({ sha256: "c".repeat(64), totalShards: 2 })],
      missing: [is.missing({ reason: "it waits" })],
    },
  },
};
const PLAN: StubRoutes = { "POST /v1/plan": checked(replies.plan, is.plan()) };
const EVICTED: StubRoutes = { "DELETE /v1/shards/m": checked(replies.eviction, is.eviction()) };
const RESUMED: StubRoutes = {
  "POST /v1/resume": checked(replies.devices, {
    devices: [is.device(), is.device({ ordinal: 1, state: "stopped", reason: "a mismatch" })],
  }),
};

describe("the commands of a service", () => {
  it.each(COMMANDS)("vram %s shows help with examples first", async (command) => {
    const { out, code } = await vram([command, "--help"]);
    expect(code).toBe(0);
    expect(out.startsWith(`Examples:\n  $ vram ${command}`)).toBe(true);
    await expect(out).toMatchFileSnapshot(golden(`help-${command}.txt`));
  });

  it.each<[string, StubRoutes, readonly string[]]>([
    ["ps", LISTING, []],
    ["show", SHOWN, ["m"]],
    ["plan", PLAN, ["m"]],
    ["evict", EVICTED, ["m"]],
    ["resume", RESUMED, ["--reason", "r"]],
  ])("vram %s prints one JSON document, and the page names its schema", async (command, routes, words) => {
    const { code, out, err } = await vramAt(routes, [command, "--json", ...words]);
    expect([code, err]).toEqual([0, ""]);
    await expect(out).toMatchFileSnapshot(golden(`${command}.json`));
    const page = readFileSync(join(import.meta.dirname, "../../docs/cli.md"), "utf8");
    expect(page.includes(`\`schema\` \`vram-residency/${command}/v1\``), "the page").toBe(true);
  });
});

describe("vram ps", () => {
  it("has a row for what is resident, what is missing, and what is being sealed", async () => {
    const { code, out, err } = await vramAt(LISTING, ["ps"]);
    expect(code).toBe(0);
    await expect(out).toMatchFileSnapshot(golden("ps.txt"));
    expect(err).toBe(`backend emulated: ${is.EVIDENCE}\ngone is refused: the source changed\n`);
  });

  it("says nothing of a backend that is a GPU, and what to do where nothing is resident", async () => {
    const empty = is.listing({ backend: "cuda", shards: [] });
    const { out, err } = await vramAt({ "GET /v1/shards": checked(replies.listing, empty) }, ["ps"]);
    expect(out).toBe("NAME  DIGEST  SIZE  RESIDENT  STATE  VERIFIED  LEASES  GPU  AGE\n");
    expect(err).toBe("nothing is resident; `vram seal FILE` seals a model\n");
  });

  it("is one record a block on a terminal of 40 columns, and a table in a pipe", async () => {
    const narrow = await vramAt(LISTING, ["ps"], { terminal: true, columns: 40, env: { NO_COLOR: "1" } });
    await expect(narrow.out).toMatchFileSnapshot(golden("ps-40-columns.txt"));
    for (const line of narrow.out.split("\n")) expect(Array.from(line).length).toBeLessThanOrEqual(40);
    const long = is.listing({ shards: [is.record({ name: "n".repeat(100) })] });
    const routes = { "GET /v1/shards": checked(replies.listing, long) };
    const cut = await vramAt(routes, ["ps"], { terminal: true, columns: 40, env: { NO_COLOR: "1" } });
    expect(cut.out.split("\n")[0]).toBe(`${"n".repeat(39)}…`);
    expect((await vramAt(routes, ["ps"], { columns: 40 })).out).toContain("n".repeat(100));
    expect((await vramAt(LISTING, ["ps"], { terminal: true, columns: 0, env: { TERM: "dumb" } })).out).toMatch(
      /^llama/,
    );
  });

  it("colours terminals only, and not with NO_COLOR", async () => {
    const wide = { terminal: true, columns: 200 };
    expect((await vramAt(LISTING, ["ps"], wide)).out).toContain("\u001b[32myes\u001b[39m       sealed");
    expect((await vramAt(LISTING, ["ps"], { ...wide, env: { NO_COLOR: "1" } })).out).not.toContain("\u001b");
    const evil = is.listing({ evidence: "a\u001b[31m", shards: [is.record({ name: "x\u001b[2J\u202e" })] });
    const told = await vramAt({ "GET /v1/shards": checked(replies.listing, evil) }, ["ps"]);
    for (const forged of ["\u001b", "\u202e"]) expect(told.out + told.err).not.toContain(forged);
  });
});

describe("vram show, plan, evict and resume", () => {
  it("shows a record in full, and what is missing of a set", async () => {
    const { out, err, code } = await vramAt(SHOWN, ["show", "m"]);
    expect(code).toBe(0);
    await expect(out).toMatchFileSnapshot(golden("show.txt"));
    expect(err).toContain("backend emulated: ");
    const alone = { "GET /v1/shards/m": { json: { shards: [], missing: [is.missing()] } } };
    expect((await vramAt(alone, ["show", "m"])).out).not.toContain("reason");
    const expected = {
      "GET /v1/shards/m": { json: { shards: [is.record({ comparedWith: "expected", sealed: false })], missing: [] } },
    };
    expect((await vramAt(expected, ["show", "m"])).out).toContain("with the digest that was expected");
  });

  it("plans a file by its absolute path, and says whether it would be sealed", async () => {
    const words = ["--name", "m", "--device", "1", "--format", "gguf", "--shards", "2"];
    const { out, code, stub } = await vramAt(PLAN, ["plan", "dir/m.gguf", ...words]);
    expect(code).toBe(0);
    expect(stub.asked[0]?.body).toEqual({
      ...{ path: join(process.cwd(), "dir/m.gguf"), name: "m", device: 1, format: "gguf", shards: 2 },
    });
    expect(out).toBe(
      `llama.safetensors fits\n  needs   5.0 GiB (5368709120 bytes)\n  free    6.9 GiB of 8.0 GiB (7448035328 bytes)\n  device  0 (${is.DEVICE.uuid})\n`,
    );
    const member = { name: "a", byteLength: 1, format: "gguf", tensorCount: 2, fits: true };
    const tight = is.plan({ fits: false, resident: true, members: [member, { ...member, name: "b", fits: false }] });
    const not = await vramAt({ "POST /v1/plan": checked(replies.plan, tight) }, ["plan", "--device", "GPU-1", "m"]);
    expect(not).toMatchObject({ code: 1 });
    expect(not.stub.asked[0]?.body).toMatchObject({ device: "GPU-1" });
    expect(not.out).toContain("llama.safetensors does not fit\n");
    expect(not.out).toContain(
      "\nMEMBER  SIZE  TENSORS  FORMAT  FITS\na        1 B        2  gguf    yes\nb        1 B        2  gguf    no\n",
    );
    const blocked = checked(replies.plan, is.plan({ blocked: "the worker is stopped" }));
    const stopped = await vramAt({ "POST /v1/plan": blocked }, ["plan", "--json", "m"]);
    expect(stopped.code).toBe(5);
    expect(JSON.parse(stopped.out)).toMatchObject({ ok: false, fits: true, blocked: "the worker is stopped" });
    expect((await vramAt(PLAN, ["plan", "--shards", "many", "m"])).code).toBe(2);
  });

  it("evicts one name after the other, goes on past failures, and revokes where it is told to", async () => {
    const odd = is.eviction({ shards: [{ record: is.record(), zeroed: false, reason: "it is exported" }] });
    const none = is.eviction({ name: "gone", shards: [] });
    const routes: StubRoutes = {
      ...EVICTED,
      "DELETE /v1/shards/busy": problemOf("SHARD_BUSY", { detail: "2 leases" }),
      "DELETE /v1/shards/odd": checked(replies.eviction, odd),
      "DELETE /v1/shards/gone": checked(replies.eviction, none),
      "DELETE /v1/shards/never": checked(replies.eviction, { ...none, name: "never", wanted: false }),
    };
    const { code, out, err, stub } = await vramAt(routes, ["evict", "busy", "m", "odd", "gone", "never"]);
    expect(code).toBe(1);
    expect(out).toBe(
      "llama.safetensors  evicted  zeroed\nllama.safetensors  evicted  not zeroed: it is exported\n" +
        "gone  was not resident; wanted no more\nnever  was not resident\n",
    );
    expect(err).toContain("error SHARD_BUSY: busy: 2 leases\nfix   release its leases");
    expect(stub.asked.map(({ route }) => route).join()).not.toContain("revoke");
    const revoked = await vramAt(EVICTED, ["evict", "--revoke", "m"]);
    expect(revoked.stub.asked[0]?.route).toBe("DELETE /v1/shards/m?revoke=true");
    const json = await vramAt(routes, ["evict", "--json", "busy", "m"]);
    expect(JSON.parse(json.out)).toMatchObject({
      ok: false,
      evictions: [{ name: "llama.safetensors" }],
      errors: [{ name: "busy", error: { code: "SHARD_BUSY" } }],
    });
  });

  it("resumes with a reason, all devices or one", async () => {
    const { code, out, stub } = await vramAt(RESUMED, ["resume", "--reason", "new riser"]);
    expect(code).toBe(0);
    expect(out).toBe(`device 0  running  ${is.DEVICE.uuid}\ndevice 1  stopped  ${is.DEVICE.uuid}  a mismatch\n`);
    expect(stub.asked[0]?.body).toEqual({ reason: "new riser" });
    const one = await vramAt(RESUMED, ["resume", "--reason", "r", "--device", "GPU-1"]);
    expect(one.stub.asked[0]?.body).toEqual({ reason: "r", device: "GPU-1" });
    expect((await vram(["resume"])).err).toContain("required option '--reason <text>'");
  });
});

describe("exit codes", () => {
  it.each<[number, readonly string[], string, ErrorCode]>([
    [2, ["show", "m"], "GET /v1/shards/m", "INVALID_ARGUMENT"],
    [1, ["show", "m"], "GET /v1/shards/m", "SHARD_NOT_FOUND"],
    [3, ["verify", "m"], "POST /v1/shards/m/verifications", "MEASUREMENT_MISMATCH"],
    [3, ["seal", "m"], "POST /v1/shards", "DIGEST_MISMATCH"],
    [4, ["ps"], "GET /v1/shards", "UNAUTHENTICATED"],
    [4, ["evict", "m"], "DELETE /v1/shards/m", "FORBIDDEN"],
    [5, ["seal", "m"], "POST /v1/shards", "WORKER_STOPPED"],
    [5, ["lease", "m", "--", "true"], "POST /v1/leases", "SHARD_NOT_RESIDENT"],
    [6, ["ps"], "GET /v1/shards", "SERVICE_UNREACHABLE"],
    [7, ["lease", "m", "--", "true"], "POST /v1/leases", "AUDIT_UNAVAILABLE"],
    [7, ["resume", "--reason", "r"], "POST /v1/resume", "AUDIT_UNAVAILABLE"],
    [8, ["verify", "m"], "POST /v1/shards/m/verifications", "VRAM_UNREADABLE"],
    [8, ["plan", "m"], "POST /v1/plan", "DEVICE_LOST"],
  ])("%i for vram %j, answered on %s with %s", async (exit, argv, route, code) => {
    const routes = { [route]: problemOf(code) };
    const text = await vramAt(routes, argv);
    expect(text.code).toBe(exit);
    expect(text.err).toMatch(new RegExp(`^error ${code}: (\\S+: )?${code} it is\nfix {3}\\S`));
    const json = await vramAt(routes, [argv[0] ?? "", "--json", ...argv.slice(1)]);
    expect(json.code).toBe(exit);
    const document = JSON.parse(json.out) as { ok: boolean; error?: object; errors?: { error: object }[] };
    expect(document.ok).toBe(false);
    expect(document.error ?? document.errors?.[0]?.error).toMatchObject({ code, message: `${code} it is` });
  });

  it.each([
    ["ps"],
    ["show", "m"],
    ["plan", "m"],
    ["seal", "m"],
    ["seal", "--wait", "m"],
    ["verify", "m"],
    ["verify", "--all"],
    ["lease", "m", "--", "true"],
    ["evict", "a", "b"],
    ["resume", "--reason", "r"],
  ])("6 for vram %s %s %s without a service, saying how to start one", async (...argv) => {
    const socket = join(await temporaryFolder(), "no.sock");
    const { code, err, out } = await vram([...argv.slice(0, 1), "--socket", socket, ...argv.slice(1)]);
    expect([code, out.replace(/^m {2}FAILED.*\n/, "")]).toEqual([6, ""]);
    expect(err).toContain(`no service answers at ${socket}: ENOENT`);
    expect(err).toContain("start one with `vram serve`");
    expect(err.match(/^error /gm)).toHaveLength(1);
  });

  it.each([
    ["ps"],
    ["show", "m"],
    ["plan", "m"],
    ["seal", "m"],
    ["verify", "m"],
    ["lease", "m", "--", "true"],
    ["evict", "m"],
    ["resume", "--reason", "r"],
  ])("130 for vram %s %s when it is interrupted", async (...argv) => {
    const { code, err } = await vramAt({}, argv, { signal: AbortSignal.abort() });
    expect(code).toBe(130);
    expect(err).toContain("error ABORTED: ");
  });
});

describe("where the service is", () => {
  const hostOf = (env: Readonly<Record<string, string>>) => ({
    ...{ env, out: () => undefined, err: () => undefined, outIsTerminal: false, errIsTerminal: false, columns: 80 },
    signal: new AbortController().signal,
  });

  it("takes --socket, VRAM_SOCKET, or the usual place; --url with the token of VRAM_TOKEN", async () => {
    const env = { VRAM_SOCKET: "run/v.sock", XDG_RUNTIME_DIR: "/run/user/7" };
    expect(addressOf(hostOf(env), {})).toEqual({ socket: join(process.cwd(), "run/v.sock") });
    expect(addressOf(hostOf(env), { socket: "/s" })).toEqual({ socket: "/s" });
    expect(addressOf(hostOf({ ...env, VRAM_SOCKET: "" }), {})).toEqual({
      socket: "/run/user/7/vram-residency/vram.sock",
    });
    expect(addressOf(hostOf(env), { url: "http://h:1" })).toEqual({ url: "http://h:1" });
    expect(addressOf(hostOf({ VRAM_TOKEN: "t" }), { url: "http://h:1" })).toEqual({ url: "http://h:1", token: "t" });
    expect(() => addressOf(hostOf(env), { socket: "" })).toThrow("--socket must name a socket");
    expect(() => addressOf(hostOf(env), { socket: `/${"s".repeat(107)}` })).toThrow("at most 107 bytes");
    expect((await vram(["ps", "--socket", "a", "--url", "http://h:1"])).err).toContain("cannot be used with");
    expect((await vram(["ps", "--url", "nonsense"])).code).toBe(2);
  });

  it("reaches a service over TCP, with the token that it asks for", async () => {
    const stub = await openStub(LISTING, "port");
    const { code, out } = await vram(["ps", "--url", stub.url], {
      env: { VRAM_TOKEN: "vram_use_x", VRAM_SOCKET: "/no" },
    });
    expect(code).toBe(0);
    expect(out).toContain("llama.safetensors");
    expect(stub.asked[0]?.headers.authorization).toBe("Bearer vram_use_x");
  });

  it("does not believe a socket in a folder that somebody else made", async () => {
    const uid = process.getuid?.() ?? 0;
    const folder = join(await temporaryFolder(), "vram-residency-7");
    requireOwnFolder(folder, uid);
    await mkdir(folder, { mode: 0o700 });
    requireOwnFolder(folder, uid);
    expect(() => requireOwnFolder(folder, uid + 1)).toThrow("another user's, or others may write to it");
    await chmod(folder, 0o777);
    expect(() => requireOwnFolder(folder, uid)).toThrow("anybody may answer there");
  });
});
