/**
 * `client.attach` and everything that it must not take: each is a typed error, and leaves no descriptor, no mapping and no
 * connection behind.
 */
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type ErrorCode, openClient, type VramError } from "../../src/client.ts";
import { createMemfd } from "../../src/ffi/memory.ts";
import { LIMITS } from "../../src/limits.ts";
import { type AttachGranted, encodeMessage } from "../../src/service/attach/protocol.ts";
import type { Verification } from "../../src/service/replies.ts";
import { attachTo, grant, grantTo, MEMORY_BYTES, openAttachStub, type Peer, weights } from "../helpers/stub-attach.ts";
import * as is from "../helpers/stub-replies.ts";
import { problemOf } from "../helpers/stub-service.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const { name } = is.record();
const OTHER = "b".repeat(64);

const errorOf = (task: Promise<unknown>): Promise<VramError> =>
  task.then(
    () => {
      throw new Error("it was taken");
    },
    (thrown: unknown) => thrown as VramError,
  );

/** Bytes as a message. */
function framed(bytes: Uint8Array): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt32LE(bytes.byteLength);
  return Buffer.concat([head, bytes]);
}

/** Sends with a descriptor, and closes it. */
function sendWith(peer: Peer, bytes: Uint8Array, fd = weights()): void {
  peer.send(bytes, fd);
  closeSync(fd);
}

/** In how many bytes the first piece goes, where there are two. */
const FIRST = 10;

function refusal(): Buffer {
  const answer = problemOf("SHARD_NOT_RESIDENT", { details: { state: "lost" } });
  if (!("json" in answer)) throw new Error("no problem");
  return encodeMessage({ v: 1, ok: false, problem: answer.json as never });
}

type Case = readonly [what: string, answer: (peer: Peer) => void, message: RegExp];

const BROKEN: readonly Case[] = [
  ["nothing", (peer) => void peer.socket.end(), /it ended the connection without a reply/],
  [
    "the beginning of a reply",
    (peer) => {
      sendWith(peer, encodeMessage(grant()).subarray(0, 100));
      peer.socket.end();
    },
    /ends in its middle/,
  ],
  [
    "more bytes than a reply may have",
    (peer) => {
      const head = Buffer.alloc(4);
      head.writeUInt32LE(LIMITS.attachReplyBytes + 1);
      sendWith(peer, head);
    },
    /a message of 67108865 bytes/,
  ],
  ["no JSON", (peer) => sendWith(peer, framed(Buffer.from("{"))), /no JSON/],
  ["no UTF-8", (peer) => sendWith(peer, framed(Buffer.from([0x22, 0xff, 0x22]))), /no JSON/],
  ["another object", (peer) => sendWith(peer, framed(Buffer.from('{"v":1}'))), /ok: /],
  ["HTTP", (peer) => peer.send(Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")), /a message of 1347703880 bytes/],
  ["a grant without a descriptor", (peer) => peer.send(encodeMessage(grant())), /comes with 0 descriptors/],
  [
    "a descriptor that comes late",
    (peer) => {
      const message = encodeMessage(grant());
      peer.send(message.subarray(0, FIRST));
      sendWith(peer, message.subarray(FIRST));
    },
    /does not come with the first byte/,
  ],
  [
    "one descriptor after the other",
    (peer) => {
      const message = encodeMessage(grant());
      sendWith(peer, message.subarray(0, FIRST));
      sendWith(peer, message.subarray(FIRST));
    },
    /does not come with the first byte/,
  ],
  ["a refusal with a descriptor", (peer) => sendWith(peer, refusal()), /a refusal that comes with a descriptor/],
];

const MEMORY: readonly Case[] = [
  [
    "memory without seals",
    (peer) => grantTo(peer, grant(), createMemfd("vram-test-attach", MEMORY_BYTES)),
    /with the seals 0, 23 needed/,
  ],
  ["a file", (peer) => grantTo(peer, grant(), openSync("/dev/null", "r")), /a descriptor that is no sealed memory/],
  [
    "less memory than it says",
    (peer) => grantTo(peer, grant(), weights(MEMORY_BYTES - 4096)),
    /memory of 159744 bytes/,
  ],
  [
    "more memory than it says",
    (peer) => grantTo(peer, grant(), weights(MEMORY_BYTES + 4096)),
    /memory of 167936 bytes/,
  ],
];

type Change = (granted: AttachGranted) => object;

const inRecord =
  (change: object): Change =>
  ({ record }) => ({ record: { ...record, ...change } });
const verified =
  (change: Partial<Verification>): Change =>
  ({ record }) => ({ verification: is.verification({ record, ...change }) });
const tensor = (offset: number, byteLength: number, tensorName = "t") => ({
  ...{ name: tensorName, dtype: "U8", shape: [byteLength] },
  ...{ offset, byteLength },
});
const table =
  (...tensors: object[]) =>
  (): object => ({ tensors });
const inMemory =
  (change: object): Change =>
  ({ memory }) => ({ memory: { ...memory, ...change } });

const CONTRADICTIONS: readonly (readonly [what: string, change: Change, message: RegExp, terms?: object])[] = [
  ["another version", () => ({ v: 2 }), /v: /],
  ["a field of another type", () => ({ exportId: 1 }), /exportId: /],
  ["another shard", inRecord({ name: "another" }), /the record of another shard/],
  ["a shard that is not sealed", inRecord({ sealed: false }), /a shard that is sealed/],
  ["a shard that is lost", inRecord({ state: "lost" }), /a shard that is lost/],
  ["another id than the seal's", inRecord({ shardId: "shard-b" }), /a seal and a record that differ/],
  ["a seal of something else", ({ seal }) => ({ seal: { ...seal, digest: OTHER } }), /a seal and a record that differ/],
  ["a lease on another shard", () => ({ lease: is.lease({ shardId: "shard-b" }) }), /a lease on another shard/],
  ["a lease on other weights", () => ({ lease: is.lease({ digest: OTHER }) }), /a lease on another shard/],
  ["another lease", () => ({}), /another lease than the one presented/, { lease: "lease-mine" }],
  [
    "a verification of another shard",
    verified({ record: is.record({ shardId: "shard-b" }) }),
    /a verification of another shard/,
  ],
  ["a verification that found others", verified({ digest: OTHER }), /a verification that found something else/],
  ["an old measurement", verified({ basis: "fresh-enough" }), /an older measurement than was asked/, { maxAgeMs: 1 }],
  ["no verification", () => ({ verification: undefined }), /no verification, and it was to verify/],
  [
    "no verification, under a lease",
    () => ({ verification: undefined }),
    /no verification, and it was to verify/,
    { lease: is.lease().leaseId, maxAgeMs: 1000 },
  ],
  ["no salt", () => ({}), /no measurement with the salt/, { salt: "00" }],
  [
    "another salt",
    verified({ salted: { salt: "01", digest: OTHER } }),
    /no measurement with the salt that was given/,
    { salt: "00" },
  ],
  ["memory of another device", inMemory({ deviceUuid: "EMU-other" }), /memory of another device/],
  ["memory of another kind", inMemory({ kind: "cuda-vmm" }), /memory of the kind cuda-vmm from emulated/],
  ["host memory of a GPU", inRecord({ backend: "cuda" }), /memory of the kind memfd from cuda/],
  ["less memory than the shard has", inMemory({ byteLength: 4096 }), /memory of 4096 bytes for a shard of 150001/],
  ["two tensors of one name", table(tensor(0, 1), tensor(1, 1)), /two tensors of one name/],
  ["a tensor that ends beyond the shard", table(tensor(150_000, 2)), /beyond the end of the shard: "t"/],
  ["a tensor that begins beyond it", table(tensor(150_002, 0)), /beyond the end of the shard/],
  ["a tensor of a size that overflows", table(tensor(1, Number.MAX_SAFE_INTEGER)), /beyond the end of the shard/],
];

/** What `attach` is refused with, when a stub answers so; nothing may stay. */
async function refusedBy(answer: (peer: Peer) => void, terms: object = {}): Promise<VramError> {
  const stub = await openAttachStub(answer);
  const error = await errorOf(attachTo(stub, terms));
  await stub.expectNothingLeft();
  expect(stub.peers).toHaveLength(1);
  return error;
}

describe("what no service of ours says", () => {
  it.each([...BROKEN, ...MEMORY])("%s", async (_, answer, message) => {
    const error = await refusedBy(answer);
    expect(error.code).toBe("SERVICE_UNREACHABLE");
    expect(error.message).toMatch(message);
  });

  it.each(CONTRADICTIONS.map(([what, ...rest]) => ({ what, rest })))(
    "$what",
    async ({ rest: [change, message, terms] }) => {
      const granted = grant(change);
      const error = await refusedBy((peer) => grantTo(peer, granted), terms);
      expect(error.code).toBe("SERVICE_UNREACHABLE");
      expect(error.message).toMatch(message);
    },
  );
});

describe("other weights than expected", () => {
  it.each([
    ["fsverity", OTHER, {}],
    ["fsverity, by its name", `fsverity:${OTHER}`, {}],
    ["sha256", `sha256:${OTHER}`, { sha256: "c".repeat(64) }],
    ["sha256, of which it says nothing", `sha256:${is.DIGEST}`, {}],
    ["a digest by another algorithm", is.DIGEST, { digestAlgorithm: "fsverity-sha512-4096" }],
  ])("are not taken, whatever the service says: %s", async (_, expected, change) => {
    const granted = grant(inRecord(change));
    const error = await refusedBy((peer) => grantTo(peer, granted), { expect: expected });
    expect(error).toMatchObject({ code: "DIGEST_MISMATCH" });
    expect(error.details["expected"]).toContain(expected.replace(/^.*:/, ""));
  });

  it("are taken where none are expected; a lease of one's own may do without a measurement", async () => {
    const granted = grant(() => ({ verification: undefined }));
    const stub = await openAttachStub((peer) => grantTo(peer, granted));
    const { leaseId: lease } = is.lease();
    await using attachment = await openClient({ socket: stub.socket }).attach(name, { expect: null, lease });
    expect(attachment.record.digest).toBe(is.DIGEST);
    expect(attachment).not.toHaveProperty("verification");
    expect(stub.peers[0]?.request.expect).toBeNull();
  });
});

it("passes on what the service refuses", async () => {
  const error = await refusedBy((peer) => void peer.socket.end(refusal()));
  expect(error).toMatchObject({ code: "SHARD_NOT_RESIDENT", retriable: false, details: { state: "lost" } });
});

describe("what is not even asked", () => {
  it.each([
    ["no expectation", { expect: undefined }, /expect: /],
    ["an expectation that is no digest", { expect: "sha1:00" }, /a digest is fsverity:HEX/],
    ["an expectation in capitals", { expect: "A".repeat(64) }, /a digest is fsverity:HEX/],
    ["a field that there is none of", { expect: null, maxAge: 0 }, /the request to attach: .*maxAge/],
    ["an age below zero", { expect: null, maxAgeMs: -1 }, /maxAgeMs: /],
    ["a salt that is none", { expect: null, salt: "0" }, /salt: /],
    ["a lease without a name", { expect: null, lease: "" }, /lease: /],
  ])("%s", async (_, terms, message) => {
    const stub = await openAttachStub(() => undefined);
    const error = await errorOf(openClient({ socket: stub.socket }).attach(name, terms as never));
    expect(error).toMatchObject({ code: "INVALID_ARGUMENT" });
    expect(error.message).toMatch(message);
    expect(stub.peers).toEqual([]);
  });

  it("over TCP: there are no descriptors", async () => {
    const error = await errorOf(openClient({ url: "http://127.0.0.1:1" }).attach(name, { expect: null }));
    expect(error).toMatchObject({ code: "INVALID_ARGUMENT", details: { argument: "url" } });
    expect(error.fix).toContain("openClient({ socket })");
  });

  it("where nobody listens, and at what is no address", async () => {
    const folder = await temporaryFolder();
    const attachAt = (socket: string) => errorOf(openClient({ socket }).attach(name, { expect: null }));
    const expected: readonly (readonly [string, ErrorCode, RegExp])[] = [
      [join(folder, "none"), "SERVICE_UNREACHABLE", /no service answers at .*none\.attach: ENOENT: no such file/],
      [join(folder, "x".repeat(100)), "INVALID_ARGUMENT", /at most 107 bytes/],
    ];
    for (const [socket, code, message] of expected) {
      const error = await attachAt(socket);
      expect(error.code).toBe(code);
      expect(error.message).toMatch(message);
    }
  });
});
