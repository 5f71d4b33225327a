/**
 * The framing of the attach socket, in pieces of every size, and what a client makes of the pieces: descriptors only with
 * the first byte, none left behind.
 */
import { closeSync, fstatSync, openSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createInbox } from "../../src/client/attach-inbox.ts";
import type { Received } from "../../src/ffi/passing.ts";
import { type AttachRequest, createMessageReader, encodeMessage } from "../../src/service/attach/protocol.ts";
import { thrownBy } from "../helpers/emulated.ts";
import { codeBy } from "../helpers/handles.ts";

const request = (shard: string): AttachRequest => ({ v: 1, shard, expect: null });

/** Four bytes of length, and what is behind them. */
function framed(json: Uint8Array | string, byteLength = Buffer.byteLength(json)): Buffer {
  const bytes = Buffer.alloc(4 + Buffer.byteLength(json));
  bytes.writeUInt32LE(byteLength);
  bytes.set(Buffer.from(json), 4);
  return bytes;
}

/** The bytes cut at these places. */
function cut(bytes: Uint8Array, at: readonly number[]): readonly Uint8Array[] {
  const places = [0, ...new Set([...at].sort((one, other) => one - other)), bytes.byteLength];
  return places.slice(1).map((end, index) => bytes.subarray(places[index], end));
}

describe("messages", () => {
  it("are their length, little-endian, and JSON in UTF-8", () => {
    const json = '{"v":1,"shard":"é","expect":null}';
    expect(encodeMessage(request("é"))).toEqual(framed(json));
    expect([...encodeMessage(request("é")).subarray(0, 4)]).toEqual([34, 0, 0, 0]);
  });

  it("come in pieces of every size, one or several to a piece", () => {
    const sent = [request("a"), request("é".repeat(40)), request("c")];
    const bytes = Buffer.concat(sent.map((one) => encodeMessage(one)));
    for (let size = 1; size <= bytes.byteLength; size += 1) {
      const reader = createMessageReader(1024);
      const came: unknown[] = [];
      for (let at = 0; at < bytes.byteLength; at += size) came.push(...reader.push(bytes.subarray(at, at + size)));
      expect([came, reader.pending]).toEqual([sent, 0]);
    }
  });

  it("are the same wherever they are cut, and each comes as soon as it is complete", () => {
    const values = fc.array(
      fc.json().map((text) => JSON.parse(text) as unknown),
      { minLength: 1, maxLength: 5 },
    );
    fc.assert(
      fc.property(values, fc.array(fc.nat({ max: 400 }), { maxLength: 12 }), (sent, at) => {
        const messages = sent.map((value) => framed(JSON.stringify(value)));
        const bytes = Buffer.concat(messages);
        const ends = messages.map((_, index) => Buffer.concat(messages.slice(0, index + 1)).byteLength);
        const reader = createMessageReader(bytes.byteLength);
        const came: unknown[] = [];
        let taken = 0;
        for (const piece of cut(
          bytes,
          at.filter((place) => place <= bytes.byteLength),
        )) {
          came.push(...reader.push(piece));
          taken += piece.byteLength;
          const complete = ends.filter((end) => end <= taken);
          expect(came).toHaveLength(complete.length);
          expect(reader.pending).toBe(taken - (complete.at(-1) ?? 0));
        }
        expect(came).toEqual(sent);
      }),
    );
  });

  it("do not change when the sender uses its bytes again, once they are complete", () => {
    const reader = createMessageReader(1024);
    const bytes = encodeMessage(request("a"));
    const [first] = reader.push(bytes);
    bytes.fill(0);
    expect([first, ...reader.push(encodeMessage(request("b")))]).toEqual([request("a"), request("b")]);
  });

  it("are as long as the limit and no longer, which is known before they come", () => {
    expect(createMessageReader(7).push(framed("1234567"))).toEqual([1234567]);
    for (const length of [8, 2 ** 31, 2 ** 32 - 1]) {
      expect(codeBy(() => createMessageReader(7).push(framed("", length)))).toBe("REQUEST_REFUSED");
    }
    const reader = createMessageReader(7);
    reader.push(framed("", 8).subarray(0, 3));
    expect(codeBy(() => reader.push(framed("", 8).subarray(3)))).toBe("REQUEST_REFUSED");
  });

  it.each([
    ["nothing at all", framed("")],
    ["no JSON", framed("{")],
    ["more than one value", framed("1 2")],
    ["a byte that is no UTF-8", framed(Buffer.from([0x22, 0xff, 0x22]))],
    ["half a character", framed(Buffer.from([0x22, 0xc3, 0x22]))],
    ["a character in a longer form", framed(Buffer.from([0x22, 0xc0, 0xaf, 0x22]))],
    ["a mark of the byte order", framed(Buffer.from([0xef, 0xbb, 0xbf, 0x31]))],
  ])("are refused: %s", (_, bytes) => {
    expect(codeBy(() => createMessageReader(64).push(bytes))).toBe("REQUEST_REFUSED");
  });
});

const WHERE = "/run/vram.sock.attach";
const piece = (bytes: Uint8Array, descriptors: readonly number[] = [], truncated = false): Received => ({
  ...{ bytes, descriptors, truncated },
});
const someFile = (): number => openSync("/dev/null", "r");
const isOpen = (fd: number): boolean => {
  try {
    fstatSync(fd);
    return true;
  } catch {
    return false;
  }
};

describe("what a client is sent", () => {
  const message = encodeMessage(request("a"));

  it("begins with one byte alone, and hands on the descriptors that came with it", () => {
    const inbox = createInbox(WHERE);
    const fds = [someFile(), someFile()];
    expect(inbox.wanted).toBe(1);
    expect(inbox.accept(piece(message.subarray(0, 1), fds))).toEqual([]);
    expect(inbox.wanted).toBeUndefined();
    expect(inbox.accept(piece(message.subarray(1)))).toEqual([request("a")]);
    expect(inbox.take()).toEqual(fds);
    inbox.discard();
    expect(fds.map(isOpen)).toEqual([true, true]);
    for (const fd of fds) closeSync(fd);
  });

  it.each<readonly [string, (fd: number) => readonly Received[], RegExp]>([
    ["with less than was sent", (fd) => [piece(message.subarray(0, 1), [fd], true)], /may have no more files/],
    [
      "with a descriptor that comes later",
      (fd) => [piece(message.subarray(0, 1)), piece(message.subarray(1), [fd])],
      /does not come with the first byte/,
    ],
    [
      "with a descriptor behind the last message",
      (fd) => [piece(message), piece(message, [fd])],
      /does not come with the first byte/,
    ],
    ["with a descriptor and nothing else", (fd) => [piece(new Uint8Array(), [fd])], /without a reply/],
    ["in half a message", (fd) => [piece(message.subarray(0, 9), [fd]), piece(new Uint8Array())], /ends in its middle/],
    ["in no message", (fd) => [piece(framed("{"), [fd])], /no JSON/],
  ])("is refused %s, and no descriptor stays", (_, pieces, what) => {
    const inbox = createInbox(WHERE);
    const fd = someFile();
    const error = thrownBy(() => {
      for (const one of pieces(fd)) inbox.accept(one);
    });
    expect(error).toMatchObject({ code: "SERVICE_UNREACHABLE" });
    expect(String(error)).toMatch(what);
    inbox.discard();
    inbox.discard();
    expect([isOpen(fd), inbox.take()]).toEqual([false, []]);
  });

  it("tells the end of a service from half a message", () => {
    const inbox = createInbox(WHERE);
    inbox.accept(piece(message));
    const end = (): unknown => inbox.accept(piece(new Uint8Array()));
    expect(end).toThrow(/no service answers at .*: it ended the connection$/);
  });
});
