/** Sources: which format a file has, that each byte is read once, and what streams of bytes may do wrong. */
import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { VramError } from "../../src/errors.ts";
import { type FileSystem, nodeFileSystem } from "../../src/source/file.ts";
import { type FormatOptions, type OpenedSource, openSource, type SourceSpec } from "../../src/source/source.ts";
import { tensorsWithin } from "../../src/source/tensors.ts";
import { everyGgufValue, smallGguf } from "../helpers/gguf-files.ts";
import {
  buildGguf,
  buildSafetensors,
  concat,
  GGUF_VALUE,
  ggufString,
  patched,
  u64,
  utf8,
} from "../helpers/model-files.ts";
import { smallSafetensors } from "../helpers/safetensors-files.ts";
import { codeOf, temporaryFolder } from "../helpers/vram.ts";

const KIB = 1024;

const open = (spec: SourceSpec, options: FormatOptions = {}, fs = nodeFileSystem): Promise<OpenedSource> =>
  openSource(spec, options, fs);

/** The rest of a source, read `step` bytes at a time. */
async function readAll(source: OpenedSource, step: number, signal?: AbortSignal): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for (;;) {
    const into = new Uint8Array(step);
    const count = await source.read(into, signal);
    if (count === 0) return Buffer.concat(parts);
    parts.push(into.subarray(0, count));
  }
}

async function fileOf(bytes: Uint8Array, name: string): Promise<string> {
  const path = join(await temporaryFolder(), name);
  await writeFile(path, bytes);
  return path;
}

/** The file system, and every range that was read through it; `afterRead` runs behind each read. */
function recorded(
  afterRead = async (): Promise<void> => undefined,
): FileSystem & { readonly reads: { position: number; length: number }[]; live(): number } {
  const reads: { position: number; length: number }[] = [];
  let live = 0;
  return {
    ...nodeFileSystem,
    open: async (path, flags) => {
      const handle = await nodeFileSystem.open(path, flags);
      live += 1;
      return {
        fd: handle.fd,
        stat: (options) => handle.stat(options),
        read: async (into, offset, length, position) => {
          const { bytesRead } = await handle.read(into, offset, length, position);
          reads.push({ position, length: bytesRead });
          await afterRead();
          return { bytesRead };
        },
        close: async () => {
          live -= 1;
          await handle.close();
        },
      };
    },
    reads,
    live: () => live,
  };
}

describe("formats", () => {
  const json = utf8('{"a":1}');
  const CASES: readonly (readonly [what: string, name: string, bytes: Uint8Array, format: string])[] = [
    ["GGUF by its magic", "model.bin", smallGguf, "gguf"],
    ["safetensors by its extension", "a.safetensors", smallSafetensors, "safetensors"],
    ["safetensors by a length that fits", "model.bin", smallSafetensors, "safetensors"],
    ["a length of more than the file is none", "model.bin", concat(u64(8), json), "raw"],
    ["a length beyond 2^53 is none", "model.bin", concat(u64(2n ** 63n), json), "raw"],
    ["nor is one of 1", "model.bin", concat(u64(1), json), "raw"],
    ["no brace, no header", "model.bin", patched(smallSafetensors, 8, utf8("[")), "raw"],
    ["eight bytes", "model.bin", u64(0), "raw"],
    ["nothing at all", "model.bin", new Uint8Array(0), "raw"],
    ["text", "README.md", utf8("# GGUF"), "raw"],
  ];

  test.each(CASES)("%s", async (_what, name, bytes, format) => {
    const source = await open({ kind: "path", path: await fileOf(bytes, name) });
    expect(source.info).toMatchObject({ name, format, byteLength: bytes.byteLength });
    expect(source.info.tensors.length > 0).toBe(format !== "raw");
    expect(await readAll(source, 7)).toEqual(Buffer.from(bytes));
    await source.finish();
    await source.close();
  });

  test.each([
    ["a big-endian GGUF", "x.bin", utf8("FUGG....................")],
    ["a .gguf without the magic", "x.gguf", utf8("nothing of the kind.....")],
    ["an empty .safetensors", "x.safetensors", new Uint8Array(0)],
  ])("%s is malformed, not raw, unless raw is asked for; no handle stays open", async (_what, name, bytes) => {
    const path = await fileOf(bytes, name);
    const fs = recorded();
    expect(await codeOf(open({ kind: "path", path }, {}, fs))).toBe("MODEL_MALFORMED");
    expect(fs.live()).toBe(0);
    const source = await open({ kind: "path", path }, { format: "raw" }, fs);
    expect([source.info.format, source.info.tensors]).toEqual(["raw", []]);
    await source.close();
  });

  test("a format that is asked for is not guessed", async () => {
    expect(await codeOf(open({ kind: "bytes", bytes: smallGguf }, { format: "safetensors" }))).toBe("MODEL_MALFORMED");
    const bytes = { kind: "bytes", bytes: smallSafetensors } as const;
    const options = { format: "safetensors", maxSafetensorsHeaderBytes: 16 } as const;
    expect(await codeOf(open(bytes, options))).toBe("MODEL_MALFORMED");
  });

  test("the tensors of a range are those that have a byte in it", () => {
    const rest = { dtype: "U8", shape: [] };
    const at = (name: string, offset: number, byteLength: number) => ({ name, offset, byteLength, ...rest });
    const tensors = [at("a", 0, 10), at("empty", 10, 0), at("b", 10, 5), at("c", 20, 1)];
    const names = (...range: [number, number]) => tensorsWithin(tensors, ...range).map(({ name }) => name);
    expect([names(0, 10), names(9, 2), names(10, 1)]).toEqual([["a"], ["a", "b"], ["b"]]);
    expect([names(15, 5), names(15, 6), names(0, 100)]).toEqual([[], ["c"], ["a", "b", "c"]]);
  });
});

describe("headers larger than the first read", () => {
  const data = new Uint8Array(4096).fill(5);
  const long = "x".repeat(300 * KIB);
  const text = { type: GGUF_VALUE.string, value: ggufString(long) };
  const tensor = { name: "t", dtype: "U8", shape: [4096], data };
  const FILES: readonly (readonly [name: string, bytes: Uint8Array])[] = [
    ["a.safetensors", buildSafetensors([tensor], { metadata: new Map([["note", long.repeat(3)]]) })],
    [
      "a.gguf",
      buildGguf({
        kv: [{ key: "k.1", ...text }, ...everyGgufValue, { key: "k.2", ...text }, { key: "k.3", ...text }],
        tensors: [{ name: "t", type: 24, shape: [4096], data }],
      }),
    ],
  ];

  test.each(FILES)("%s grows, and each byte is read exactly once", async (name, bytes) => {
    expect(bytes.byteLength).toBeGreaterThan(900 * KIB);
    const fs = recorded();
    const source = await open({ kind: "path", path: await fileOf(bytes, name) }, {}, fs);
    expect(source.info.tensors).toMatchObject([{ name: "t", offset: bytes.byteLength - 4096, byteLength: 4096 }]);
    expect((await readAll(source, 100 * KIB)).equals(bytes)).toBe(true);
    await source.finish();
    await source.close();
    let end = 0;
    for (const { position, length } of fs.reads) {
      expect(position, "each read begins where the one before ended").toBe(end);
      end += length;
    }
    expect([end, fs.live()]).toEqual([bytes.byteLength, 0]);
  });

  test.each(FILES)("%s grows from chunks as well", async (name, bytes) => {
    async function* chunks(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < bytes.byteLength; at += 77_777) yield bytes.subarray(at, at + 77_777);
    }
    const source = await open({ kind: "chunks", chunks: chunks(), byteLength: bytes.byteLength, name });
    expect(source.info).toMatchObject({ name, tensors: [{ name: "t" }] });
    expect((await readAll(source, 64 * KIB)).equals(bytes)).toBe(true);
    await source.finish();
    await source.close();
  });

  test("a file cut short while its header is read is SOURCE_CHANGED", async () => {
    const [name, bytes] = FILES[0] ?? ["", new Uint8Array(0)];
    const path = await fileOf(bytes, name);
    const fs = recorded(() => truncate(path, 300 * KIB));
    expect(await codeOf(open({ kind: "path", path }, {}, fs))).toBe("SOURCE_CHANGED");
    expect(fs.live()).toBe(0);
  });
});

describe("streams of bytes", () => {
  const stream = (chunks: AsyncIterable<Uint8Array>, byteLength: number): Promise<OpenedSource> =>
    open({ kind: "chunks", chunks, byteLength }, { format: "raw" });

  /** Everything a pass over the source does: open, read to the end, finish, close. */
  async function pass(chunks: AsyncIterable<Uint8Array>, byteLength: number): Promise<Buffer> {
    const source = await stream(chunks, byteLength);
    const bytes = await readAll(source, 5);
    await source.finish();
    await source.close();
    return bytes;
  }

  async function* of(...parts: readonly unknown[]): AsyncGenerator<Uint8Array> {
    for (const part of parts) yield part as Uint8Array;
  }

  test("empty chunks mean nothing, not even the end", async () => {
    const none = new Uint8Array(0);
    expect(await pass(of(none, utf8("ab"), none, none, utf8("cdefgh"), none), 8)).toEqual(Buffer.from("abcdefgh"));
    expect(await pass(of(none), 0)).toEqual(Buffer.alloc(0));
  });

  test("too few bytes, too many, or none", async () => {
    expect(await codeOf(pass(of(utf8("abc")), 4))).toBe("SOURCE_READ_FAILED");
    expect(await codeOf(pass(of(utf8("abc"), utf8("de")), 4))).toBe("SOURCE_READ_FAILED");
    expect(await codeOf(pass(of(utf8("abcd"), utf8("e")), 4))).toBe("SOURCE_READ_FAILED");
    expect(await codeOf(pass(of(), 1))).toBe("SOURCE_READ_FAILED");
  });

  test("a length that is no length, and chunks that are no bytes", async () => {
    for (const byteLength of [-1, 1.5, Number.NaN, 2 ** 53]) {
      expect(await codeOf(stream(of(), byteLength)), String(byteLength)).toBe("INVALID_ARGUMENT");
    }
    for (const chunk of ["text", undefined, [1, 2], new ArrayBuffer(4), new Uint16Array(2)]) {
      expect(await codeOf(pass(of(chunk), 4))).toBe("INVALID_ARGUMENT");
    }
  });

  test("a stream that fails is SOURCE_READ_FAILED with its error as the cause, and its own refusals stay", async () => {
    const failing = async function* (error: Error): AsyncGenerator<Uint8Array> {
      yield utf8("ab");
      throw error;
    };
    const broken = new Error("socket hang up");
    await expect(pass(failing(broken), 4)).rejects.toMatchObject({ code: "SOURCE_READ_FAILED", cause: broken });
    await expect(pass(failing(broken), 2)).rejects.toMatchObject({ code: "SOURCE_READ_FAILED", cause: broken });
    expect(await codeOf(pass(failing(new VramError("SOURCE_REFUSED", "no")), 4))).toBe("SOURCE_REFUSED");
  });

  /** Yields what is given, then never answers again; `closed` once it was told to return. */
  function stuck(first: Uint8Array, byteLength: number) {
    const state = { closed: false };
    let given = false;
    const iterator: AsyncIterator<Uint8Array> = {
      next: () => {
        if (given) return new Promise(() => undefined);
        given = true;
        return Promise.resolve({ value: first, done: false });
      },
      return: () => {
        state.closed = true;
        return Promise.reject(new Error("a generator that is stuck cannot return"));
      },
    };
    const chunks = { [Symbol.asyncIterator]: () => iterator };
    return { spec: { kind: "chunks", chunks, byteLength } as const, state };
  }

  test("a stream that hangs in the middle is left when the caller aborts", async () => {
    const { spec, state } = stuck(new Uint8Array(300 * KIB), 400 * KIB);
    const source = await open(spec, { format: "raw" });
    const aborter = new AbortController();
    const reading = codeOf(readAll(source, 64 * KIB, aborter.signal));
    aborter.abort();
    expect(await reading).toBe("ABORTED");
    // Asked again, it is not even tried; and closing it does not wait for an answer, nor does its failure surface.
    expect(await codeOf(source.read(new Uint8Array(10), aborter.signal))).toBe("ABORTED");
    await source.close();
    expect(state.closed).toBe(true);
  });

  test("a stream that hangs behind its last byte is left when the caller aborts", async () => {
    const { spec } = stuck(new Uint8Array(10), 10);
    const source = await open(spec, { format: "raw" });
    await readAll(source, 64);
    const aborter = new AbortController();
    const finishing = codeOf(source.finish(aborter.signal));
    aborter.abort();
    expect(await finishing).toBe("ABORTED");
    await source.close();
  });

  test("a stream that aborts its own caller while it is asked is left", async () => {
    const aborter = new AbortController();
    let asked = 0;
    const next = (): Promise<IteratorResult<Uint8Array>> => {
      asked += 1;
      aborter.abort();
      return new Promise(() => undefined);
    };
    const chunks = { [Symbol.asyncIterator]: () => ({ next }) };
    const source = await open({ kind: "chunks", chunks, byteLength: 0 }, { format: "raw" });
    expect(await codeOf(source.finish(aborter.signal))).toBe("ABORTED");
    expect([await codeOf(source.finish(aborter.signal)), asked]).toEqual(["ABORTED", 1]);
    await source.close();
  });

  test("bytes in memory keep the name they are given", async () => {
    const source = await open({ kind: "bytes", bytes: utf8("abc"), name: "a.txt" });
    expect(source.info).toEqual({ name: "a.txt", format: "raw", byteLength: 3, tensors: [] });
    expect((await readAll(source, 2)).toString()).toBe("abc");
    await source.finish();
    await source.close();
    expect((await open({ kind: "bytes", bytes: utf8("") })).info.name).toBe("bytes");
    expect((await stream(of(), 0)).info.name).toBe("stream");
  });
});
