/** Files that survive a crash, and leave nothing behind that others could read. */
import { linkSync, promises, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import {
  createFile,
  isSystemError,
  makeFolder,
  readPrivate,
  removeTemporary,
  replaceFile,
  tryNew,
  writeNew,
  writeSynced,
} from "../../src/files.ts";
import { systemError } from "../helpers/audit-writer-disk.ts";
import { codeOf, temporaryFolder } from "../helpers/vram.ts";

const TEMPORARY = "key.01234567-89ab-4cde-8f01-23456789abcd.tmp";

afterEach(() => vi.restoreAllMocks());

describe("a file that is written", () => {
  test("is readable by its owner only, and new", async () => {
    const path = join(await temporaryFolder(), "new");
    await writeSynced(path, "content");
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const again = await writeSynced(path, "other").catch((error: unknown) => error);
    expect(isSystemError(again, "EEXIST")).toBe(true);
    expect(readFileSync(path, "utf8")).toBe("content");
  });

  test("as a whole is replaced or not; what was prepared does not stay", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "key");
    await replaceFile(path, "old");
    await replaceFile(path, "new");
    expect(readFileSync(path, "utf8")).toBe("new");
    vi.spyOn(promises, "rename").mockRejectedValue(systemError("EIO"));
    await expect(replaceFile(path, "newer")).rejects.toThrow("EIO");
    expect(readFileSync(path, "utf8")).toBe("new");
    expect(readdirSync(folder)).toEqual(["key"]);
  });

  test("under a name that is taken is left as it is", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "key");
    expect(await createFile(path, "first")).toBe("created");
    expect(await createFile(path, "second")).toBe("exists");
    expect(readFileSync(path, "utf8")).toBe("first");
    expect(readdirSync(folder)).toEqual(["key"]);
    await expect(createFile(join(folder, "none", "key"), "x")).rejects.toThrow("ENOENT");
  });
});

describe("files that are for others, too", () => {
  test("are written all of them, or none, and nothing that was there is touched", async () => {
    const folder = await temporaryFolder();
    const [one, other] = [join(folder, "one"), join(folder, "other")];
    await writeNew([[one, "1"]]);
    expect(readFileSync(one, "utf8")).toBe("1");
    const taken = writeNew([
      [other, "2"],
      [one, "3"],
    ]);
    await expect(taken).rejects.toThrow("EEXIST");
    expect([readdirSync(folder), readFileSync(one, "utf8")]).toEqual([["one"], "1"]);
  });

  test("are not left half-written on a disk that is full", async () => {
    const folder = await temporaryFolder();
    const whole = promises.open.bind(promises);
    vi.spyOn(promises, "open").mockImplementation(async (...args) => {
      const file = await whole(...args);
      vi.spyOn(file, "writeFile").mockImplementation(async () => {
        await file.write("some of");
        throw systemError("ENOSPC");
      });
      return file;
    });
    await expect(writeNew([[join(folder, "one"), "some of it"]])).rejects.toThrow("ENOSPC");
    expect(readdirSync(folder)).toEqual([]);
  });

  test("are tried without a trace", async () => {
    const folder = await temporaryFolder();
    await tryNew([join(folder, "one"), join(folder, "other")]);
    expect(readdirSync(folder)).toEqual([]);
    await expect(tryNew([join(folder, "none", "one")])).rejects.toThrow("ENOENT");
  });
});

describe("a folder that is made", () => {
  test("is made with those above it, and the topmost new one is told", async () => {
    const folder = await temporaryFolder();
    expect(await makeFolder(join(folder, "a", "b", "c"), 0o700)).toBe(join(folder, "a"));
    expect(statSync(join(folder, "a/b/c")).mode & 0o777).toBe(0o700);
    expect(await makeFolder(join(folder, "a", "b"))).toBeUndefined();
    symlinkSync(join(folder, "a"), join(folder, "link"));
    expect(await makeFolder(join(folder, "link"))).toBeUndefined();
  });

  test("fails where one cannot be made, and does not try for ever", async () => {
    const folder = await temporaryFolder();
    writeFileSync(join(folder, "file"), "");
    symlinkSync(join(folder, "none"), join(folder, "dangling"));
    for (const path of ["/proc/none", "/proc/none/a/b", "", join(folder, "dangling")]) {
      await expect(makeFolder(path), path).rejects.toThrow("ENOENT");
    }
    await expect(makeFolder(join(folder, "file"))).rejects.toThrow("EEXIST");
    await expect(makeFolder(join(folder, "file", "a"))).rejects.toThrow("ENOTDIR");
  });
});

describe("what a process that died has left", () => {
  test("[VR-AUD-02] is overwritten before it is removed: it may be a key", async () => {
    const folder = await temporaryFolder();
    writeFileSync(join(folder, TEMPORARY), "a secret");
    writeFileSync(join(folder, "key"), "another");
    const held = await open(join(folder, TEMPORARY), "r");
    await removeTemporary(folder);
    const { buffer } = await held.read(Buffer.alloc(8), 0, 8, 0);
    await held.close();
    expect(buffer).toEqual(Buffer.alloc(8));
    expect(readdirSync(folder)).toEqual(["key"]);
  });

  test("is only removed where its content has another name by now, or is none of ours", async () => {
    const folder = await temporaryFolder();
    writeFileSync(join(folder, "key"), "a secret");
    linkSync(join(folder, "key"), join(folder, TEMPORARY));
    symlinkSync(join(folder, "key"), join(folder, TEMPORARY.replace("key", "link")));
    await removeTemporary(folder);
    expect(readdirSync(folder)).toEqual(["key"]);
    expect(readFileSync(join(folder, "key"), "utf8")).toBe("a secret");
  });
});

describe("a private file", () => {
  test("is read up to its limit, and is nothing where there is none", async () => {
    const path = join(await temporaryFolder(), "key");
    expect(await readPrivate(path, 10)).toBeUndefined();
    writeFileSync(path, "0123456789", { mode: 0o600 });
    expect((await readPrivate(path, 10))?.toString()).toBe("0123456789");
    expect(await codeOf(readPrivate(path, 9))).toBe("STATE_INVALID");
  });

  test("that others may read, or that is no file, is refused", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "key");
    writeFileSync(path, "x", { mode: 0o640 });
    symlinkSync(path, join(folder, "link"));
    for (const name of ["key", "link", "."]) {
      expect(await codeOf(readPrivate(join(folder, name), 10)), name).toBe("STATE_INVALID");
    }
  });
});
