import { createSecretKey } from "node:crypto";
import { readFile } from "node:fs/promises";
import { inspect } from "node:util";
import { describe, expect, it } from "vitest";
import { deriveKey } from "../../src/seal/key.ts";
import { createFaultPlan } from "../../src/testing.ts";
import { vram as vramCli } from "../helpers/cli.ts";
import { recordingNarrator } from "../helpers/narration.ts";
import { codeOf, MIB, openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

/** Every form in which a value could be printed or sent. */
function everyForm(value: unknown): string {
  const forms = [inspect(value, { depth: 12, showHidden: true, getters: true }), String(value)];
  const jsonable = (_key: string, part: unknown): unknown => (typeof part === "bigint" ? part.toString() : part);
  forms.push(JSON.stringify(value, jsonable));
  if (value instanceof Error) forms.push(value.stack ?? "", JSON.stringify(Object.entries(value)));
  return forms.join("\n");
}

describe("what is shown", () => {
  it("[VR-MEM-07] [VR-SEAL-03] [VR-IN-04] [VR-NAR-02] no pointer, key or foreign path, in any form, of anything", async () => {
    const faults = createFaultPlan();
    const pointers = new Set<bigint>();
    const stateDir = `${await temporaryFolder()}/state`;
    const { path, bytes } = await randomFile(3 * MIB);
    const [json, text] = [await recordingNarrator(), await recordingNarrator({ format: "text" })];
    const system = await openSmall({ stateDir, readers: [json.narrator, text.narrator] }, { faults });
    const { vram, open, entries } = system;
    // Every bigint the border hands out or takes: pointers, handles, contexts.
    for (const noun of ["memory", "stream", "event", "module", "context"] as const) {
      const calls = open.driver[noun] as unknown as Record<string, (...args: unknown[]) => unknown>;
      for (const [verb, call] of Object.entries(calls)) {
        calls[verb] = (...args: unknown[]) => {
          const result = call(...args);
          for (const value of [...args, result]) if (typeof value === "bigint") pointers.add(value);
          return result;
        };
      }
    }
    const sealed = await vram.seal(path, { name: "m" });
    const shown: unknown[] = [
      sealed,
      await vram.verify("m", { seal: sealed.seal }),
      vram.inspect("m"),
      vram.list(),
      vram,
    ];
    shown.push(vram.devices(), vram.checkPolicy(), await vram.capacity(), open.system, open.workers, entries);
    shown.push(open.system.registry.find("m").seal, structuredClone(sealed));
    await system.flipBit("m", 5, 5);
    shown.push(await vram.verify("m").catch((error: unknown) => error));
    shown.push(await vram.evict("m"));
    await vram.resume("seen");
    for (const code of [1, 2, 700]) {
      for (let nth = 1; nth <= 12; nth += 1) {
        faults.reset();
        faults.failCall("*", nth, code);
        shown.push(await vram.seal(path, { name: "again" }).catch((error: unknown) => error));
        for (const record of vram.list()) shown.push(await vram.evict(record.shardId));
      }
    }
    faults.reset();
    expect(json.lines().length).toBeGreaterThan(100);
    shown.push(entries, json.text(), text.text());

    const rootKey = await readFile(`${stateDir}/root.key`, "utf8");
    const all = shown.map(everyForm).join("\n").toLowerCase();
    expect(all).not.toContain(rootKey);
    expect(all).not.toContain(Buffer.from(rootKey, "hex").toString("base64").toLowerCase());
    expect(all.length).toBeGreaterThan(10_000);
    const large = [...pointers].filter((pointer) => pointer > 0xffff_ffffn);
    expect(large.length).toBeGreaterThan(10);
    for (const pointer of large) {
      expect(all).not.toContain(pointer.toString(16));
      expect(all).not.toContain(pointer.toString(10));
    }
    expect(all).not.toContain(stateDir.toLowerCase());
    expect(all).not.toContain(bytes.subarray(0, 24).toString("hex"));
    // The path the caller gave may stand in errors about that path, and in our own object's inspection of its source.
    const withoutInternals = shown.filter((value) => value !== open.system && value !== open.workers);
    const publicText = withoutInternals.map(everyForm).join("\n");
    expect(publicText).not.toContain(path);
  });

  it("[VR-MEM-07] a record is exactly its public fields in every form", async () => {
    const { path } = await randomFile(MIB);
    const { vram } = await openSmall();
    const { record } = await vram.seal(path);
    const fields = [
      ...["shardId", "name", "state", "sealed", "backend", "device", "byteLength", "digestAlgorithm", "digest"],
      ...["comparedWith", "shardIndex", "totalShards", "sealedAt", "lastVerifiedAt", "leases", "exports"],
      "exportsTotal",
    ];
    expect(Object.keys(record)).toEqual(fields);
    expect(structuredClone(record)).toEqual(record);
    expect(JSON.parse(String(record))).toEqual(record);
    expect(JSON.parse(JSON.stringify(record))).toEqual(record);
    expect(Object.isFrozen(record)).toBe(true);
  });

  it("[VR-SEAL-03] no command prints a key, and its document names no path but those given", async () => {
    const folder = await temporaryFolder();
    const stateDir = `${folder}/state`;
    const { path } = await randomFile(5000);
    const texts: string[] = [];
    const wrong = "0".repeat(64);
    for (const args of [["--tamper"], ["--expect", wrong], ["--name", "x"], ["--backend", "cuda"]]) {
      const { out, err } = await vramCli(["try", "--json", "--state-dir", stateDir, ...args, path]);
      texts.push(out, err);
    }
    texts.push((await vramCli(["digest", "--json", path])).out, (await vramCli(["doctor", "--json"])).out);
    const all = texts.join("\n");
    const root = createSecretKey(Buffer.from(await readFile(`${stateDir}/root.key`, "utf8"), "hex"));
    const uuid = /EMU-[0-9a-f-]{36}/.exec(all)?.[0] ?? "";
    const derived = deriveKey(root, "seal", "emulated", uuid);
    for (const key of [root, derived]) expect(all).not.toContain(key.export().toString("hex"));
    expect(all).not.toContain(stateDir);
    for (const found of all.matchAll(/"(\/[^"]+)"/g)) expect(found[1]).toBe(path);
  });

  it("[VR-IN-04] every refusal has a stable code, a cause, a fix, and says whether it may be retried", async () => {
    const { vram } = await openSmall();
    const error: unknown = await vram.seal("/no/such/file").catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ name: "VramError", code: "SOURCE_NOT_FOUND", retriable: false, fatal: false });
    expect(JSON.parse(JSON.stringify(error))).toEqual({
      code: "SOURCE_NOT_FOUND",
      message: "/no/such/file: no such file",
      fix: "check the path",
      retriable: false,
      details: { path: "/no/such/file" },
    });
    expect(await codeOf(vram.verify("nobody"))).toBe("SHARD_NOT_FOUND");
  });
});
