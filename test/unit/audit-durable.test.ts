/** The files of a log by themselves, on a disk that fails: what is on it afterwards, and in which words it is refused. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  promises,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type LogEnds, type LogFiles, openLogFiles } from "../../src/audit/durable.ts";
import { VramError } from "../../src/errors.ts";
import { createDisk, type Disk, systemError } from "../helpers/audit-writer-disk.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const NEW: LogEnds = { segment: 1, segmentBytes: 0, leavesBytes: 0, checkpointsBytes: 0 };
const bytes = (text: string): Uint8Array => Buffer.from(text);

let folder: string;
let disk: Disk;
const opened: LogFiles[] = [];
beforeEach(async () => {
  folder = await temporaryFolder();
  disk = createDisk();
});
afterEach(async () => {
  vi.restoreAllMocks();
  for (const files of opened.splice(0)) await files.close();
});

async function open(ends: Partial<LogEnds> = {}): Promise<LogFiles> {
  const files = await openLogFiles(folder, { ...NEW, ...ends }, disk.openFile);
  opened.push(files);
  return files;
}
const read = (name: string): string => readFileSync(join(folder, name), "latin1");
/** Message and whether it is final. */
async function refusal(task: Promise<unknown>): Promise<readonly unknown[]> {
  const error: unknown = await task.then(
    () => "nothing was refused",
    (thrown: unknown) => thrown,
  );
  return error instanceof VramError ? [error.code, error.message, error.details["final"]] : [error];
}
const refused = (message: string, final: boolean) => ["AUDIT_UNAVAILABLE", message, final];
const folderFails = (): void => {
  const real = promises.open;
  vi.spyOn(promises, "open").mockImplementation(async (path, ...rest) => {
    if (path === folder) throw systemError("EIO");
    return real(path, ...rest);
  });
};

describe("[VR-AUD-04] files of a log", () => {
  it("are made for their owner only, and written behind what is there", async () => {
    const files = await open();
    expect(readdirSync(folder).sort()).toEqual(["000001.jsonl", "000001.leaves", "checkpoints"]);
    for (const name of readdirSync(folder)) expect(statSync(join(folder, name)).mode & 0o777).toBe(0o600);
    expect([files.segment, files.segmentBytes]).toEqual([1, 0]);
    await files.appendLines(bytes("one\n"));
    await files.appendLines(bytes("two\n"));
    await files.appendLeaves([bytes("A"), bytes("B")]);
    await files.appendLeaves([]);
    await files.appendLeaves([bytes("C")]);
    await files.keepCheckpoint(bytes("first\n"));
    await files.keepCheckpoint(bytes("second\n"));
    await files.replaceCheckpoint(bytes("a longer note"));
    await files.replaceCheckpoint(bytes("newest"));
    expect([read("000001.jsonl"), read("000001.leaves")]).toEqual(["one\ntwo\n", "ABC"]);
    expect([read("checkpoints"), read("checkpoint")]).toEqual(["first\n\nsecond\n\n", "newest"]);
    expect(files.segmentBytes).toBe(8);
    expect(existsSync(join(folder, "checkpoint.tmp"))).toBe(false);
    expect(statSync(join(folder, "checkpoint")).mode & 0o777).toBe(0o600);
  });

  it("are gone on with where recovery says that they end", async () => {
    for (const [name, text] of [
      ["000007.jsonl", "line\n"],
      ["000007.leaves", "AB"],
      ["checkpoints", "note\n\n"],
    ] as const) {
      writeFileSync(join(folder, name), text);
    }
    const files = await open({ segment: 7, segmentBytes: 5, leavesBytes: 2, checkpointsBytes: 6 });
    await files.appendLines(bytes("next\n"));
    await files.appendLeaves([bytes("C")]);
    await files.keepCheckpoint(bytes("more\n"));
    expect([read("000007.jsonl"), read("000007.leaves"), read("checkpoints")]).toEqual([
      ...["line\nnext\n", "ABC", "note\n\nmore\n\n"],
    ]);
    expect([files.segment, files.segmentBytes]).toEqual([7, 10]);
  });

  it("of the next segment begin empty; those before stay as they are", async () => {
    const files = await open();
    await files.appendLines(bytes("one\n"));
    await files.appendLeaves([bytes("A")]);
    await files.nextSegment();
    expect([files.segment, files.segmentBytes]).toEqual([2, 0]);
    await files.appendLines(bytes("two\n"));
    await files.appendLeaves([bytes("B")]);
    expect([read("000001.jsonl"), read("000002.jsonl")]).toEqual(["one\n", "two\n"]);
    expect([read("000001.leaves"), read("000002.leaves")]).toEqual(["A", "B"]);
    for (const name of ["000002.jsonl", "000002.leaves"]) {
      expect(statSync(join(folder, name)).mode & 0o777).toBe(0o600);
    }
  });

  it("of a closed segment lose their lines and keep their leaf hashes; it may be asked twice", async () => {
    const files = await open();
    await files.nextSegment();
    await files.removeLines(1);
    await files.removeLines(1);
    expect(readdirSync(folder).sort()).toEqual(["000001.leaves", "000002.jsonl", "000002.leaves", "checkpoints"]);
  });
});

describe("[VR-AUD-03] a disk that fails", () => {
  it("while the files are opened: what was opened is closed, and the log has none", async () => {
    const closed: string[] = [];
    const openFile = async (path: string, flags: number, mode: number): Promise<promises.FileHandle> => {
      if (path.endsWith("checkpoints")) throw systemError("EACCES");
      const file = await promises.open(path, flags, mode);
      const close = file.close.bind(file);
      return Object.assign(file, {
        close: async () => {
          closed.push(path.slice(-6));
          await close();
        },
      });
    };
    expect(await refusal(openLogFiles(folder, NEW, openFile))).toEqual(
      refused("the log could not be opened: EACCES: the test's disk", true),
    );
    expect(closed).toEqual([".jsonl", "leaves"]);
  });

  it("while something is written: the file is as it was, and the next try may succeed", async () => {
    const files = await open();
    await files.appendLines(bytes("one\n"));
    disk.onWrite = async (_name, given, file) => {
      // Half of it reaches the disk first.
      await file.write(given.subarray(0, 2), 0, 2, 4);
      throw systemError("ENOSPC");
    };
    const said = "the log could not be written: ENOSPC: the test's disk";
    expect(await refusal(files.appendLines(bytes("two\n")))).toEqual(refused(said, false));
    expect([read("000001.jsonl"), files.segmentBytes]).toEqual(["one\n", 4]);
    disk.onWrite = () => Promise.resolve();
    await files.appendLines(bytes("two\n"));
    expect(read("000001.jsonl")).toBe("one\ntwo\n");
  });

  it("in parts: what was not written at once is written behind it, and nothing at all is a failure", async () => {
    const sizes = [1, 2];
    const openFile: Disk["openFile"] = async (path, flags, mode) => {
      const file = await promises.open(path, flags, mode);
      const write = file.write.bind(file) as (b: Uint8Array, o: number, l: number, p: number) => Promise<unknown>;
      return Object.assign(file, {
        write: (given: Uint8Array, offset: number, length: number, position: number) =>
          write(given, offset, Math.min(sizes.shift() ?? length, length), position),
      });
    };
    const files = await openLogFiles(folder, { ...NEW, segmentBytes: 4 }, openFile);
    opened.push(files);
    writeFileSync(join(folder, "000001.jsonl"), "one\n");
    await files.appendLines(bytes("second\n"));
    expect(read("000001.jsonl")).toBe("one\nsecond\n");
    sizes.push(3, 0);
    expect(await refusal(files.appendLines(bytes("third\n")))).toEqual(
      refused("the log could not be written: nothing was written", false),
    );
    expect(read("000001.jsonl")).toBe("one\nsecond\n");
  });

  it("and cannot even be cut back, or synced, ends the log", async () => {
    const files = await open();
    disk.onWrite = () => Promise.reject(systemError("ENOSPC"));
    disk.onTruncate = () => Promise.reject(systemError("EIO"));
    const cut = "the log could not be cut back after a write that failed: EIO: the test's disk";
    expect(await refusal(files.appendLines(bytes("one\n")))).toEqual(refused(cut, true));
    disk.onWrite = () => Promise.resolve();
    disk.onTruncate = () => Promise.resolve();
    disk.onSync = () => Promise.reject(systemError("EIO"));
    const sync = refused("the log could not be synced: EIO: the test's disk", true);
    expect(await refusal(files.appendLines(bytes("one\n")))).toEqual(sync);
    expect(await refusal(files.keepCheckpoint(bytes("note\n")))).toEqual(sync);
    expect(await refusal(files.replaceCheckpoint(bytes("note\n")))).toEqual(sync);
    expect(await refusal(files.nextSegment())).toEqual(sync);
    expect(files.segmentBytes).toBe(0);
  });

  it("with leaf hashes: they are owed, and written with the next ones", async () => {
    const files = await open();
    disk.onWrite = async (name) => {
      if (name.endsWith("leaves")) throw systemError("ENOSPC");
    };
    expect((await refusal(files.appendLeaves([bytes("A")])))[2]).toBe(false);
    disk.onWrite = () => Promise.resolve();
    await files.appendLeaves([bytes("B")]);
    expect(read("000001.leaves")).toBe("AB");
  });

  it("with the newest log checkpoint: the one before stays", async () => {
    const files = await open();
    await files.replaceCheckpoint(bytes("old"));
    disk.onOpen = () => Promise.reject(systemError("ENOSPC"));
    expect(await refusal(files.replaceCheckpoint(bytes("new")))).toEqual(
      refused("the log checkpoint could not be written: ENOSPC: the test's disk", false),
    );
    disk.onOpen = () => Promise.resolve();
    for (const [code, final] of [
      ["EIO", true],
      ["ENOSPC", false],
    ] as const) {
      vi.spyOn(promises, "rename").mockRejectedValueOnce(systemError(code));
      expect(await refusal(files.replaceCheckpoint(bytes("new")))).toEqual(
        refused(`the log checkpoint could not be replaced: ${code}: the test's disk`, final),
      );
    }
    expect(read("checkpoint")).toBe("old");
  });

  it("with the folder: nothing is kept, removed or begun that may not stay", async () => {
    const files = await open();
    folderFails();
    const said = refused("the log's folder could not be synced: EIO: the test's disk", true);
    expect(await refusal(files.keepCheckpoint(bytes("note\n")))).toEqual(said);
    expect(read("checkpoints")).toBe("");
    expect(await refusal(files.removeLines(9))).toEqual(said);
    expect(await refusal(files.nextSegment())).toEqual(said);
    expect(files.segment).toBe(1);
  });

  it("with the next segment: a second try takes what the first one made", async () => {
    const files = await open();
    disk.onOpen = async (name) => {
      if (name === "000002.leaves") throw systemError("ENOSPC");
    };
    const said = refused("the next segment could not be made: ENOSPC: the test's disk", false);
    expect(await refusal(files.nextSegment())).toEqual(said);
    expect([files.segment, existsSync(join(folder, "000002.jsonl"))]).toEqual([1, true]);
    disk.onOpen = () => Promise.resolve();
    await files.nextSegment();
    await files.appendLines(bytes("two\n"));
    expect([files.segment, read("000002.jsonl")]).toEqual([2, "two\n"]);
  });

  it("with lines to be removed says so, and may be asked again", async () => {
    const files = await open();
    vi.spyOn(promises, "rm").mockRejectedValueOnce(systemError("EBUSY"));
    expect(await refusal(files.removeLines(1))).toEqual(
      refused("a segment could not be removed: EBUSY: the test's disk", false),
    );
  });
});

describe("closing", () => {
  it("writes what is owed, and never fails: the next start does without", async () => {
    const files = await openLogFiles(folder, NEW, disk.openFile);
    disk.onWrite = async (name) => {
      if (name.endsWith("leaves")) throw systemError("ENOSPC");
    };
    await files.appendLeaves([bytes("A")]).catch(() => undefined);
    disk.onWrite = () => Promise.resolve();
    await files.close();
    expect(read("000001.leaves")).toBe("A");
    const other = await openLogFiles(folder, { ...NEW, leavesBytes: 1 }, disk.openFile);
    disk.onSync = () => Promise.reject(systemError("EIO"));
    await other.close();
    await expect(other.appendLines(bytes("x\n"))).rejects.toMatchObject({ code: "AUDIT_UNAVAILABLE" });
  });

  it("is of files only: a folder in the place of one is refused when it is opened", async () => {
    mkdirSync(join(folder, "000001.leaves"));
    chmodSync(folder, 0o700);
    const [code, message, final] = await refusal(openLogFiles(folder, NEW));
    expect([code, final]).toEqual(["AUDIT_UNAVAILABLE", true]);
    expect(message).toBe("the log could not be opened: EISDIR: illegal operation on a directory");
  });
});
