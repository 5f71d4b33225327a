/**
 * The tables of docs/formats.md against the constants, schemas and rules of our code, both ways: no limit, field, rule or
 * file that is not there, and none that is missing; and what a state directory really has.
 */
import { once } from "node:events";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { z } from "zod";
import { evidenceSchema } from "../../src/attest/evidence.ts";
import { NONCE_BYTES_MIN } from "../../src/attest/statement.ts";
import { PROOF_FILE_BYTES } from "../../src/audit/tlog-proof.ts";
import { canonicalJson, toHex } from "../../src/bytes.ts";
import { configDigest } from "../../src/config/config.ts";
import { SALT_BYTES_MAX, sha256 } from "../../src/hash/descriptor.ts";
import { BLOCK_BYTES, HASH_BYTES, RANGE_BYTES } from "../../src/hash/geometry.ts";
import { LIMITS } from "../../src/limits.ts";
import { ATTACH_SUFFIX } from "../../src/service/attach/protocol.ts";
import { openSocket } from "../../src/service/http/socket-file.ts";
import { openTokens, SCOPES } from "../../src/service/tokens.ts";
import { GGML_TYPES } from "../../src/source/ggml-types.ts";
import { limitsOf, quotedIn, rowsOf, sectionOf } from "../helpers/formats-page.ts";
import { CALLER, makeHome, openTestService } from "../helpers/service.ts";
import { randomFile } from "../helpers/vram.ts";

const source = (path: string): string => readFileSync(new URL(`../../src/${path}`, import.meta.url), "utf8");

/** A number that a file of src keeps to itself. */
function constant(path: string, name: string): number {
  const [, text = ""] = new RegExp(`const ${name}(?:: number)? = ([\\d_ *]+);`).exec(source(path)) ?? [];
  return text
    .split("*")
    .reduce((product, factor) => product * Number(factor.replaceAll("_", "")), text === "" ? Number.NaN : 1);
}

const LISTED: Readonly<Record<string, readonly (readonly [limit: string, value: number])[]>> = {
  Digests: [
    ["bytes of a block", BLOCK_BYTES],
    ["bytes of a hash", HASH_BYTES],
    ["bytes of the descriptor", constant("hash/descriptor.ts", "DESCRIPTOR_BYTES")],
    ["bytes of a salt", SALT_BYTES_MAX],
    ["bytes of data that one hash of level 1 covers", RANGE_BYTES],
  ],
  "Ids and names": [
    ["characters of an id", LIMITS.idLength],
    ["bytes of a name", LIMITS.nameBytes],
    ["characters of a correlation id", LIMITS.correlationIdLength],
  ],
  "What a path stands for": [
    ["members of a set", LIMITS.setMembers],
    ["bytes of an index", LIMITS.safetensorsHeaderBytes],
    ["bytes of a model, unless configured", LIMITS.maxModelBytes],
  ],
  safetensors: [
    ["bytes of the header, unless configured", LIMITS.safetensorsHeaderBytes],
    ["bytes of the header, at most", LIMITS.safetensorsHeaderBytesMax],
    ["tensors", LIMITS.tensorCount],
    ["bytes of a tensor name", LIMITS.nameBytes],
    ["bytes of all tensor names", LIMITS.tensorNameBytes],
    ["extents of a tensor", constant("source/safetensors.ts", "RANK_MAX")],
    ["extents of all tensors", 8 * LIMITS.tensorCount],
    ["entries of the metadata", constant("source/safetensors.ts", "METADATA_COUNT")],
    ["bytes of a metadata key", constant("source/safetensors.ts", "METADATA_KEY_BYTES")],
    ["bytes of all metadata keys", constant("source/safetensors.ts", "METADATA_KEYS_BYTES")],
  ],
  GGUF: [
    ["bytes of the header", LIMITS.ggufHeaderBytes],
    ["tensors", LIMITS.tensorCount],
    ["bytes of a tensor name", LIMITS.nameBytes],
    ["bytes of all tensor names", LIMITS.tensorNameBytes],
    ["extents of a tensor", constant("source/gguf.ts", "RANK_MAX")],
    ["entries of the metadata", constant("source/gguf-metadata.ts", "METADATA_COUNT")],
    ["bytes of a metadata key", constant("source/gguf-metadata.ts", "KEY_BYTES")],
    ["arrays within each other", constant("source/gguf-metadata.ts", "ARRAY_DEPTH_MAX")],
    ["alignment", constant("source/gguf-metadata.ts", "ALIGNMENT_MAX")],
  ],
  "Audit log": [
    ["bytes of a line, LF included", LIMITS.auditLineBytes],
    ["bytes of `data`, less than", LIMITS.auditDataBytes],
    ["objects and arrays within each other in `data`", LIMITS.auditDataDepth],
    ["bytes of a segment", LIMITS.auditSegmentBytes],
    ["milliseconds of an epoch", LIMITS.auditEpochMs],
    ["entries of an epoch", LIMITS.auditEpochEntries],
    ["epochs that one verification derives", LIMITS.auditEpochsDerived],
    ["bytes of a signed note", LIMITS.noteBytes],
    ["signatures on a note", LIMITS.noteSignatures],
    ["bytes of a proof file", PROOF_FILE_BYTES],
    ["bytes of a log, unless configured", LIMITS.auditBytes],
  ],
  "Wanted set": [
    ["bytes of the document", LIMITS.wantedFileBytes],
    ["shards in all rows", LIMITS.wantedShards],
    ["bytes of a path", constant("service/wanted-rows.ts", "PATH_BYTES")],
    ["bytes of what is not under the mac", constant("service/wanted-rows.ts", "TAIL_BYTES")],
  ],
  "API tokens": [
    ["tokens", LIMITS.tokens],
    ["bytes of the file", LIMITS.tokensFileBytes],
    ["random bytes of a token", constant("service/tokens.ts", "TOKEN_BYTES")],
    ["digits that name one", constant("service/tokens.ts", "FINGERPRINT_DIGITS")],
  ],
  Configuration: [
    ["bytes of the file", LIMITS.configBytes],
    ["tables within each other", LIMITS.configDepth],
  ],
  Statements: [
    ["bytes of an envelope", LIMITS.statementBytes],
    ["bytes of a nonce, at least", NONCE_BYTES_MIN],
    ["bytes of a nonce, at most", SALT_BYTES_MAX],
    ["characters of a text in it", LIMITS.statementTextLength],
    ["milliseconds a checker lets a clock be ahead", LIMITS.statementSkewMs],
  ],
  "Attach messages": [
    ["bytes of JSON of a request", LIMITS.attachRequestBytes],
    ["bytes of JSON of a reply or event", LIMITS.attachReplyBytes],
    ["milliseconds until the request is there", LIMITS.attachRequestMs],
    ["milliseconds until a refused connection ends", LIMITS.serviceDiscardMs],
    ["connections", LIMITS.attachConnections],
  ],
};

describe("limits in docs/formats.md", () => {
  it.each(Object.entries(LISTED))("under %s are those of the code", (heading, limits) => {
    expect(limitsOf(heading)).toEqual(Object.fromEntries(limits));
  });

  it("in running text are those of the code", () => {
    expect(sectionOf("Attach messages")).toContain(`nor nest more than ${LIMITS.serviceJsonDepth} deep`);
    expect(sectionOf("Evidence of a GPU")).toContain("at most 16,384 characters");
    expect(source("attest/evidence.ts")).toContain(".max(16_384)");
    expect(sectionOf("Evidence of a GPU")).toContain(
      `more than ${constant("attest/evidence.ts", "REQUEST_BYTES")} bytes`,
    );
    const nonce = rowsOf("Evidence of a GPU", "offset").find((row) => row[3] === "the nonce");
    expect(nonce?.[0]).toBe(String(constant("attest/evidence.ts", "NONCE_AT")));
  });
});

/** The rules that these files of `src/source` refuse by. */
function rulesOf(...names: readonly string[]): string[] {
  const patterns = [
    /(?:refuse|tooLong)\(\s*"([\w-]+)"/g,
    /malformed\(\s*(?:"gguf"|format),\s*"([\w-]+)"/g,
    /json\.string\([^"]+"([\w-]+)"/g,
    /cursor\.requireCount\([^;]*?"([\w-]+)"/g,
    /\["([\w-]+)", `/g,
  ];
  const found = names.flatMap((name) => {
    const text = source(`source/${name}.ts`);
    return patterns.flatMap((pattern) => [...text.matchAll(pattern)].map(([, rule = ""]) => rule));
  });
  return [...new Set(found)].toSorted();
}

const rulesOnPage = (heading: string): string[] =>
  quotedIn(rowsOf(heading, "rule").map(([rules = ""]) => rules)).toSorted();

describe("headers in docs/formats.md", () => {
  it("are refused by the rules of the page, and no others", () => {
    expect(rulesOnPage("safetensors")).toEqual(rulesOf("safetensors", "json-header", "layout"));
    expect(rulesOnPage("GGUF")).toEqual(rulesOf("gguf", "gguf-metadata", "cursor", "layout"));
  });

  it("have the types of the page, and no others", () => {
    const types = [...GGML_TYPES].map(([id, { name, blockElements, blockBytes }]) => {
      return [String(id), `\`${name}\``, String(blockElements), String(blockBytes)];
    });
    expect(rowsOf("GGUF", "type")).toEqual(types);
    const [, list = ""] = /DTYPE_BITS[^=]+= (\[[^;]+\]);/.exec(source("source/safetensors.ts")) ?? [];
    const dtypes = [...list.matchAll(/\["(\w+)", (\d+)\]/g)].map(([, name, bits]) => `\`${name}\` ${bits}`);
    const [, told = ""] = /Dtypes and bits of an element: ([\s\S]*?)\./.exec(sectionOf("safetensors")) ?? [];
    expect(told.split(/,\s+/)).toEqual(dtypes);
  });

  it("have the values of the metadata that we read", () => {
    const [, list = ""] = /VALUE_BYTES_MIN[^=]+= \[([\d, ]+)\]/.exec(source("source/gguf-metadata.ts")) ?? [];
    const sizes = list.split(", ").map(Number);
    const told: number[] = [];
    for (const [types = "", , bytes = ""] of rowsOf("GGUF", "type of a value")) {
      for (const type of types.split(", ")) told[Number(type)] = Number.parseInt(bytes, 10);
    }
    expect(told).toEqual(sizes);
  });
});

/** The keys of a strict object within a file of src, by what stands before its brace. */
const keysIn = (path: string, before: string): string[] => {
  const [, rest = ""] = source(path).split(before);
  const body = rest.split("\n})")[0]?.split("\n  })")[0] ?? "";
  return [...body.matchAll(/(?:^|[{,]) {2,4}?(\w+)(?=[:,]| \})/gm)].map(([, key = ""]) => key);
};

describe("fields in docs/formats.md", () => {
  const firsts = (heading: string, title: string): string[] =>
    quotedIn(rowsOf(heading, title).map(([field = ""]) => field));

  it("of evidence and tokens are those of the schemas", () => {
    const { shape } = evidenceSchema as z.ZodObject;
    expect(firsts("Evidence of a GPU", "field")).toEqual(Object.keys(shape));
    expect(firsts("API tokens", "scope")).toEqual([...SCOPES]);
    const stored = keysIn("service/tokens.ts", "const stored = z.strictObject({\n");
    expect(firsts("API tokens", "field")).toEqual(["version", ...stored.map((key) => `tokens[].${key}`)]);
  });

  it("of the wanted set are those of its rows", () => {
    const row = /shardRow = z\.strictObject\(\{ kind: z\.literal\("shard"\), (\w+), (\w+), (\w+) \}\)/;
    const [, ...members] = row.exec(source("service/wanted-rows.ts")) ?? [];
    expect(firsts("Wanted set", "field of a shard")).toEqual(["kind", ...members]);
    const [, set = ""] =
      /setRow = z\s+\.strictObject\(\{\n([\s\S]*?)\n {2}\}\)/.exec(source("service/wanted-rows.ts")) ?? [];
    const keys = [...set.matchAll(/^ {4}(\w+)/gm)].map(([, key = ""]) => key);
    expect(firsts("Wanted set", "field of a set")).toEqual(keys);
  });
});

describe("a state directory", () => {
  it("[VR-API-04] has the files of the page with their modes, and no others", async () => {
    const home = await makeHome();
    const test = await openTestService(home);
    const { path } = await randomFile(5000);
    await (await test.service.seal({ path }, CALLER)).ended;
    await openTokens(home.stateDir).add("ci", "use");
    // Closing writes a log checkpoint, and takes nothing away.
    await test.close();
    const list = (folder = ""): string[] =>
      readdirSync(join(home.stateDir, folder), { withFileTypes: true }).flatMap((entry) => {
        const name = `${folder}${entry.name}`;
        return entry.isDirectory() ? [`${name}/`, ...list(`${name}/`)] : [name];
      });
    const files = list();
    expect(files.toSorted()).toEqual(quotedIn(rowsOf("State directory", "file").map(([file = ""]) => file)).toSorted());
    for (const file of ["", ...files]) {
      const mode = file === "" || file.endsWith("/") ? 0o700 : 0o600;
      expect([file, statSync(join(home.stateDir, file)).mode & 0o777]).toEqual([file, mode]);
    }
    const state = JSON.parse(readFileSync(join(home.stateDir, "state.json"), "utf8")) as object;
    const fields = quotedIn(rowsOf("State directory", "field of `state.json`").map(([field = ""]) => field));
    expect(Object.keys(state)).toEqual(fields);
    expect(statSync(join(home.stateDir, "audit/reserve")).size).toBe(LIMITS.auditReserveFileBytes);
    const { values } = test;
    expect(test.of("service_started").at(-1)?.configDigest).toBe(configDigest(values));
    expect(configDigest(values)).toBe(toHex(sha256(Buffer.from(canonicalJson(values)))));
  });

  it("has the sockets and locks of the page in the runtime folder", async () => {
    const home = await makeHome();
    const test = await openTestService(home);
    const runtime = join(home.folder, "run/vram-residency");
    const locks = test.devices.map(({ uuid }) => `gpu-${uuid}.lock`);
    expect(readdirSync(runtime)).toEqual(locks);
    const [lock = ""] = locks;
    expect(statSync(join(runtime, lock)).mode & 0o777).toBe(0o600);
    expect(readFileSync(join(runtime, lock), "utf8")).toBe(`${process.pid}\n`);
    const path = join(runtime, "vram.sock");
    const server = createServer().listen(path);
    await once(server, "listening");
    const [uid, gid] = [home.place.uid, process.getgid?.() ?? 0];
    const modes: number[] = [];
    for (const groupId of [undefined, gid]) {
      await openSocket(path, { uid, groupId });
      modes.push(statSync(path).mode & 0o777);
    }
    server.close();
    expect(modes).toEqual([0o600, 0o660]);
    const told = sectionOf("State directory");
    expect(told).toContain(`\`vram.sock\` and \`vram.sock${ATTACH_SUFFIX}\`, mode\n0600, or 0660`);
  });
});
