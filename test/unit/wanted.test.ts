/** The wanted set: kept under a mac over every byte, strict, bounded, and changed as a whole. */
import { createHmac, randomBytes } from "node:crypto";
import { chmod, readdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { LIMITS } from "../../src/limits.ts";
import type { Seal, SealFields } from "../../src/seal/encoding.ts";
import { createRootKey, deriveKey, deriveWorkerKeys } from "../../src/seal/key.ts";
import { createSeal } from "../../src/seal/seal.ts";
import { createSetSeal } from "../../src/seal/set.ts";
import { openWanted, WANTED_FILE, type WantedSet } from "../../src/service/wanted.ts";
import { decodeWanted, encodeWanted, type WantedRow } from "../../src/service/wanted-rows.ts";
import { codeOf, temporaryFolder } from "../helpers/vram.ts";

const ROOT = createRootKey();
const UUID = "EMU-00000000-0000-0000-0000-000000000001";
const KEYS = deriveWorkerKeys(ROOT, "emulated", UUID);
const KEY = deriveKey(ROOT, "wanted", "emulated", "");

function seal(name: string, fields: Partial<SealFields> = {}): Seal {
  return createSeal(KEYS, {
    instanceId: "11".repeat(16),
    sequence: 1,
    shardId: `shard-${name.replaceAll(/[^a-z0-9]/g, "-")}`,
    name,
    shardIndex: 0,
    totalShards: 1,
    sourceOffset: 0,
    byteLength: 4096,
    digestAlgorithm: "fsverity-sha256-4096",
    digest: "22".repeat(32),
    sha256: "",
    comparedWith: "witnessed",
    backend: "emulated",
    deviceUuid: UUID,
    policyDigest: "33".repeat(32),
    sealedAtMs: 1,
    maxAgeMs: 0,
    ...fields,
  });
}

const shard = (name: string, fields: Partial<SealFields> = {}): WantedRow => ({
  kind: "shard",
  seal: seal(name, fields),
  path: `/srv/models/${name}.gguf`,
  format: { format: "gguf" },
});

function set(name: string, total: number, change: Partial<Extract<WantedRow, { kind: "set" }>> = {}): WantedRow {
  const members = Array.from({ length: total }, (_, index) =>
    seal(`${name}/${index}`, { shardIndex: index, totalShards: total }),
  );
  const sealed = createSetSeal(
    deriveKey(ROOT, "set", "emulated", ""),
    "",
    members.map(({ mac }) => mac),
  );
  const made = { ...sealed, macs: [...sealed.macs] };
  return { kind: "set", name, set: made, members, path: `/srv/models/${name}`, shards: 1, format: {}, ...change };
}

const open = (stateDir: string, backend: "emulated" | "cuda" = "emulated"): Promise<WantedSet> =>
  openWanted({ stateDir, rootKey: ROOT, backend });
const names = (wanted: WantedSet): string[] =>
  wanted.rows().map((row) => (row.kind === "shard" ? row.seal.name : row.name));

describe("[VR-API-04] the wanted set", () => {
  it("is kept over restarts, with the full seals, in a file that only this user may read", async () => {
    const stateDir = await temporaryFolder();
    const wanted = await open(stateDir);
    expect(wanted.rows()).toEqual([]);
    expect(await readdir(stateDir)).toEqual([]);
    const rows = [shard("a"), set("b", 3), shard("ä “c”\\\u{1f600}")];
    for (const row of rows) await wanted.put(row);
    expect(wanted.rows()).toEqual(rows);
    expect((await open(stateDir)).rows()).toEqual(rows);
    expect((await stat(join(stateDir, WANTED_FILE))).mode & 0o777).toBe(0o600);
    expect(await readdir(stateDir)).toEqual([WANTED_FILE]);
    expect(JSON.parse(await readFile(join(stateDir, WANTED_FILE), "utf8"))).toMatchObject({ version: 1, rows });
  });

  it("has one row of a name: the newest; and forgets what is removed", async () => {
    const stateDir = await temporaryFolder();
    const wanted = await open(stateDir);
    await wanted.put(shard("a"));
    await wanted.put(shard("b"));
    await wanted.put(shard("a", { sequence: 2 }));
    expect(names(wanted)).toEqual(["b", "a"]);
    expect(await wanted.remove("a")).toMatchObject({ seal: { sequence: 2 } });
    expect(await wanted.remove("a")).toBeUndefined();
    expect(names(await open(stateDir))).toEqual(["b"]);
    await wanted.remove("b");
    expect((await open(stateDir)).rows()).toEqual([]);
  });

  it("takes changes one after the other: none is lost", async () => {
    const stateDir = await temporaryFolder();
    const wanted = await open(stateDir);
    const letters = ["a", "b", "c", "d", "e", "f", "g", "h"];
    await Promise.all([...letters.map((name) => wanted.put(shard(name))), wanted.remove("c")]);
    expect(names(wanted)).toEqual(letters.filter((name) => name !== "c"));
    expect(names(await open(stateDir))).toEqual(names(wanted));
  });

  it("takes in nothing that cannot be written; what is removed is gone, and the next change says so", async () => {
    const folder = await temporaryFolder();
    const stateDir = join(folder, "state");
    await writeFile(stateDir, "");
    const elsewhere = await temporaryFolder();
    const wanted = await open(elsewhere);
    await wanted.put(shard("a"));
    await rename(elsewhere, join(folder, "gone"));
    expect(await codeOf(wanted.put(shard("b")))).toBe("STATE_INVALID");
    expect(await codeOf(wanted.remove("a"))).toBe("STATE_INVALID");
    expect(names(wanted)).toEqual([]);
    await rename(join(folder, "gone"), elsewhere);
    expect(names(await open(elsewhere))).toEqual(["a"]);
    await wanted.put(shard("c"));
    expect(names(await open(elsewhere))).toEqual(["c"]);
  });

  it("replaces a row only while it is wanted", async () => {
    const wanted = await open(await temporaryFolder());
    await wanted.put(shard("a"));
    await wanted.put(shard("b"));
    const [before] = wanted.rows();
    if (before === undefined) expect.fail("there is a row");
    await wanted.put(shard("c"));
    expect(await wanted.replace(before, shard("a", { sequence: 7 }))).toBe(true);
    expect(await wanted.replace(before, shard("a", { sequence: 8 }))).toBe(false);
    expect(names(wanted)).toEqual(["b", "c", "a"]);
  });

  it("refuses rows that do not hold together, and has not changed then", async () => {
    const wanted = await open(await temporaryFolder());
    await wanted.put(shard("a"));
    const members = [seal("s/0", { totalShards: 2 }), seal("s/1", { shardIndex: 1, totalShards: 2 })];
    const bad: readonly (readonly [string, unknown])[] = [
      ["an unknown field", { ...shard("b"), more: 1 }],
      ["a relative path", { ...shard("b"), path: "b.gguf" }],
      ["a NUL in a path", { ...shard("b"), path: "/b\0" }],
      ["a long path", { ...shard("b"), path: `/${"b".repeat(4096)}` }],
      ["an unknown format", { ...shard("b"), format: { format: "pickle" } }],
      ["a seal with a field more", { ...shard("b"), seal: { ...seal("b"), note: "" } }],
      ["a seal without a mac", { ...shard("b"), seal: { ...seal("b"), mac: "" } }],
      ["a seal of another backend", { ...shard("b"), seal: { ...seal("b"), backend: "cuda" } }],
      ["the same shard under another name", shard("b", { shardId: seal("a").shardId })],
      ["members in another order", set("s", 2, { members: members.toReversed() })],
      ["a member less", set("s", 2, { members: members.slice(1) })],
      ["members that count otherwise", set("s", 1, { members: [seal("s/0", { totalShards: 2 })] })],
      ["a name that is none", set("", 1)],
      ["another kind", { ...shard("b"), kind: "file" }],
    ];
    for (const [what, row] of bad) expect(await codeOf(wanted.put(row as WantedRow)), what).toBe("INVALID_ARGUMENT");
    expect(names(wanted)).toEqual(["a"]);
  });

  it("has a bound", async () => {
    const wanted = await open(await temporaryFolder());
    await wanted.put(set("big", LIMITS.setMembers));
    await wanted.put(set("bigger", LIMITS.wantedShards - LIMITS.setMembers));
    expect(await codeOf(wanted.put(shard("one-more")))).toBe("INVALID_ARGUMENT");
    expect(names(wanted)).toEqual(["big", "bigger"]);
    await wanted.remove("big");
    await wanted.put(shard("one-more"));
  });
});

describe("[VR-API-04] an edited document", () => {
  const bytes = encodeWanted(KEY, [shard("a"), set("b", 2)]);
  const read = (document: Uint8Array): readonly WantedRow[] => decodeWanted(KEY, document, "emulated", "wanted.json");
  const refused = expect.objectContaining({ code: "STATE_INVALID" }) as unknown;

  it("is refused, whichever byte was changed", () => {
    expect(read(bytes)).toHaveLength(2);
    for (let index = 0; index < bytes.byteLength; index += 1) {
      for (const flip of [0x01, 0x20, 0x80]) {
        const edited = Uint8Array.from(bytes, (byte, at) => (at === index ? byte ^ flip : byte));
        expect(() => read(edited), `byte ${index}`).toThrow(refused);
      }
    }
  });

  it("is refused if something was cut off or added", () => {
    for (let length = 0; length < bytes.byteLength; length += 1) {
      if (length % 7 === 0 || length > bytes.byteLength - 80)
        expect(() => read(bytes.subarray(0, length))).toThrow(refused);
    }
    for (const more of ["\n", " ", "\0", "{}"]) {
      expect(() => read(Buffer.concat([bytes, Buffer.from(more)]))).toThrow(refused);
      expect(() => read(Buffer.concat([Buffer.from(more), bytes]))).toThrow(refused);
    }
    expect(() => read(randomBytes(4096))).toThrow(refused);
  });

  it("is refused under the keys of another backend, another purpose, another root", async () => {
    const others = [
      deriveKey(ROOT, "wanted", "cuda", ""),
      deriveKey(ROOT, "set", "emulated", ""),
      deriveKey(createRootKey(), "wanted", "emulated", ""),
    ];
    for (const key of others) expect(() => decodeWanted(key, bytes, "emulated", "f")).toThrow(refused);
    const stateDir = await temporaryFolder();
    await (await open(stateDir)).put(shard("a"));
    expect(await codeOf(open(stateDir, "cuda"))).toBe("STATE_INVALID");
  });

  /** A document that says anything, with a good mac: made here from the description, not by the code under test. */
  const signed = (covered: string): Uint8Array => {
    const mac = createHmac("sha256", KEY).update(`vram-residency/wanted/v1\n${covered}`).digest("hex");
    return Buffer.from(`${covered},"mac":"${mac}"}\n`);
  };

  it("has the form that is described", () => {
    const covered = Buffer.from(bytes).toString("utf8").slice(0, -75);
    expect(Buffer.from(signed(covered))).toEqual(Buffer.from(bytes));
    expect(read(signed('{"version":1,"rows":[]'))).toEqual([]);
  });

  it.each([
    ["another version", '{"version":2,"rows":[]'],
    ["an unknown field", '{"version":1,"rows":[],"more":1'],
    ["no rows", '{"version":1'],
    ["a row of no form", '{"version":1,"rows":[1]'],
    [
      "one name twice",
      `{"version":1,"rows":[${JSON.stringify(shard("a"))},${JSON.stringify(shard("a", { shardId: "x" }))}]`,
    ],
    [
      "one shard twice",
      `{"version":1,"rows":[${JSON.stringify(shard("a"))},${JSON.stringify(shard("b", { shardId: seal("a").shardId }))}]`,
    ],
    [
      "a seal of another backend",
      `{"version":1,"rows":[${JSON.stringify({ ...shard("a"), seal: { ...seal("a"), backend: "cuda" } })}]`,
    ],
    ["no JSON", "{"],
  ])("with a good mac is refused for %s", (_, covered) => {
    expect(() => read(signed(covered))).toThrow(refused);
  });

  it("is refused as a file that others may read", async () => {
    const stateDir = await temporaryFolder();
    await (await open(stateDir)).put(shard("a"));
    await chmod(join(stateDir, WANTED_FILE), 0o644);
    expect(await codeOf(open(stateDir))).toBe("STATE_INVALID");
  });
});
