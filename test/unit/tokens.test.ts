/** API tokens: made, kept as hashes, checked, revoked, and what becomes of a file that somebody else wrote. */
import { createHash } from "node:crypto";
import { chmod, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { LIMITS } from "../../src/limits.ts";
import { findToken, openTokens } from "../../src/service/tokens.ts";
import { codeOf, temporaryFolder } from "../helpers/vram.ts";

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");
const fileOf = (stateDir: string): string => join(stateDir, "tokens.json");

describe("[VR-API-02] tokens", () => {
  it("are 32 random bytes behind their scope, shown once, and kept as SHA-256", async () => {
    const stateDir = await temporaryFolder();
    const tokens = openTokens(stateDir, () => 1000);
    expect([await tokens.list(), await tokens.check("x")]).toEqual([[], undefined]);
    const one = await tokens.add("engine-1", "use");
    const two = await tokens.add("deploy", "operate");
    expect(one.token).toMatch(/^vram_use_[A-Za-z0-9_-]{43}$/);
    expect(two.token).toMatch(/^vram_operate_[A-Za-z0-9_-]{43}$/);
    expect(Buffer.from(one.token.slice("vram_use_".length), "base64url")).toHaveLength(32);
    const { token, ...info } = one;
    expect(info).toEqual({ name: "engine-1", scope: "use", fingerprint: sha256(token).slice(0, 6), createdAtMs: 1000 });
    expect(await tokens.list()).toEqual([info, expect.objectContaining({ name: "deploy" })]);
    expect(await tokens.check(token)).toEqual(info);
    expect(await tokens.check(two.token)).toMatchObject({ name: "deploy", scope: "operate" });

    const kept = await readFile(fileOf(stateDir), "utf8");
    expect(kept).toContain(sha256(token));
    expect(kept).not.toContain(token.slice("vram_use_".length));
    expect((await stat(fileOf(stateDir))).mode & 0o777).toBe(0o600);
    expect((await readdir(stateDir)).toSorted()).toEqual(["tokens.json", "tokens.lock"]);
  });

  it("are nobody's if a letter differs, or the scope in front", async () => {
    const tokens = openTokens(await temporaryFolder());
    const { token } = await tokens.add("a", "use");
    const others = [
      "",
      token.replace("use", "operate"),
      token.slice(0, -1),
      `${token}A`,
      ` ${token}`,
      `${token}\n`,
      token.slice("vram_use_".length),
      token.toUpperCase(),
      // The last letter of 43 has two bits that say nothing: another letter could stand for the same 32 bytes.
      ...["A", "B", "C", "D", "E", "F", "G", "H"]
        .map((letter) => token.slice(0, -1) + letter)
        .filter((text) => text !== token),
    ];
    for (const text of others) expect(await tokens.check(text), text).toBeUndefined();
    expect(await tokens.check(token)).toBeDefined();
  });

  it("are found wherever they stand, and every one of them is compared", async () => {
    const texts = ["a", "b", "c"].map((letter) => `vram_use_${letter.repeat(43)}`);
    const compared: string[] = [];
    const stored = texts.map((text, index) => ({
      name: `n${index}`,
      scope: "use" as const,
      get sha256() {
        compared.push(this.name);
        return sha256(text);
      },
      createdAtMs: 0,
    }));
    for (const [index, text] of texts.entries()) {
      compared.length = 0;
      expect(findToken(stored, text)?.name).toBe(`n${index}`);
      expect(compared).toEqual(["n0", "n1", "n2"]);
    }
  });

  it("are revoked by name, for a service that is running, too", async () => {
    const stateDir = await temporaryFolder();
    const [service, people] = [openTokens(stateDir), openTokens(stateDir)];
    const { token } = await people.add("a", "use");
    expect(await service.check(token)).toMatchObject({ name: "a" });
    expect(await people.revoke("a")).toMatchObject({ name: "a" });
    expect(await service.check(token)).toBeUndefined();
    expect(await codeOf(people.revoke("a"))).toBe("INVALID_ARGUMENT");
    const again = await people.add("a", "use");
    expect([await service.check(token), await service.check(again.token)]).toEqual([undefined, expect.anything()]);
    await rm(fileOf(stateDir));
    expect(await service.check(again.token)).toBeUndefined();
  });

  it("have names of their own, and there are 64 at most", async () => {
    const tokens = openTokens(await temporaryFolder());
    await tokens.add("a", "use");
    for (const name of ["a", "", "-a", "a b", "a\n", "ä", "x".repeat(65)]) {
      expect(await codeOf(tokens.add(name, "use")), JSON.stringify(name)).toBe("INVALID_ARGUMENT");
    }
    for (let count = 1; count < LIMITS.tokens; count += 1) await tokens.add(`t${count}`, "use");
    expect(await codeOf(tokens.add("one-more", "use"))).toBe("INVALID_ARGUMENT");
    await tokens.revoke("t1");
    await tokens.add("one-more", "use");
    expect(await tokens.list()).toHaveLength(LIMITS.tokens);
  });

  it("of a process are added one after the other; another process waits for its turn outside", async () => {
    const stateDir = await temporaryFolder();
    const tokens = openTokens(stateDir);
    await Promise.all(["a", "b", "c", "d"].map((name) => tokens.add(name, "use")));
    expect((await tokens.list()).map(({ name }) => name)).toEqual(["a", "b", "c", "d"]);
    const outcomes = await Promise.allSettled(["e", "f"].map((name) => openTokens(stateDir).add(name, "use")));
    const failed = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [outcome.reason as unknown] : []));
    for (const error of failed) expect(error).toMatchObject({ code: "STATE_BUSY", retriable: true });
    expect(await tokens.list()).toHaveLength(6 - failed.length);
  });
});

describe("[VR-API-02] a file of tokens", () => {
  const entry = { name: "a", scope: "use", sha256: "0".repeat(64), createdAtMs: 0 };

  it.each([
    ["no JSON", "{"],
    ["another version", { version: 2, tokens: [] }],
    ["an unknown field", { version: 1, tokens: [], more: 1 }],
    ["an unknown field of a token", { version: 1, tokens: [{ ...entry, admin: true }] }],
    ["another scope", { version: 1, tokens: [{ ...entry, scope: "root" }] }],
    ["a hash in upper case", { version: 1, tokens: [{ ...entry, sha256: "A".repeat(64) }] }],
    ["a time that is none", { version: 1, tokens: [{ ...entry, createdAtMs: 1e16 }] }],
    ["a name twice", { version: 1, tokens: [entry, { ...entry, sha256: "1".repeat(64) }] }],
    ["a hash twice", { version: 1, tokens: [entry, { ...entry, name: "b" }] }],
    [
      "too many",
      {
        version: 1,
        tokens: Array.from({ length: 65 }, (_, n) => ({
          ...entry,
          name: `n${n}`,
          sha256: String(n).padStart(64, "0"),
        })),
      },
    ],
    ["too large", " ".repeat(LIMITS.tokensFileBytes + 1)],
  ])("with %s is refused, and nothing in it holds", async (_, content) => {
    const stateDir = await temporaryFolder();
    const text = typeof content === "string" ? content : JSON.stringify(content);
    await writeFile(fileOf(stateDir), text, { mode: 0o600 });
    const tokens = openTokens(stateDir);
    const calls = [
      () => tokens.list(),
      () => tokens.check("x"),
      () => tokens.add("b", "use"),
      () => tokens.revoke("a"),
    ];
    for (const call of calls) expect(await codeOf(call())).toBe("STATE_INVALID");
    expect(await readFile(fileOf(stateDir), "utf8")).toBe(text);
  });

  it("that others may read is refused, and so is a folder that is none", async () => {
    const stateDir = await temporaryFolder();
    const tokens = openTokens(stateDir);
    await tokens.add("a", "use");
    await chmod(fileOf(stateDir), 0o640);
    expect(await codeOf(tokens.check("x"))).toBe("STATE_INVALID");
    const none = openTokens(fileOf(stateDir));
    expect(await codeOf(none.check("x"))).toBe("STATE_INVALID");
    expect(await codeOf(none.add("x", "use"))).toBe("STATE_INVALID");
  });
});
