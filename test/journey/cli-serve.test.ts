/** `vram serve`: how it starts, what keeps it from starting, and how it ends. */
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openClient } from "../../src/client.ts";
import { liveHandles } from "../../src/dispose.ts";
import { openRemoteDevice } from "../../src/process/remote-device.ts";
import { openTokens } from "../../src/service/tokens.ts";
import { type CliResult, vram } from "../helpers/cli.ts";
import { emulatedInProcess } from "../helpers/remote.ts";
import { codeOf, MIB, randomFile, temporaryFolder } from "../helpers/vram.ts";

interface Serving {
  readonly said: string;
  readonly stop: AbortController;
  readonly urgent: AbortController;
  readonly ended: Promise<CliResult>;
}

async function makePlace() {
  const folder = await temporaryFolder();
  const runtime = join(folder, "run");
  await mkdir(runtime, { mode: 0o700 });
  const env = { XDG_RUNTIME_DIR: runtime, XDG_STATE_HOME: join(folder, "state"), VRAM_EMULATED_BYTES: "" };
  return {
    folder,
    env,
    state: join(folder, "state", "vram-residency"),
    socket: join(runtime, "vram-residency", "vram.sock"),
  };
}

const SET = ["--set", "emulated.bytes=128 MiB"];
/** Devices whose processes run in this one. */
const service = {
  openDevice: (options: Parameters<typeof openRemoteDevice>[0]) =>
    openRemoteDevice({ ...options, start: emulatedInProcess().start }),
};

/** Runs `vram serve` until it can be reached; resolves earlier if it ends before. */
async function serve(env: Record<string, string>, args: readonly string[] = []): Promise<Serving> {
  const [stop, urgent] = [new AbortController(), new AbortController()];
  let ended: Promise<CliResult> | undefined;
  const said = await new Promise<string>((resolve) => {
    ended = vram(["serve", ...SET, ...args], {
      env,
      service,
      signal: stop.signal,
      urgent: urgent.signal,
      onOut: (text) => {
        if (text.endsWith("\n")) resolve(text);
      },
    });
    void ended.then(() => resolve(""));
  });
  return { said, stop, urgent, ended: ended ?? expect.fail("it was started") };
}

/** What the audit log has, in its order. */
async function recorded(state: string): Promise<Record<string, unknown>[]> {
  const folder = join(state, "audit");
  const names = (await readdir(folder)).filter((name) => name.endsWith(".jsonl")).toSorted();
  const text = (await Promise.all(names.map((name) => readFile(join(folder, name), "utf8")))).join("");
  return text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { type: string; data: object })
    .map(({ type, data }) => ({ ...data, type }));
}

describe("vram serve", () => {
  it("says where it is reached, serves, and ends in order at a signal: zeroed, freed, on record [VR-API-03]", async () => {
    const { env, state, socket } = await makePlace();
    const serving = await serve(env, ["--json"]);
    expect(JSON.parse(serving.said)).toMatchObject({
      ...{ schema: "vram-residency/serve/v1", socket, backend: "emulated", pid: process.pid },
      evidence: expect.stringContaining("EMULATED") as string,
    });
    const client = openClient({ socket });
    const { path } = await randomFile(MIB);
    expect(await client.seal({ path, wait: true })).toMatchObject({ state: "succeeded" });
    const { lease } = await client.grant({ shard: "model.bin" });
    serving.stop.abort();
    // It drains: what is held can be given back, nothing new begins.
    let refused = "";
    while (refused !== "SERVICE_STOPPING")
      refused = await codeOf(client.grant({ shard: "model.bin", maxAgeMs: 60_000 }));
    await client.release(lease.leaseId);
    client.close();
    expect(await serving.ended).toMatchObject({ code: 0 });
    expect(existsSync(socket)).toBe(false);
    const entries = await recorded(state);
    const freed = entries.filter(({ type }) => type === "vram_deallocated");
    expect(freed).toMatchObject([{ because: "closed", zeroed: true }]);
    expect(entries.findLast(({ type }) => type === "service_stopped")).toMatchObject({ because: "closed" });
    const verified = await vram(["audit", "verify", "--json", "--state-dir", state]);
    expect(JSON.parse(verified.out)).toMatchObject({ ok: true, verdict: "intact" });
    expect(liveHandles()).toEqual({});
  });

  it("revokes leases that outlast the time it drains, and stops at once at a second signal [VR-API-03]", async () => {
    const { env, state, socket } = await makePlace();
    const { path } = await randomFile(MIB);
    const first = await serve(env, ["--set", "lease.drainMs=1"]);
    const client = openClient({ socket });
    await client.seal({ path, wait: true });
    await client.grant({ shard: "model.bin" });
    client.close();
    first.stop.abort();
    expect(await first.ended).toMatchObject({ code: 0 });
    expect((await recorded(state)).filter(({ type }) => type === "lease_revoked")).toMatchObject([
      { because: "closed" },
    ]);

    const second = await serve(env, ["--log-format", "text"]);
    const again = openClient({ socket });
    while ((await again.health()) !== "ok");
    await again.grant({ shard: "model.bin" });
    again.close();
    second.stop.abort();
    second.urgent.abort();
    const { code, err } = await second.ended;
    expect([code, err]).toEqual([130, expect.stringContaining("stopping")]);
    const entries = await recorded(state);
    expect(entries.findLast(({ type }) => type === "service_stopped")).toMatchObject({ because: "interrupted" });
    expect(entries.findLast(({ type }) => type === "vram_deallocated")).toMatchObject({ zeroed: false });
  });

  it("[VR-API-02] serves TCP with tokens, and metrics without", async () => {
    const { env, state } = await makePlace();
    const serving = await serve(env, ["--json", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
    const { listen, metrics } = JSON.parse(serving.said) as Record<
      "listen" | "metrics",
      { host: string; port: number }
    >;
    const { token } = await openTokens(state).add("engine", "use");
    const url = `http://${listen.host}:${listen.port}`;
    const client = openClient({ url, token });
    expect(await client.list()).toMatchObject({ backend: "emulated", shards: [] });
    expect(await codeOf(client.resume({ reason: "mine" }))).toBe("FORBIDDEN");
    const stranger = openClient({ url });
    expect(await codeOf(stranger.list())).toBe("UNAUTHENTICATED");
    const figures = await fetch(`http://${metrics.host}:${metrics.port}/metrics`);
    expect(await figures.text()).toContain("vram_residency_service_info");
    client.close();
    stranger.close();
    serving.stop.abort();
    expect((await serving.ended).code).toBe(0);
  });

  it.each([
    ["a key nobody knows", ["--set", "lease.maxsMs=1"], 2, "lease.maxMs"],
    [
      "a group nobody knows",
      ["--set", "allowedGroup=no-such-group-here"],
      2,
      "no such group|no group no-such-group-here",
    ],
    ["a device that is not there", ["--set", "devices=7"], 1, "DEVICE_NOT_FOUND"],
    ["others' machines without TLS", ["--listen", "0.0.0.0:0"], 2, "TLS"],
  ])("does not start with %s, and leaves nothing behind", async (_, args, code, said) => {
    const { env, socket } = await makePlace();
    const { ended } = await serve(env, args);
    const result = await ended;
    expect([result.code, result.out]).toEqual([code, ""]);
    expect(result.err).toMatch(new RegExp(said));
    expect(existsSync(socket)).toBe(false);
    expect(liveHandles()).toEqual({});
    // The state can be used: nobody holds its lock.
    const serving = await serve(env);
    serving.stop.abort();
    expect((await serving.ended).code).toBe(0);
  });

  it("does not start where nobody says where its state is", async () => {
    const { env } = await makePlace();
    const result = await vram(["serve"], { env: { ...env, XDG_STATE_HOME: "" }, service });
    expect(result).toMatchObject({ code: 2, err: expect.stringContaining("--state-dir") as string });
  });

  it("a second one is refused with the pid of the first, which goes on", async () => {
    const { env, socket } = await makePlace();
    const first = await serve(env);
    const second = await (await serve(env)).ended;
    expect(second).toMatchObject({ code: 1, err: expect.stringContaining(`process ${process.pid}`) as string });
    const other = await makePlace();
    const elsewhere = await (await serve(other.env, ["--socket", socket])).ended;
    expect([elsewhere.code, elsewhere.err]).toEqual([1, expect.stringContaining("STATE_BUSY")]);
    const client = openClient({ socket });
    expect((await client.ready()).ready).toBe(true);
    client.close();
    first.stop.abort();
    expect((await first.ended).code).toBe(0);
  });
});
