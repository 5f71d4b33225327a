/** Readers whose bytes belong to somebody else: a buffer that its owner shrinks, a stream that fires the caller's signal. */
import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { nodeFileSystem } from "../../src/source/file.ts";
import { type ByteReader, chunksReader } from "../../src/source/readers.ts";
import { openSource } from "../../src/source/source.ts";
import { buildSafetensors, utf8 } from "../helpers/model-files.ts";
import { codeOf } from "../helpers/vram.ts";

const KIB = 1024;

/** A buffer that can be made smaller. The constructor is newer than the types. */
const Shrinkable = ArrayBuffer as unknown as new (
  byteLength: number,
  options: { readonly maxByteLength: number },
) => ArrayBuffer & { resize(byteLength: number): void };

describe("bytes in memory", () => {
  // Before its length field is read, within it, and behind the first of the reads that the header takes.
  test.each([0, 5, 300 * KIB])("shrunk to %i while their header is read are SOURCE_CHANGED", async (left) => {
    const metadata = new Map([["note", "x".repeat(900 * KIB)]]);
    const file = buildSafetensors([{ name: "t", dtype: "U8", shape: [4], data: new Uint8Array(4) }], { metadata });
    const buffer = new Shrinkable(file.byteLength, { maxByteLength: file.byteLength });
    const bytes = new Uint8Array(buffer);
    bytes.set(file);
    const opening = codeOf(openSource({ kind: "bytes", bytes }, { format: "safetensors" }, nodeFileSystem));
    buffer.resize(left);
    expect(await opening).toBe("SOURCE_CHANGED");
  });
});

describe("a stream read with a signal", () => {
  type Next = () => Promise<IteratorResult<Uint8Array>>;
  const readerOf = (next: Next, byteLength: number): ByteReader =>
    chunksReader({ [Symbol.asyncIterator]: () => ({ next }) }, byteLength, "stream");

  const ANSWERS: readonly (readonly [what: string, answer: Next])[] = [
    ["answers", async () => ({ value: utf8("abcd"), done: false })],
    ["ends", async () => ({ value: undefined, done: true })],
    ["fails", () => Promise.reject(new Error("socket hang up"))],
    ["hangs", () => new Promise(() => undefined)],
  ];

  test.each(ANSWERS)("is left when it fires the signal itself and then %s", async (_what, answer) => {
    const aborter = new AbortController();
    const reader = readerOf(() => {
      aborter.abort("enough");
      return answer();
    }, 4);
    const reading = reader.read(new Uint8Array(4), aborter.signal);
    await expect(reading).rejects.toMatchObject({ code: "ABORTED", cause: "enough" });
    expect(getEventListeners(aborter.signal, "abort")).toEqual([]);
  });

  test("listens while it waits, and never longer", async () => {
    const { signal } = new AbortController();
    const listening: number[] = [];
    const answers = [utf8("ab"), utf8("cd"), new Error("socket hang up")];
    const reader = readerOf(async () => {
      await Promise.resolve();
      listening.push(getEventListeners(signal, "abort").length);
      const [value] = answers.splice(0, 1);
      if (value instanceof Uint8Array) return { value, done: false };
      throw value ?? new Error("asked too often");
    }, 5);
    const into = new Uint8Array(4);
    expect(await reader.read(into, signal)).toBe(4);
    expect(into).toEqual(new Uint8Array(utf8("abcd")));
    expect(getEventListeners(signal, "abort")).toEqual([]);
    expect(await codeOf(reader.read(into, signal))).toBe("SOURCE_READ_FAILED");
    expect(getEventListeners(signal, "abort")).toEqual([]);
    expect(listening).toEqual([1, 1, 1]);
  });
});
