/** Proof files (C2SP tlog-proof): against a second writer, there and back, and with every byte changed. */
import { sign } from "node:crypto";
import { sha256 } from "@noble/hashes/sha2.js";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkCheckpoint } from "../../src/audit/checkpoint.ts";
import { noteKeyOf } from "../../src/audit/note.ts";
import { proveConsistency, proveInclusion } from "../../src/audit/proofs.ts";
import {
  checkContinuation,
  checkTlogProof,
  encodeProofFile,
  PROOF_FILE_BYTES,
  type ProofFile,
  parseProofFile,
} from "../../src/audit/tlog-proof.ts";
import { createRangeRoot, leafHash } from "../../src/audit/tree.ts";
import { LIMITS } from "../../src/limits.ts";
import { headOf, makeLog } from "../helpers/audit-log.ts";
import { referenceConsistency, referenceInclusion, referenceRoot } from "../helpers/audit-tree.ts";

const LOG = makeLog({ count: 37, segmentLines: 20, epochLines: 10 });
const KEY = noteKeyOf(LOG.signer);
const LEAVES = LOG.lines.map((line) => sha256(Uint8Array.from([0, ...line])));
const rangeRoot = createRangeRoot((start, end) => Buffer.concat(LEAVES.slice(start, end)));
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");

/** A note as the specification has it, without our code. */
function referenceNote(size: number): string {
  const { name, privateKey } = LOG.signer;
  const text = `${name}\n${size}\n${base64(referenceRoot(LEAVES.slice(0, size)))}\n`;
  const publicKey = Buffer.from(KEY.publicKey.export({ format: "jwk" }).x ?? "", "base64url");
  const hashed = sha256(Buffer.concat([Buffer.from(`${name}\n`), Uint8Array.of(1), publicKey]));
  const blob = Buffer.concat([hashed.subarray(0, 4), sign(null, Buffer.from(text), privateKey)]);
  return `${text}\n\u2014 ${name} ${base64(blob)}\n`;
}

/** A proof file as the specifications have it, without our code. */
function referenceFile(index: number, size: number, from: number | undefined): string {
  const line = LOG.lines[index] ?? new Uint8Array(0);
  const hashes = referenceInclusion(LEAVES.slice(0, size), index).map((hash) => `${base64(hash)}\n`);
  const note = referenceNote(size);
  const proof = `c2sp.org/tlog-proof@v1\nextra ${base64(line)}\nindex ${index}\n${hashes.join("")}\n${note}`;
  if (from === undefined) return proof;
  const older = referenceConsistency(LEAVES.slice(0, size), from).map((hash) => `${base64(hash)}\n`);
  return `${proof}\nold ${from}\n${older.join("")}\n${note}`;
}

function ourFile(index: number, size: number, from: number | undefined): Uint8Array {
  const checkpoint = headOf(LOG, size);
  const proof = { extra: LOG.lines[index], index, hashes: proveInclusion(rangeRoot, index, size), checkpoint };
  if (from === undefined) return encodeProofFile({ proof, continuation: undefined });
  return encodeProofFile({
    proof,
    continuation: { from, hashes: proveConsistency(rangeRoot, from, size), checkpoint },
  });
}

/** Whether a file convinces somebody who has the key, and remembers the log over `from` entries. */
function convinces(bytes: Uint8Array, from: number | undefined): boolean {
  const file = parseProofFile(bytes);
  if (file?.proof.extra === undefined || !checkTlogProof(file.proof, leafHash(file.proof.extra), KEY).ok) return false;
  if (from === undefined) return true;
  const remembered = checkCheckpoint(headOf(LOG, from), KEY);
  if (!remembered.ok || file.continuation === undefined) return false;
  return checkContinuation(file.continuation, remembered.checkpoint, KEY).ok;
}

describe("a proof file", () => {
  it("[VR-AUD-02] is what another writer writes, for every line and size, and convinces", () => {
    const sizes = [1, 2, 3, 8, 21, 37];
    for (const size of sizes) {
      for (let index = 0; index < size; index += 1) {
        const from = sizes.find((other) => other > index && other <= size);
        const file = ourFile(index, size, from);
        expect(Buffer.from(file).toString()).toBe(referenceFile(index, size, from));
        expect(convinces(file, from)).toBe(true);
      }
    }
  });

  it("[VR-AUD-02] convinces nobody after any byte of it was changed, removed or doubled", () => {
    for (const from of [undefined, 21]) {
      const file = ourFile(17, 37, from);
      expect(convinces(file, from)).toBe(true);
      for (let at = 0; at < file.byteLength; at += 1) {
        for (const flip of [0x01, 0x04, 0x20, 0x80]) {
          const changed = Uint8Array.from(file);
          changed[at] = (changed[at] ?? 0) ^ flip;
          expect(convinces(changed, from), `byte ${at} ^ ${flip}`).toBe(false);
        }
        const [before, here, after] = [file.subarray(0, at), file.subarray(at, at + 1), file.subarray(at + 1)];
        expect(convinces(Buffer.concat([before, after]), from), `without byte ${at}`).toBe(false);
        expect(convinces(Buffer.concat([before, here, here, after]), from), `byte ${at} twice`).toBe(false);
      }
    }
  });

  it("is read as it was written, whatever is in it", () => {
    const hash = fc.uint8Array({ minLength: 32, maxLength: 32 });
    const hashes = fc.array(hash, { maxLength: 63 });
    const seq = fc.maxSafeNat();
    const extra = fc.option(fc.uint8Array({ minLength: 1, maxLength: 300 }), { nil: undefined });
    const checkpoint = fc.constantFrom(headOf(LOG, 5), headOf(LOG, 37));
    const file = fc.tuple(extra, seq, hashes, checkpoint, fc.option(fc.tuple(seq, hashes), { nil: undefined }));
    const property = fc.property(file, ([line, index, path, note, older]) => {
      const proof = { extra: line, index, hashes: path, checkpoint: note };
      const continuation = older === undefined ? undefined : { from: older[0], hashes: older[1], checkpoint: note };
      const bytes = encodeProofFile({ proof, continuation });
      const read = parseProofFile(bytes);
      expect(read).toBeDefined();
      expect(Buffer.from(encodeProofFile(read as ProofFile))).toEqual(Buffer.from(bytes));
      expect(read?.proof.index).toBe(index);
      expect(read?.continuation?.from).toBe(older?.[0]);
    });
    fc.assert(property, { numRuns: 300 });
  });

  const GOOD = Buffer.from(ourFile(17, 37, 21)).toString();
  const [HASH = ""] = /^[A-Za-z0-9+/]{43}=$/m.exec(GOOD) ?? [];
  const EXTRA = /^extra .*$/m.exec(GOOD)?.[0] ?? "";

  it.each([
    ["nothing", ""],
    ["another version", GOOD.replace("@v1", "@v2")],
    ["CR before LF", GOOD.replaceAll("\n", "\r\n")],
    ["an index with a leading zero", GOOD.replace("index 17", "index 017")],
    ["an index with a sign", GOOD.replace("index 17", "index +17")],
    ["an index beyond 2^53", GOOD.replace("index 17", "index 9007199254740992")],
    ["no index", GOOD.replace("index 17\n", "")],
    ["an index twice", GOOD.replace("index 17\n", "index 17\nindex 17\n")],
    ["extra twice", GOOD.replace(EXTRA, `${EXTRA}\n${EXTRA}`)],
    ["extra that is empty", GOOD.replace(EXTRA, "extra ")],
    ["extra behind the index", GOOD.replace(`${EXTRA}\nindex 17`, `index 17\n${EXTRA}`)],
    ["extra in base64url", GOOD.replace(EXTRA, "extra -_-_")],
    ["extra with bits that base64 leaves over", GOOD.replace(EXTRA, "extra QQF=")],
    ["extra longer than a line", GOOD.replace(EXTRA, `extra ${base64(new Uint8Array(LIMITS.auditLineBytes))}`)],
    ["a hash that is too short", GOOD.replace(HASH, base64(new Uint8Array(31)))],
    ["a hash that is no base64", GOOD.replace(HASH, "!".repeat(44))],
    ["64 hashes", GOOD.replace(HASH, Array.from({ length: 64 }, () => HASH).join("\n"))],
    ["no note", GOOD.slice(0, GOOD.indexOf("\n\n") + 2)],
    ["something behind the note", `${Buffer.from(ourFile(17, 37, undefined)).toString()}x\n`],
    ["a consistency proof without its note", GOOD.slice(0, GOOD.lastIndexOf("\n\nvram") + 2)],
    [
      "a consistency proof with another note",
      GOOD.replace(/\n\nvram(?![\s\S]*\n\nvram)[\s\S]*$/, `\n\n${referenceNote(36)}`),
    ],
    ["a consistency proof from a size with a zero", GOOD.replace("old 21", "old 021")],
    ["more bytes than a proof can have", GOOD + "x".repeat(PROOF_FILE_BYTES)],
  ])("with %s is refused", (_what, text) => {
    expect(text).not.toBe(GOOD);
    expect(parseProofFile(Buffer.from(GOOD))).toBeDefined();
    expect(parseProofFile(Buffer.from(text))).toBeUndefined();
  });

  it("holds under its own key only, and only against the log checkpoint that was remembered", () => {
    const other = makeLog({ count: 37, segmentLines: 20, epochLines: 10, story: "another" });
    const file = parseProofFile(ourFile(17, 37, 21));
    const remembered = checkCheckpoint(headOf(other, 21), KEY);
    if (file?.continuation === undefined || !remembered.ok) throw new Error("the example is not one");
    expect(checkContinuation(file.continuation, remembered.checkpoint, KEY)).toEqual({
      ok: false,
      fault: "consistency",
    });
    const line = file.proof.extra ?? new Uint8Array(0);
    const stranger = { ...KEY, name: "vram-residency/ffffffffffffffff" };
    expect(checkTlogProof(file.proof, leafHash(line), stranger)).toEqual({ ok: false, fault: "origin" });
    expect(checkContinuation(file.continuation, remembered.checkpoint, stranger)).toMatchObject({ fault: "origin" });
  });
});
