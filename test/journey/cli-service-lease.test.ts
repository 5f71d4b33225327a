/** `vram lease`: a child under a lease, what it inherits, and how it ends. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { startChild } from "../../src/cli/commands/lease-child.ts";
import * as replies from "../../src/service/replies.ts";
import { vram } from "../helpers/cli.ts";
import { vramAt } from "../helpers/cli-service.ts";
import { child, grants, ID, NODE, RELEASE, UP } from "../helpers/lease-child.ts";
import * as is from "../helpers/stub-replies.ts";
import { checked, openStub, problemOf } from "../helpers/stub-service.ts";
import { temporaryFolder } from "../helpers/vram.ts";

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
