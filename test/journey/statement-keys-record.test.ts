/** A change of the key that signs statements, when its record or its file cannot be written (VR-AUD-03). */
import { execFileSync } from "node:child_process";
import { promises } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { createDisk, readLog } from "../helpers/audit-journey.ts";
import { type Home, makeHome, openTestService, type TestService } from "../helpers/service.ts";
import { codeOf } from "../helpers/vram.ts";

let home: Home;
let next: string;

beforeEach(async () => {
  home = await makeHome();
  next = join(home.stateDir, "statement.key.next");
});
afterEach(() => void vi.restoreAllMocks());

const keyIdOf = (test: TestService): string => test.service.statementKeys().keyId;
const rotations = async () =>
  (await readLog(home.stateDir)).filter(({ type }) => type === "key_rotated").map(({ data }) => data);
const files = async (): Promise<readonly string[]> =>
  (await readdir(home.stateDir)).filter((name) => name.includes("statement.key"));

describe("a change that is on record", () => {
  it("and whose key cannot take its place is in force all the same, over restarts, and comes before the next one", async () => {
    const test = await openTestService(home);
    const rename = vi.spyOn(promises, "rename");
    const isKey = (from: unknown): boolean => String(from) === next;
    rename.mockImplementation(async (from, to) => {
      if (isKey(from)) throw Object.assign(new Error("EIO: i/o error, rename"), { code: "EIO", syscall: "rename" });
      execFileSync("mv", [String(from), String(to)]);
    });
    const { keyId } = await test.service.rotateStatementKey({ reason: "one" });
    expect(keyIdOf(test)).toBe(keyId);
    expect(test.of("entry_unrecorded")).toMatchObject([{ lost: "the new key's place in the state directory" }]);
    expect(await codeOf(test.service.rotateStatementKey({ reason: "two" }))).toBe("STATE_INVALID");
    expect([keyIdOf(test), await files()]).toEqual([keyId, ["statement.key", "statement.key.next"]]);
    rename.mockRestore();
    await test.close();
    const second = await openTestService(home);
    expect([keyIdOf(second), await files()]).toEqual([keyId, ["statement.key"]]);
    const { keyId: later } = await second.service.rotateStatementKey({ reason: "three" });
    expect((await rotations()).map(({ to }) => to)).toEqual([keyId, keyId, later]);
  });
});

describe("a log that may have gaps", () => {
  it("[VR-AUD-03] changes no key that it has not written down", async () => {
    const disk = createDisk();
    vi.spyOn(promises, "open").mockImplementation(disk.openFile as typeof promises.open);
    const test = await openTestService(home, { "audit.mode": "best-effort" });
    const before = test.service.statementKeys();
    disk.fill("key_rotated");
    expect(await codeOf(test.service.rotateStatementKey({ reason: "lost" }))).toBe("AUDIT_UNAVAILABLE");
    expect([test.service.statementKeys(), await files(), await rotations()]).toEqual([before, ["statement.key"], []]);
    expect(test.of("entry_unrecorded")).toMatchObject([{ lost: "key_rotated" }]);
  });
});
