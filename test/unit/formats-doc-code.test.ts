/**
 * docs/formats.md against our code: digests, names, headers, the log and the attach socket. The same values are printed
 * by tools of others in formats-doc.test.ts; here our functions have to come to them.
 */
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { signCheckpoint } from "../../src/audit/checkpoint.ts";
import { type EpochKey, epochKeyFrom, macKeyOf, nextEpochKey } from "../../src/audit/epochs.ts";
import { parseEpochFile } from "../../src/audit/key-files.ts";
import { encodeLine } from "../../src/audit/line.ts";
import { encodeVkey, noteKeyOf, readNoteSigner } from "../../src/audit/note.ts";
import { checkContinuation, checkTlogProof, encodeProofFile, parseProofFile } from "../../src/audit/tlog-proof.ts";
import { createLogTree, leafHash, nodeHash } from "../../src/audit/tree.ts";
import { fromHex, toHex } from "../../src/bytes.ts";
import { toVramError } from "../../src/errors.ts";
import { hashBlocks, saltBlock } from "../../src/hash/blocks.ts";
import { formatDigest, fsverityDigest, parseDigest, sha256 } from "../../src/hash/descriptor.ts";
import { blockCount } from "../../src/hash/geometry.ts";
import { createTreeBuilder } from "../../src/hash/tree.ts";
import { cleanName, createId, requireName, requireShardId } from "../../src/seal/names.ts";
import { attachEvent, attachRequest, createMessageReader, encodeMessage } from "../../src/service/attach/protocol.ts";
import { cutAtTensors } from "../../src/source/cut.ts";
import { nodeFileSystem } from "../../src/source/file.ts";
import { parseGguf } from "../../src/source/gguf.ts";
import { parseSafetensors } from "../../src/source/safetensors.ts";
import { expandSource } from "../../src/source/sets.ts";
import { openSource } from "../../src/source/source.ts";
import type { HeaderParse } from "../../src/source/tensors.ts";
import { bytesOf, commandsOf, fileOf, quotedIn, rowsOf, shown } from "../helpers/formats-page.ts";

describe("digests", () => {
  const data = Uint8Array.from({ length: 528_385 }, (_, index) => index % 251);
  const [flat = "", plain = "", salted = "", ...rest] = shown("Digests");
  const levels = shown("Digests", 1);

  it("[VR-SEAL-02] are what our tree gives, level by level, without and with a salt", () => {
    expect(`${toHex(sha256(data))}  levels.bin`).toBe(flat);
    const salt = Uint8Array.from({ length: 16 }, (_, index) => index);
    const [first, second] = [undefined, salt].map((one) => {
      const leaves = new Uint8Array(blockCount(data.byteLength) * 32);
      hashBlocks(data, leaves, one === undefined ? undefined : saltBlock(one));
      const builder = createTreeBuilder(data.byteLength, one);
      builder.appendLeaves(leaves);
      const tree = builder.finish();
      const counted = [leaves, tree.kept, tree.root].map(
        (level) => `${level.byteLength / 32} hashes, the first ${toHex(level.subarray(0, 32))}`,
      );
      return { digest: toHex(tree.digest), told: [...counted, formatDigest("fsverity", tree.digest)] };
    });
    expect([first?.digest, second?.digest]).toEqual([plain, salted]);
    expect([...(first?.told ?? []), ...(second?.told ?? [])]).toEqual(levels);
  });

  it("have the descriptor that our digest is of", () => {
    const descriptor = Buffer.concat([bytesOf(rest.slice(0, 7)), Buffer.alloc(144)]);
    expect(descriptor.byteLength).toBe(256);
    const [root, salt] = [descriptor.subarray(16, 48), descriptor.subarray(80, 96)];
    expect(toHex(fsverityDigest(root, data.byteLength, salt))).toBe(toHex(sha256(descriptor)));
    expect(rest[7]).toBe(`${salted}  descriptor`);
  });

  it("are written as they are taken", () => {
    expect(parseDigest(`fsverity:${plain}`)).toEqual(parseDigest(plain));
    expect(parseDigest(`sha256:${plain}`).kind).toBe("sha256");
    for (const text of [plain.toUpperCase(), plain.slice(1), `${plain}0`, `sha512:${plain}`, ` ${plain}`]) {
      expect(() => parseDigest(text)).toThrow("64 lower-case hex digits");
    }
    expect(rowsOf("Digests", "written").map((row) => row[2])).toEqual(["yes", "yes", "yes", "no"]);
  });
});

const isTaken = (check: () => unknown): boolean => {
  try {
    check();
    return true;
  } catch {
    return false;
  }
};

describe("ids and names", () => {
  const lines = shown("Ids and names");

  it("are taken and refused as the page has it", () => {
    const ids = ["shard-abcdefghijklmnopqrstuvwxyz", "7b.Q4_K-00001", "-a", "a..b", "a/b", "é", "a".repeat(256)];
    const told = [...ids, "a".repeat(257)].map((id) => {
      return `${isTaken(() => requireShardId(id)) ? "True" : "False"} ${id.slice(0, 40)}`;
    });
    expect(lines.slice(0, 8)).toEqual(told);
  });

  it("are cleaned as the page has it", () => {
    const text = (quoted = ""): string =>
      JSON.parse(`"${quoted.slice(1, -1).replaceAll(/\\x(..)/g, "\\u00$1")}"`) as string;
    const pairs = lines.slice(8, -1).map((line) => /^('.*') ('.*')$/.exec(line) ?? []);
    expect(pairs).toHaveLength(6);
    for (const [, from, to] of pairs) {
      expect(cleanName(text(from))).toBe(text(to));
      expect(requireName(text(to))).toBe(text(to));
      expect(isTaken(() => requireName(text(from)))).toBe(from === to);
    }
    expect(lines.at(-1)).toBe(`${cleanName("é".repeat(600)).length} characters of 600`);
  });

  it("are generated in the forms of the table", () => {
    const kinds = ["shard", "lease", "op", "export", "statement"] as const;
    for (const kind of kinds) expect(createId(kind)).toMatch(new RegExp(`^${kind}-[a-z2-7]{26}$`));
    const prefixes = quotedIn(rowsOf("Ids and names", "id").map(([id = ""]) => id));
    expect(prefixes).toEqual(kinds.slice(1).map((kind) => `${kind}-…`));
  });
});

describe("what a path stands for", () => {
  it("is the members of an index, as the page lists them", async () => {
    const folder = mkdtempSync(join(tmpdir(), "formats-index-"));
    try {
      const index = /<<'END'\n([\s\S]*?)END\n/.exec(commandsOf("What a path stands for"))?.[1] ?? "";
      writeFileSync(join(folder, "model.safetensors.index.json"), index);
      const members = shown("What a path stands for").map((name) => join(folder, name));
      const indexPath = join(folder, "model.safetensors.index.json");
      await expect(expandSource(indexPath, ["/"], nodeFileSystem)).resolves.toEqual(members);
      await expect(expandSource(folder, ["/"], nodeFileSystem)).resolves.toEqual(members);
      writeFileSync(join(folder, "second.safetensors.index.json"), index);
      await expect(expandSource(folder, ["/"], nodeFileSystem)).rejects.toThrow("more than one index");
      for (const name of ["../model-2.safetensors", "sub/model-2.safetensors", "..", "."]) {
        writeFileSync(indexPath, index.replace("model-2.safetensors", name));
        await expect(expandSource(indexPath, ["/"], nodeFileSystem)).rejects.toThrow("not a plain file name");
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it("is the model files of a folder without an index, in the order of their names", async () => {
    const folder = mkdtempSync(join(tmpdir(), "formats-folder-"));
    try {
      for (const name of ["b.safetensors", "a.gguf", "B.gguf", "README.md", "c.bin"]) {
        writeFileSync(join(folder, name), "");
      }
      const members = ["B.gguf", "a.gguf", "b.safetensors"].map((name) => join(folder, name));
      await expect(expandSource(folder, ["/"], nodeFileSystem)).resolves.toEqual(members);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it("is parts that begin where the page says", () => {
    const tensors = [100, 400, 500, 900].map((offset) => ({
      ...{ name: `t${offset}`, dtype: "U8", shape: [10], offset, byteLength: 10 },
    }));
    const parts = cutAtTensors(tensors, 1000, 3).map(
      ({ offset, byteLength }) => `sourceOffset ${offset} byteLength ${byteLength}`,
    );
    expect(parts).toEqual(shown("What a path stands for", 1));
  });

  it("is told from its first bytes and its name in that order", async () => {
    const header = Buffer.concat([Buffer.from([2, 0, 0, 0, 0, 0, 0, 0]), Buffer.from("{}")]);
    const formatOf = (name: string, bytes: Uint8Array): Promise<string> =>
      openSource({ kind: "bytes", bytes, name }, {}, nodeFileSystem).then(
        async (source) => {
          await source.close();
          return source.info.format;
        },
        (thrown: unknown) => String(toVramError(thrown).details["format"]),
      );
    await expect(formatOf("a.safetensors", Buffer.from("GGUF...."))).resolves.toBe("gguf");
    await expect(formatOf("a.safetensors", Buffer.from("FUGG...."))).resolves.toBe("gguf");
    await expect(formatOf("a.gguf", header)).resolves.toBe("gguf");
    await expect(formatOf("a.safetensors", randomBytes(4))).resolves.toBe("safetensors");
    await expect(formatOf("a.bin", header)).resolves.toBe("safetensors");
    await expect(formatOf("a.bin", Buffer.concat([Buffer.from([1]), header.subarray(1)]))).resolves.toBe("raw");
  });
});

const tableOf = (parse: HeaderParse): string[] =>
  parse.kind === "need"
    ? []
    : parse.tensors.map(({ name, dtype, shape, offset, byteLength }) => {
        return `${name} ${dtype} [${shape.join(", ")}] offset ${offset} byteLength ${byteLength}`;
      });

describe("headers", () => {
  it("of safetensors give the table of the page", () => {
    const file = bytesOf(shown("safetensors"));
    const parsed = parseSafetensors(file, file.byteLength);
    expect(tableOf(parsed)).toEqual(shown("safetensors", 1));
    expect(parsed).toMatchObject({ headerByteLength: 152 });
  });

  it("of GGUF give the table of the page", () => {
    const [ends, ...hex] = shown("GGUF");
    const file = bytesOf(hex);
    const parsed = parseGguf(file, file.byteLength);
    expect(tableOf(parsed)).toEqual(shown("GGUF", 1));
    expect(parsed.kind === "complete" && `${parsed.headerByteLength} bytes of header`).toBe(ends);
  });
});

describe("the audit log", () => {
  const k1 = nextEpochKey(
    epochKeyFrom(
      0,
      Uint8Array.from({ length: 32 }, (_, index) => 0x20 + index),
    ),
  );
  const k2 = nextEpochKey(k1);
  const device = { ordinal: 0, uuid: "EMU-6f1c9a52-0b7e-4d38-9c41-5e2a8f70d3b6" };
  const digest = "dbbba10b5c18833a81689504ee1062c637669ba7f9dba22744e499bed90363cf";
  const shard = { name: "modèle.bin", sequence: 1, shardId: "shard-abcdefghijklmnopqrstuvwxyz" };
  const entries: readonly (readonly [number, EpochKey, string, object])[] = [
    [1767225600000, k1, "epoch_started", { because: "start" }],
    [1767226050000, k1, "vram_sealed", { byteLength: 15, comparedWith: "witnessed", device, digest, ...shard }],
    [1767226500000, k2, "epoch_started", { because: "time" }],
  ];
  const lines: Uint8Array[] = [];
  const leaves: Uint8Array[] = [];
  for (const [seq, [timeMs, key, type, data]] of entries.entries()) {
    const boot = fromHex("f0e1d2c3b4a5968778695a4b3c2d1e0f", 16, "boot");
    const prev = leaves.at(-1) ?? new Uint8Array(32);
    const fields = { seq, timeMs, boot, epoch: key.epoch, type, data: { ...data }, prev };
    lines.push(encodeLine(fields, macKeyOf(key)));
    leaves.push(leafHash((lines.at(-1) ?? prev).subarray(0, -1)));
  }
  const tree = createLogTree();
  for (const leaf of leaves) tree.append(leaf);
  // `audit-log.key` of the page, whose bytes are in formats-doc-keys.
  const pem = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
  const key = Buffer.from(`-----BEGIN PRIVATE KEY-----\n${pem}\n-----END PRIVATE KEY-----\n`);
  const signer = readNoteSigner("vram-residency/0123456789abcdef", key);
  const checkpoint = signCheckpoint(3, tree.root(), signer);

  it("[VR-AUD-02] has the lines, leaf hashes and root that we write", () => {
    const told = lines.map((line, seq) => {
      const mac = Buffer.from(line).toString().slice(-67, -3);
      return `leaf ${toHex(leaves[seq] ?? line)} mac ${mac}`;
    });
    const bytes = Buffer.concat(lines).byteLength;
    const sizes = [`${bytes} 000001.jsonl`, `${leaves.length * 32} 000001.leaves`, "67 audit-epoch.key"];
    expect([...told, `root ${toHex(tree.root())}`, ...sizes]).toEqual(shown("Audit log"));
    const file = Buffer.from(`2 ${toHex(k2.key)}\n`);
    expect(file.byteLength).toBe(67);
    expect(parseEpochFile(file, "audit-epoch.key")).toMatchObject({ epoch: 2, key: k2.key });
  });

  it("[VR-AUD-02] has the log checkpoint and the public key that we write", () => {
    const printed = `${encodeVkey(noteKeyOf(signer))}\n${Buffer.from(checkpoint).toString()}`;
    expect(printed.trimEnd().split("\n")).toEqual(shown("Audit log", 1));
  });

  it("[VR-AUD-02] has the proof file that we write and take", () => {
    const [leaf0, leaf1, leaf2] = leaves as [Uint8Array, Uint8Array, Uint8Array];
    const extra = lines[1]?.subarray(0, -1);
    const proof = { extra, index: 1, hashes: [leaf0, leaf2], checkpoint };
    const file = encodeProofFile({ proof, continuation: { from: 2, hashes: [leaf2], checkpoint } });
    const text = Buffer.from(file).toString();
    const told = `${text.slice(text.indexOf("\nold ") + 1)}${toHex(sha256(file))}  proof`;
    expect(told.split("\n")).toEqual(shown("Audit log", 2));

    const read = parseProofFile(file);
    const public_ = noteKeyOf(signer);
    const checked = read && checkTlogProof(read.proof, leaf1, public_);
    expect(checked).toMatchObject({ ok: true, checkpoint: { size: 3 } });
    const remembered = { origin: signer.name, size: 2, root: nodeHash(leaf0, leaf1) };
    expect(read?.continuation && checkContinuation(read.continuation, remembered, public_).ok).toBe(true);
    expect(shown("Audit log", 3)).toEqual([`index 1 of 3 ${toHex(tree.root())} True`, "continues 2 True"]);
  });
});

describe("attach messages", () => {
  it("are the bytes that we send and read", () => {
    const [hex = "", event = ""] = shown("Attach messages");
    const request = { v: 1, shard: "tiny.bin", expect: null } as const;
    const message = encodeMessage(request);
    expect(toHex(message)).toBe(hex.replaceAll(" ", ""));
    const [read] = createMessageReader(message.byteLength).push(message);
    expect(attachRequest.parse(read)).toEqual(request);
    const ended = { v: 1, event: "lease_ended", leaseId: "lease-abcdefghijklmnopqrstuvwxyz" } as const;
    const bytes = encodeMessage(attachEvent.parse({ ...ended, because: "expired" }));
    expect(event).toBe(`b'^\\x00\\x00\\x00${bytes.toString("latin1", 4, 20)}'`);
    expect(bytes.readUInt32LE()).toBe("^".charCodeAt(0));
  });
});

it("has files whose names its commands use", () => {
  for (const name of ["seal.json", "wanted.json", "envelope.json", "statement.pub.pem"]) {
    expect(fileOf(name).byteLength).toBeGreaterThan(100);
  }
});
