/** `vram verify`: one shard, several, all of them; what a mismatch looks like, and which failure decides. */
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import * as replies from "../../src/service/replies.ts";
import { vram } from "../helpers/cli.ts";
import { vramAt } from "../helpers/cli-service.ts";
import * as is from "../helpers/stub-replies.ts";
import { checked, problemOf, type StubRoutes } from "../helpers/stub-service.ts";

beforeEach(() => void vi.useFakeTimers({ toFake: ["Date"], now: is.NOW }));
afterEach(() => void vi.useRealTimers());

const golden = (name: string): string => join(import.meta.dirname, "../golden", name);
const at = (name: string): string => `POST /v1/shards/${name}/verifications`;
const GOOD = checked(replies.verification, is.verification());
const MISMATCH = problemOf("MEASUREMENT_MISMATCH", {
  detail: "llama.safetensors: not the sealed ones",
  details: is.DAMAGE,
});

describe("vram verify", () => {
  it("says what was measured, and how long it took", async () => {
    const { code, out, err, stub } = await vramAt({ [at("m")]: GOOD }, ["verify", "m"]);
    expect(code).toBe(0);
    expect(out).toBe(`llama.safetensors  verified  fsverity:${is.DIGEST}  measured in 2500 ms (2.15 GB/s)\n`);
    expect(err).toMatch(/^backend emulated: .*\n$/);
    expect(stub.of(at("m"))[0]?.body).toEqual({});
    const json = await vramAt({ [at("m")]: GOOD }, ["verify", "--json", "m"]);
    await expect(json.out).toMatchFileSnapshot(golden("verify.json"));
    expect(json.err).toBe("");
  });

  it("[VR-VER-07] demands a measurement no older than what is said, or one with a salt", async () => {
    const fresh = is.verification({ basis: "fresh-enough", ageMs: 61_000, bytesCovered: 0, backend: "cuda" });
    const salted = is.verification({ salted: { salt: "00ff", digest: "e".repeat(64) }, readFrom: "l2-possible" });
    const routes: StubRoutes = {
      [at("m")]: (_asked, nth) => checked(replies.verification, nth === 0 ? fresh : salted),
    };
    const words = ["--max-age", "5min", "--salt", "00ff", "m", "m"];
    const { out, err, stub } = await vramAt(routes, ["verify", ...words]);
    expect(stub.of(at("m"))[0]?.body).toEqual({ maxAgeMs: 300_000, salt: "00ff" });
    expect(out).toContain("measured 1 min ago, which is fresh enough\n");
    expect(out).toContain("; the GPU's cache may have answered for its memory\n");
    expect(out).toContain(`  salted  ${"e".repeat(64)} with 00ff\n`);
    expect(err).toBe("");
    const none = await vramAt(routes, ["verify", "--max-age", "0", "m"]);
    expect(none.stub.of(at("m"))[0]?.body).toEqual({ maxAgeMs: 0 });
    for (const odd of ["soon", "-1", "367 d", "1e3"]) {
      expect(await vram(["verify", "--max-age", odd, "m"])).toMatchObject({ code: 2 });
    }
  });

  it("verifies every member of a set that is named", async () => {
    const members = ["s/a", "s/b"].map((name, index) => is.record({ name, shardId: `shard-${index}` }));
    const { code, out, stub } = await vramAt(
      {
        "GET /v1/shards/s": checked(replies.listing.pick({ shards: true, missing: true }), {
          shards: members,
          missing: [],
        }),
        [at("shard-0")]: GOOD,
        [at("shard-1")]: MISMATCH,
      },
      ["verify", "s"],
    );
    expect(code).toBe(3);
    expect(out).toContain("s/b  FAILED  MEASUREMENT_MISMATCH");
    expect(stub.of(at("shard-0"))).toHaveLength(1);
  });

  it("names ranges, blocks and tensors of a mismatch, and exits 3", async () => {
    const { code, out, err } = await vramAt({ [at("m")]: MISMATCH }, ["verify", "m"]);
    expect(code).toBe(3);
    await expect(out).toMatchFileSnapshot(golden("verify-mismatch.txt"));
    expect(err).toContain(
      "error MEASUREMENT_MISMATCH: m: llama.safetensors: not the sealed ones\nfix   evict the shard",
    );
    const json = await vramAt({ [at("m")]: MISMATCH }, ["verify", "--json", "m"]);
    expect(json.code).toBe(3);
    expect(JSON.parse(json.out)).toMatchObject({
      ok: false,
      verifications: [],
      errors: [{ name: "m", error: { code: "MEASUREMENT_MISMATCH", details: { damage: { rangeCount: 3 } } } }],
    });
    const { damage } = is.DAMAGE;
    const many = {
      damage: {
        ...damage,
        ranges: Array(9).fill(damage.ranges[0]),
        rangeCount: 900,
        tensors: [],
        tensorCount: 0,
        blocks: [{ ...damage.blocks[0], tensors: [] }],
      },
    };
    const routes = { [at("m")]: problemOf("MEASUREMENT_MISMATCH", { details: many }) };
    const cut = await vramAt(routes, ["verify", "m"]);
    expect(cut.out).toContain(
      "damaged  900 ranges in all\n  block    4 KiB at 4096: 1 byte differs\n  tensors  none there\n",
    );
    expect(cut.out.match(/^ {2}damaged {2}512/gm)).toHaveLength(8);
  });

  it("takes names or --all, and one of them", async () => {
    for (const words of [[], ["--all", "m"]]) {
      const { code, err } = await vram(["verify", ...words]);
      expect(code).toBe(2);
      expect(err).toContain("give names of shards, or --all and no names");
    }
  });
});

describe("vram verify --all", () => {
  const shards = ["a", "b", "c"].map((name) => is.record({ shardId: `shard-${name}`, name }));

  it("goes on past failures, and the worst one decides", async () => {
    const routes: StubRoutes = {
      "GET /v1/shards": checked(
        replies.listing,
        is.listing({ shards, missing: [is.missing({ reason: "no source" }), is.missing()] }),
      ),
      [at("shard-a")]: problemOf("SHARD_NOT_RESIDENT"),
      [at("shard-b")]: MISMATCH,
      [at("shard-c")]: GOOD,
    };
    const { code, out, err } = await vramAt(routes, ["verify", "--all"]);
    expect(code).toBe(3);
    expect(out).toMatch(/^a {2}FAILED {2}SHARD_NOT_RESIDENT$/m);
    expect(out).toMatch(/^b {2}FAILED {2}MEASUREMENT_MISMATCH$/m);
    expect(out).toMatch(/^llama.safetensors {2}verified/m);
    expect(err).toContain("qwen/00001-of-00002 is wanted and not resident (restoring: no source)\n");
    expect(err).toContain("qwen/00001-of-00002 is wanted and not resident (restoring)\n");
    const { [at("shard-b")]: _mismatch, ...others } = routes;
    expect((await vramAt({ ...others, [at("shard-b")]: GOOD }, ["verify", "--all"])).code).toBe(5);
  });

  it("is content where nothing is resident, and ends where nobody answers any more", async () => {
    const none = { "GET /v1/shards": checked(replies.listing, is.listing({ shards: [] })) };
    expect(await vramAt(none, ["verify", "--all"])).toMatchObject({ code: 0, out: "", err: "nothing is resident\n" });
    const gone: StubRoutes = {
      "GET /v1/shards": checked(replies.listing, is.listing({ shards })),
      [at("shard-a")]: problemOf("MEASUREMENT_INVALID"),
      [at("shard-b")]: { raw: (response) => void response.destroy() },
    };
    const { code, stub } = await vramAt(gone, ["verify", "--all"]);
    expect(code).toBe(8);
    expect(stub.asked).toHaveLength(3);
  });

  it("stops when it is interrupted", async () => {
    const stop = new AbortController();
    const routes: StubRoutes = { [at("m")]: { raw: () => stop.abort() } };
    const { code, out } = await vramAt(routes, ["verify", "m", "n"], { signal: stop.signal });
    expect([code, out]).toEqual([130, ""]);
  });
});
