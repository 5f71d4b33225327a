/** Notes, log checkpoints, epoch keys and proof files at their borders, and the words in which they are refused. */
import { generateKeyPairSync } from "node:crypto";
import { describe, expect, it } from "vitest";
import { checkCheckpoint, encodeCheckpoint, parseCheckpoint } from "../../src/audit/checkpoint.ts";
import { epochKeyFrom, macKeyOf, macKeysFrom, nextEpochKey, wipeEpochKey } from "../../src/audit/epochs.ts";
import {
  createNoteSigner,
  encodeVkey,
  keyHashOf,
  noteKeyOf,
  parseNote,
  parseVkey,
  readNoteSigner,
  signNote,
  toBase64,
} from "../../src/audit/note.ts";
import { proveConsistency, proveInclusion } from "../../src/audit/proofs.ts";
import {
  checkContinuation,
  checkTlogProof,
  encodeProofFile,
  PROOF_FILE_BYTES,
  parseProofFile,
} from "../../src/audit/tlog-proof.ts";
import { createRangeRoot, leafHash } from "../../src/audit/tree.ts";
import { toHex } from "../../src/bytes.ts";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { headOf, K0, keyAt, makeLog, testSigner } from "../helpers/audit-log.ts";

const refusal = (act: () => unknown): readonly unknown[] => {
  try {
    act();
    return ["nothing was refused"];
  } catch (error) {
    return error instanceof VramError ? [error.code, error.message, error.details["argument"]] : [error];
  }
};
const signer = testSigner();
const key = noteKeyOf(signer);
const NOTE = Buffer.from(signNote("text\n", signer)).toString();

describe("notes", () => {
  it("are refused in these words", () => {
    const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const pem = Buffer.from(privateKey.export({ format: "pem", type: "pkcs8" }));
    const own = Buffer.from(signer.privateKey.export({ format: "pem", type: "pkcs8" }));
    const signs = "a note is signed by an Ed25519 key under a name without spaces or +";
    for (const act of [() => readNoteSigner("log", pem), () => createNoteSigner("a b"), () => createNoteSigner("")]) {
      expect(refusal(act)).toEqual(["INVALID_ARGUMENT", signs, undefined]);
    }
    for (const name of ["a+b", "a\tb", "a\u0085b", "a\u3000b", "a\u0001b", "\ud800"]) {
      expect(refusal(() => readNoteSigner(name, own))[1], JSON.stringify(name)).toBe(signs);
    }
    expect(refusal(() => readNoteSigner("log", Buffer.from("junk")))).toEqual([
      ...["INVALID_ARGUMENT", "the signing key must be a PKCS#8 file in PEM", undefined],
    ]);
    expect(refusal(() => keyHashOf({ name: "log", publicKey }))).toEqual([
      ...["INVALID_ARGUMENT", "the key must be an Ed25519 key", undefined],
    ]);
    const logKey = "a log key is NAME+HASH+KEY with an Ed25519 key and its hash";
    for (const text of [
      "",
      "a+b+c",
      encodeVkey(key).replace("+", "x+"),
      ` ${encodeVkey(key)}`,
      `${encodeVkey(key)} `,
    ]) {
      expect(refusal(() => parseVkey(text))).toEqual(["INVALID_ARGUMENT", logKey, "logKey"]);
    }
    expect(refusal(() => signNote("no line feed", signer))).toEqual([
      ...["INVALID_ARGUMENT", "the text of a note is lines of UTF-8 without control characters", undefined],
    ]);
  });

  it("have at most 128 KiB, and signatures of at least one byte behind the key's hash", () => {
    const [, signature = ""] = NOTE.split("\n\n");
    const sized = (bytes: number): Buffer => {
      const text = "x".repeat(bytes - Buffer.byteLength(signature) - 2);
      return Buffer.from(`${text}\n\n${signature}`);
    };
    expect(parseNote(sized(LIMITS.noteBytes))?.signatures).toHaveLength(1);
    expect(parseNote(sized(LIMITS.noteBytes + 1))).toBeUndefined();
    const blob = (bytes: number): string => `text\n\n\u2014 name ${toBase64(new Uint8Array(bytes).fill(1))}\n`;
    expect(parseNote(Buffer.from(blob(4)))).toBeUndefined();
    const [five] = parseNote(Buffer.from(blob(5)))?.signatures ?? [];
    expect([
      toHex(five?.keyHash ?? key.publicKey.export({ format: "der", type: "spki" })),
      five?.signature.byteLength,
    ]).toEqual(["01010101", 1]);
  });

  it("have no control characters but line feeds, wherever they stand", () => {
    for (let code = 0; code < 0x20; code += 1) {
      const text = `a${String.fromCharCode(code)}b\n\n${NOTE.split("\n\n")[1] ?? ""}`;
      expect(parseNote(Buffer.from(text)) !== undefined, `U+${code}`).toBe(code === 0x0a);
    }
    expect(parseNote(Buffer.from(NOTE.replace("text", "\u007f \u00a0")))).toBeDefined();
  });

  it("have signature lines of one form, from their beginning to their end", () => {
    const [text = "", line = ""] = NOTE.split("\n\n");
    const lines = [
      `x${line}`,
      line.replace("\n", "x\n"),
      line.replace("\u2014 ", "\u2014"),
      line.replace("=\n", "===\n"),
    ];
    for (const bad of lines) expect(parseNote(Buffer.from(`${text}\n\n${bad}`)), bad).toBeUndefined();
  });
});

describe("log checkpoints", () => {
  const root = new Uint8Array(32).fill(5);

  it("have sizes from 0 to 2^53 − 1, and roots of 32 bytes", () => {
    for (const size of [0, 1, 10, Number.MAX_SAFE_INTEGER]) {
      expect(parseCheckpoint(encodeCheckpoint({ origin: "o", size, root }))).toMatchObject({ origin: "o", size });
    }
    for (const size of [-1, 0.5, 2 ** 53]) {
      expect(refusal(() => encodeCheckpoint({ origin: "o", size, root }))[2]).toBe("size");
    }
    for (const bytes of [31, 33]) {
      const act = (): unknown => encodeCheckpoint({ origin: "o", size: 1, root: new Uint8Array(bytes) });
      expect(refusal(act)).toEqual(["INTERNAL", "assertion failed: a root is 32 bytes", undefined]);
    }
    const text = encodeCheckpoint({ origin: "o", size: 1, root });
    for (const bad of [
      `x\n${text}`,
      `${text}x`,
      text.replace("\n1\n", "\n1 \n"),
      text.replace("\n1\n", "\n 1\n"),
      "o\n\n\n",
    ]) {
      expect(parseCheckpoint(bad), JSON.stringify(bad)).toBeUndefined();
    }
  });

  it("are malformed as notes or as texts, before anything else is judged", () => {
    for (const bytes of [Buffer.from("junk"), signNote("two\nlines\n", signer)]) {
      expect(checkCheckpoint(bytes, key)).toEqual({ ok: false, fault: "malformed" });
    }
  });
});

describe("epoch keys", () => {
  it("are refused in these words", () => {
    for (const bytes of [0, 31, 33]) {
      expect(refusal(() => epochKeyFrom(1, new Uint8Array(bytes)))).toEqual([
        ...["INVALID_ARGUMENT", "an epoch key must be 32 bytes", "key"],
      ]);
    }
    for (const epoch of [-1, 0.5, 2 ** 53]) expect(refusal(() => epochKeyFrom(epoch, K0.key))[2]).toBe("epoch");
    const wiped = keyAt(2);
    wipeEpochKey(wiped);
    const said = ["INTERNAL", "assertion failed: an epoch key is not used after it was wiped", undefined];
    expect([refusal(() => macKeyOf(wiped)), refusal(() => nextEpochKey(wiped))]).toEqual([said, said]);
  });

  it("are derived for at most so many epochs, all questions together; going back does not give any back", () => {
    const keys = macKeysFrom(keyAt(3));
    expect(keys.of(3 + LIMITS.auditEpochsDerived + 1)).toBeUndefined();
    expect(keys.of(13)).toBeDefined();
    expect(keys.of(13 + LIMITS.auditEpochsDerived - 9)).toBeUndefined();
    // Back to 3 and forward again: four steps more.
    expect(keys.of(7)).toBeDefined();
    expect(keys.of(7 + LIMITS.auditEpochsDerived - 13)).toBeUndefined();
    expect(keys.of(2)).toBeUndefined();
  });

  it("that were confirmed leave those before them behind, and closing wipes what is left", () => {
    const keys = macKeysFrom(keyAt(3));
    expect(keys.of(5)).toBe(keys.of(5));
    keys.confirm();
    keys.confirm();
    expect(keys.of(4)).toBeUndefined();
    expect(toHex(keys.of(5)?.export() ?? K0.key)).toBe(toHex(macKeyOf(keyAt(5)).export()));
    keys.of(6);
    keys.close();
    expect(refusal(() => keys.of(7))[0]).toBe("INTERNAL");
  });
});

describe("proof files", () => {
  const LOG = makeLog({ count: 12, segmentLines: 6, epochLines: 3 });
  const KEY = noteKeyOf(LOG.signer);
  const leaves = LOG.lines.map(leafHash);
  const rangeRoot = createRangeRoot((start, end) => Buffer.concat(leaves.slice(start, end)));
  const checkpoint = headOf(LOG, 12);
  const proof = { extra: LOG.lines[7], index: 7, hashes: proveInclusion(rangeRoot, 7, 12), checkpoint };
  const continuation = { from: 5, hashes: proveConsistency(rangeRoot, 5, 12), checkpoint };
  const encoded = (changed: Partial<typeof proof> = {}) =>
    encodeProofFile({ proof: { ...proof, ...changed }, continuation: undefined });

  it("have an index up to 2^53 − 1, up to 63 hashes, and a line of 1 to 65,534 bytes", () => {
    for (const index of [0, Number.MAX_SAFE_INTEGER])
      expect(parseProofFile(encoded({ index }))?.proof.index).toBe(index);
    for (const index of [-1, 0.5]) expect(refusal(() => encoded({ index }))[2]).toBe("index");
    const hashes = (count: number) => Array.from({ length: count }, () => new Uint8Array(32));
    expect(parseProofFile(encoded({ hashes: hashes(63) }))?.proof.hashes).toHaveLength(63);
    expect(parseProofFile(encoded({ hashes: hashes(64) }))).toBeUndefined();
    expect(parseProofFile(encoded({ hashes: [] }))?.proof.hashes).toEqual([]);
    const extra = (bytes: number) => parseProofFile(encoded({ extra: new Uint8Array(bytes) }))?.proof.extra?.byteLength;
    expect([extra(0), extra(1), extra(LIMITS.auditLineBytes - 1), extra(LIMITS.auditLineBytes)]).toEqual([
      ...[undefined, 1, LIMITS.auditLineBytes - 1, undefined],
    ]);
    const without = encodeProofFile({ proof: { ...proof, extra: undefined }, continuation: undefined });
    expect(parseProofFile(without)?.proof.extra).toBeUndefined();
    expect(PROOF_FILE_BYTES).toBe(2 * 131_072 + 2 * 65_535);
  });

  it("with a byte changed, left out or doubled convince nobody", () => {
    const file = encodeProofFile({ proof, continuation });
    const remembered = checkCheckpoint(headOf(LOG, 5), KEY);
    if (!remembered.ok) throw new Error(remembered.fault);
    const convinces = (bytes: Uint8Array): boolean => {
      const read = parseProofFile(bytes);
      if (read?.proof.extra === undefined || read.continuation === undefined) return false;
      const isIn = checkTlogProof(read.proof, leafHash(read.proof.extra), KEY).ok;
      return isIn && checkContinuation(read.continuation, remembered.checkpoint, KEY).ok;
    };
    expect(convinces(file)).toBe(true);
    const borders = [
      ...Buffer.from(file)
        .toString("latin1")
        .matchAll(/\n|[^\n]$/g),
    ].map(({ index }) => index);
    for (const at of borders
      .flatMap((border) => [border - 1, border, border + 1])
      .filter((at) => at < file.byteLength)) {
      const changed = Uint8Array.from(file);
      changed[at] = (changed[at] ?? 0) ^ 1;
      const [before, here, after] = [file.subarray(0, at), file.subarray(at, at + 1), file.subarray(at + 1)];
      for (const bytes of [changed, Buffer.concat([before, after]), Buffer.concat([before, here, here, after])]) {
        expect(convinces(bytes), `byte ${at}`).toBe(false);
      }
    }
  });

  it("do not hold for another leaf or another remembered log checkpoint, and say which part", () => {
    const other = makeLog({ count: 12, segmentLines: 6, epochLines: 3, story: "another" });
    expect(checkTlogProof(proof, leaves[8] ?? KEY.publicKey.export({ format: "der", type: "spki" }), KEY)).toEqual({
      ...{ ok: false, fault: "inclusion" },
    });
    expect(checkTlogProof(proof, leaves[7] ?? new Uint8Array(0), KEY)).toMatchObject({
      ok: true,
      checkpoint: { size: 12 },
    });
    const [sound, foreign, larger] = [headOf(LOG, 5), headOf(other, 5), headOf(LOG, 6)].map((note) =>
      checkCheckpoint(note, KEY),
    );
    if (sound?.ok !== true || foreign?.ok !== true || larger?.ok !== true) throw new Error("the example is not one");
    expect(checkContinuation(continuation, sound.checkpoint, KEY)).toMatchObject({
      ok: true,
      checkpoint: { size: 12 },
    });
    const refused = { ok: false, fault: "consistency" };
    expect(checkContinuation(continuation, foreign.checkpoint, KEY)).toEqual(refused);
    expect(checkContinuation(continuation, larger.checkpoint, KEY)).toEqual(refused);
    expect(checkContinuation(continuation, { ...sound.checkpoint, origin: "another" }, KEY)).toEqual(refused);
    const bad = { ...continuation, checkpoint: Buffer.from("junk") };
    expect(checkContinuation(bad, sound.checkpoint, KEY)).toEqual({ ok: false, fault: "malformed" });
    expect(checkTlogProof({ ...proof, checkpoint: Buffer.from("junk") }, leaves[7] ?? new Uint8Array(0), KEY)).toEqual({
      ...{ ok: false, fault: "malformed" },
    });
  });
});
