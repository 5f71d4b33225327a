/**
 * Opening a file so that what was checked is what is read (VR-IN-03): on the real file system where it can be made to
 * misbehave, and on a wrapped one where a change has to fall between two calls.
 */
import { execFileSync } from "node:child_process";
import type { BigIntStats } from "node:fs";
import { appendFile, chmod, mkdir, realpath, rename, symlink, truncate, utimes, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { VramError } from "../../src/errors.ts";
import { type FileDescriptor, type FileSystem, nodeFileSystem, openFile } from "../../src/source/file.ts";
import { codeOf, randomFile, temporaryFolder } from "../helpers/vram.ts";

type Watched = FileSystem & { live(): number };

/** Counts what is open. `patch` changes calls of the file system, `patchHandle` those of its handles. */
function watched(
  patch: Partial<FileSystem> = {},
  patchHandle: (handle: FileDescriptor) => Partial<FileDescriptor> = () => ({}),
): Watched {
  let live = 0;
  const open = async (path: string, flags: number): Promise<FileDescriptor> => {
    const handle = await (patch.open ?? nodeFileSystem.open)(path, flags);
    const patched = patchHandle(handle);
    live += 1;
    return {
      fd: handle.fd,
      stat: patched.stat ?? ((options) => handle.stat(options)),
      read: patched.read ?? ((...where) => handle.read(...where)),
      close: async () => {
        live -= 1;
        await handle.close();
        await patched.close?.();
      },
    };
  };
  return { ...nodeFileSystem, ...patch, open, live: () => live };
}

const withHandles = (patchHandle: Parameters<typeof watched>[1]): Watched => watched({}, patchHandle);

const errno = (code: string): Error => Object.assign(new Error(`${code}: told by the test`), { code });

async function refusal(task: Promise<unknown>): Promise<VramError> {
  const error: unknown = await task.catch((thrown: unknown) => thrown);
  if (!(error instanceof VramError)) throw new Error(`not a VramError: ${String(error)}`);
  return error;
}

/** Everything a program or a person could see of an error. */
const shown = (error: VramError): string => `${inspect(error, { depth: 9 })} ${JSON.stringify(error)} ${String(error)}`;

/** A folder laid out as the Hugging Face cache: `snapshots/REV/NAME` is a link to `../../blobs/HASH`. */
async function cacheLayout(): Promise<{ path: string; root: string; blob: string }> {
  const root = await realpath(await temporaryFolder());
  await mkdir(join(root, "blobs"));
  await mkdir(join(root, "snapshots", "rev"), { recursive: true });
  const blob = join(root, "blobs", "0123abcd");
  await writeFile(blob, "weights");
  const path = join(root, "snapshots", "rev", "model.safetensors");
  await symlink("../../blobs/0123abcd", path);
  return { path, root, blob };
}

describe("where a path leads", () => {
  test("[VR-IN-03] links of the Hugging Face cache are followed, and the name stays the caller's", async () => {
    const { path, root } = await cacheLayout();
    const fs = watched();
    const file = await openFile(path, [root], fs);
    const bytes = Buffer.alloc(10);
    expect([file.baseName, file.byteLength, await file.readAt(bytes, 0)]).toEqual(["model.safetensors", 7, 7]);
    expect(bytes.toString()).toBe("weights\0\0\0");
    await file.requireUnchanged();
    await file.close();
    await file.close();
    expect(fs.live()).toBe(0);
  });

  test("[VR-IN-03] the resolved file has to lie under a root: links out and roots that only begin alike do not count", async () => {
    const { path, root, blob } = await cacheLayout();
    await mkdir(join(root, "blob"));
    await writeFile(join(root, "snapshots-of-others"), "secret");
    await symlink("../../snapshots-of-others", join(root, "snapshots", "rev", "out"));
    const fs = watched();
    for (const [from, roots] of [
      [path, [join(root, "snapshots")]],
      [join(root, "snapshots", "rev", "out"), [join(root, "snapshots")]],
      [join(root, "snapshots", "..", "snapshots-of-others"), [join(root, "snapshots")]],
      [blob, [join(root, "blob"), join(root, "no-such-root")]],
      [blob, []],
    ] as const) {
      expect(await codeOf(openFile(from, roots, fs)), from).toBe("SOURCE_REFUSED");
    }
    expect(fs.live()).toBe(0);
  });

  test("[VR-IN-03] a root may be a link, end in a slash, be / or be the file itself", async () => {
    const { path, root, blob } = await cacheLayout();
    const link = join(root, "link-to-blobs");
    await symlink(join(root, "blobs"), link);
    for (const roots of [[link], [`${join(root, "blobs")}/`], ["/"], [blob], ["/nowhere", root]]) {
      await (await openFile(path, roots, nodeFileSystem)).close();
    }
  });

  test("[VR-IN-04] no error shows the resolved path, which the caller did not give", async () => {
    const { path, root, blob } = await cacheLayout();
    const failing: FileSystem[] = [
      watched({ open: () => Promise.reject(Object.assign(errno("EACCES"), { path: blob })) }),
      watched({ open: () => Promise.reject(Object.assign(new Error(`EIO, open '${blob}'`), { code: "EIO" })) }),
      watched({ readlink: async () => `${blob} (deleted)` }),
      withHandles(() => ({ read: () => Promise.reject(new Error(`cannot read ${blob}`)) })),
    ];
    const errors = [await refusal(openFile(path, ["/usr"], nodeFileSystem))];
    for (const fs of failing) {
      const opening = openFile(path, [root], fs);
      errors.push(await refusal(opening.then((file) => file.readAt(Buffer.alloc(1), 0).finally(() => file.close()))));
    }
    for (const error of errors) {
      expect(error.message).toContain(path);
      expect(shown(error)).not.toContain(blob);
    }
  });
});

describe("what is not a file to read", () => {
  test.each(["FIFO", "directory", "device", "socket"])("[VR-IN-03] a %s is refused and does not hang", async (what) => {
    const folder = await temporaryFolder();
    const path = what === "device" ? "/dev/zero" : join(folder, "x");
    const server = createServer();
    if (what === "FIFO") execFileSync("mkfifo", [path]);
    if (what === "directory") await mkdir(path);
    if (what === "socket") await new Promise<void>((resolve) => server.listen(path, resolve));
    const fs = watched();
    const error = await refusal(openFile(path, ["/"], fs));
    expect([error.code, fs.live()]).toEqual(["SOURCE_REFUSED", 0]);
    expect(error.message).toBe(`${path}: it is not a regular file`);
    server.close();
  });

  test("[VR-IN-03] missing files, dangling links, loops, names too long and paths with NUL", async () => {
    const folder = await temporaryFolder();
    const { path: file } = await randomFile(1);
    await symlink("nowhere", join(folder, "dangling"));
    await symlink("loop", join(folder, "loop"));
    const code = (path: string) => codeOf(openFile(path, ["/"], nodeFileSystem));
    for (const path of [join(folder, "missing"), join(folder, "dangling"), `${file}/below`]) {
      expect(await code(path), path).toBe("SOURCE_NOT_FOUND");
    }
    expect(await code(join(folder, "loop"))).toBe("SOURCE_REFUSED");
    expect(await code(join(folder, "n".repeat(300)))).toBe("SOURCE_REFUSED");
    for (const path of ["", `${file}\0.gguf`]) expect(await code(path)).toBe("INVALID_ARGUMENT");
  });

  test("[VR-IN-03] a file or folder that this user may not read", async () => {
    const { path } = await randomFile(1);
    const folder = join(path, "..");
    await Promise.all([chmod(path, 0o000), chmod(folder, 0o755)]);
    // Root may read everything: then somebody else (nobody, 65534) tries.
    const isRoot = process.geteuid?.() === 0;
    const asOther = async (): Promise<VramError> => {
      if (isRoot) process.seteuid?.(65_534);
      return refusal(openFile(path, ["/"], nodeFileSystem)).finally(() => isRoot && process.seteuid?.(0));
    };
    expect((await asOther()).message).toBe(`${path}: this user may not read it`);
    await chmod(folder, 0o000);
    const { code, message } = await asOther();
    await chmod(folder, 0o755);
    expect([code, message]).toEqual(["SOURCE_REFUSED", `${path}: this user may not read it`]);
  });

  test("an open that fails for reasons of the machine is not called a refusal", async () => {
    const { path } = await randomFile(1);
    const code = (why: string) => codeOf(openFile(path, ["/"], watched({ open: () => Promise.reject(errno(why)) })));
    for (const why of ["EMFILE", "EIO"]) expect(await code(why)).toBe("SOURCE_READ_FAILED");
    for (const why of ["EPERM", "ENXIO"]) expect(await code(why)).toBe("SOURCE_REFUSED");
  });
});

describe("changes while it is opened", () => {
  test("[VR-IN-03] a file that is swapped for a link after its path was resolved is not followed", async () => {
    const { path } = await randomFile(10);
    const { path: other } = await randomFile(10, "other.bin");
    const fs = watched({
      realpath: async (from) => {
        const resolved = await nodeFileSystem.realpath(from);
        if (from === path) await rename(path, `${path}.old`).then(() => symlink(other, path));
        return resolved;
      },
    });
    const error = await refusal(openFile(path, ["/"], fs));
    expect([error.code, fs.live()]).toEqual(["SOURCE_REFUSED", 0]);
    expect(error.message).toContain("symbolic link");
  });

  test.each(["moved", "deleted"])("[VR-IN-03] a file that is %s before /proc is asked is refused", async (how) => {
    const { path } = await randomFile(10);
    const { path: other } = await randomFile(10, "other.bin");
    const fs = watched({
      open: async (at, flags) => {
        const handle = await nodeFileSystem.open(at, flags);
        // Another file takes its place: the name is right, but it is no longer what was opened.
        await rename(how === "moved" ? path : other, how === "moved" ? `${path}.moved` : path);
        return handle;
      },
    });
    const error = await refusal(openFile(path, ["/"], fs));
    expect([error.code, fs.live()]).toEqual(["SOURCE_REFUSED", 0]);
    expect(error.message).toContain("moved or replaced");
  });

  test("a file of more than 2^53 bytes, and a stat or /proc that fails, leave no handle", async () => {
    const { path } = await randomFile(10);
    const huge = (stats: BigIntStats): BigIntStats => Object.assign(stats, { size: 2n ** 53n });
    const cases: [Watched, string][] = [
      [withHandles((handle) => ({ stat: (options) => handle.stat(options).then(huge) })), "SOURCE_REFUSED"],
      [withHandles(() => ({ stat: () => Promise.reject(errno("EIO")) })), "SOURCE_READ_FAILED"],
      [watched({ readlink: () => Promise.reject(new Error("no /proc")) }), "SOURCE_READ_FAILED"],
    ];
    for (const [fs, code] of cases) {
      expect(await codeOf(openFile(path, ["/"], fs))).toBe(code);
      expect(fs.live()).toBe(0);
    }
  });

  test("a close that fails does not hide why the file was refused", async () => {
    const fs = withHandles(() => ({ close: () => Promise.reject(errno("EIO")) }));
    expect(await codeOf(openFile("/dev", ["/"], fs))).toBe("SOURCE_REFUSED");
  });
});

describe("changes while it is read", () => {
  const CHANGES: Record<string, (path: string) => Promise<void>> = {
    "a byte more": (path) => appendFile(path, "x"),
    "a byte less": (path) => truncate(path, 9),
    "the same bytes written again": (path) => writeFile(path, Buffer.alloc(10)),
    "another mtime": (path) => utimes(path, 1, 1),
    "another ctime": (path) => chmod(path, 0o600),
  };

  test.each(Object.keys(CHANGES))("[VR-IN-03] %s is SOURCE_CHANGED", async (how) => {
    const { path } = await randomFile(10);
    await utimes(path, 1000, 1000);
    const fs = watched();
    const file = await openFile(path, ["/"], fs);
    await file.readAt(Buffer.alloc(9), 0);
    await file.requireUnchanged();
    await CHANGES[how]?.(path);
    expect(await codeOf(file.requireUnchanged())).toBe("SOURCE_CHANGED");
    await file.close();
    expect(fs.live()).toBe(0);
  });

  test.each(["dev", "ino", "size", "mtimeNs", "ctimeNs"] as const)(
    "[VR-IN-03] a change of %s alone is SOURCE_CHANGED",
    async (field) => {
      const { path } = await randomFile(10);
      let asked = 0;
      const fs = withHandles((handle) => ({
        stat: async (options) => {
          const stats = await handle.stat(options);
          asked += 1;
          return asked === 1 ? stats : Object.assign(stats, { [field]: stats[field] + 1n });
        },
      }));
      const file = await openFile(path, ["/"], fs);
      expect(await codeOf(file.requireUnchanged())).toBe("SOURCE_CHANGED");
      await file.close();
    },
  );

  test("[VR-IN-03] a file cut short while it is read is SOURCE_CHANGED, never zeros", async () => {
    const { path } = await randomFile(10);
    const file = await openFile(path, ["/"], nodeFileSystem);
    await truncate(path, 4);
    expect(await codeOf(file.readAt(Buffer.alloc(10), 0))).toBe("SOURCE_CHANGED");
    await file.close();
  });

  test("short reads are continued, and a read that fails names the position", async () => {
    const { path, bytes } = await randomFile(1000);
    let failAt = 5000;
    const fs = withHandles((handle) => ({
      read: (into, offset, length, position) => {
        if (position >= failAt) return Promise.reject(errno("EIO"));
        return handle.read(into, offset, Math.min(length, 7), position);
      },
    }));
    const file = await openFile(path, ["/"], fs);
    const into = Buffer.alloc(1000);
    expect([await file.readAt(into, 0), into.equals(bytes)]).toEqual([1000, true]);
    failAt = 14;
    const { code, details } = await refusal(file.readAt(into, 0));
    expect([code, details]).toEqual(["SOURCE_READ_FAILED", { path, position: 14 }]);
    await file.close();
  });
});
