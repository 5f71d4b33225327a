/**
 * Memory of the header parsers: at most 2 × header + 32 MiB beyond the idle process. Measured as the operating system
 * sees it, peak against idle resident set of a process of its own that opens one file, on `dist`, with no flags.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { LIMITS } from "../../src/limits.ts";
import { parseGguf } from "../../src/source/gguf.ts";
import { parseSafetensors } from "../../src/source/safetensors.ts";
import { expectRefusal } from "../helpers/header-parses.ts";
import { concat, GGUF_VALUE, ggufEntry, ggufTensorInfo, rawGguf, rawSafetensors } from "../helpers/model-files.ts";

const MIB = 1024 * 1024;
const METADATA_COUNT = 65_536;
const COUNT = LIMITS.tensorCount;
/** A type of one byte an element. */
const I8 = 24;

const folder = mkdtempSync(join(tmpdir(), "vram-header-memory-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const dist = (file: string): string => JSON.stringify(pathToFileURL(resolve(import.meta.dirname, "../../dist", file)));
const PROGRAM = `
  import { readFileSync } from "node:fs";
  import { openSource } from ${dist("source/source.js")};
  import { nodeFileSystem } from ${dist("source/file.js")};
  const status = (key) => 1024 * Number(new RegExp(key + ":\\\\s+(\\\\d+)").exec(readFileSync("/proc/self/status", "utf8"))[1]);
  const idleBytes = status("VmRSS");
  const source = await openSource({ kind: "path", path: process.argv[1] }, {}, nodeFileSystem);
  console.log(JSON.stringify({ tensorCount: source.info.tensors.length, extraBytes: status("VmHWM") - idleBytes }));
  await source.close();
`;

interface Measured {
  readonly tensorCount: number;
  readonly extraBytes: number;
}

/**
 * Opens `bytes` as a file of a process of its own. The best of up to three: how soon V8 returns garbage depends on what
 * else the machine does, and what it has to keep does not.
 */
function measure(name: string, bytes: Uint8Array, boundBytes: number): Measured {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  const args = ["--input-type=module", "-e", PROGRAM, path];
  const run = (): Measured =>
    JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8", env: {} })) as Measured;
  let best = run();
  for (let left = 2; left > 0 && best.extraBytes > boundBytes; left -= 1) {
    const again = run();
    if (again.extraBytes < best.extraBytes) best = again;
  }
  rmSync(path);
  return best;
}

const list = <T>(length: number, make: (index: number) => T): T[] => Array.from({ length }, (_, index) => make(index));
const name = (index: number, length: number): string => String(index).padStart(length, "n");
/** Offsets in disorder: 7919 is prime to the counts. */
const scattered = (index: number): number => (index * 7919) % COUNT;

const ggufTensors = (nameLength: number, shape: readonly number[]): Uint8Array => {
  const infos = list(COUNT, (index) => ggufTensorInfo(name(index, nameLength), shape, I8, 32 * scattered(index)));
  return rawGguf(infos, { tensors: COUNT });
};
const ggufKeys = (keyLength: number): Uint8Array => {
  const value = { type: GGUF_VALUE.uint8, value: new Uint8Array(1) };
  const entries = list(METADATA_COUNT, (index) => ggufEntry({ key: name(index, keyLength), ...value }));
  return rawGguf(entries, { entries: METADATA_COUNT });
};
const entry = (index: number, nameLength: number, shape: string, begin: number, end: number): string =>
  `"${name(index, nameLength)}":{"dtype":"U8","shape":[${shape}],"data_offsets":[${begin},${end}]}`;
const longestName = Math.floor(LIMITS.tensorNameBytes / COUNT);

interface Case {
  readonly what: string;
  readonly make: () => { readonly header: Uint8Array; readonly dataBytes: number; readonly tensorCount: number };
}
const gguf = (make: () => Uint8Array, tensorCount: number) => () => {
  const header = make();
  return { header, dataBytes: tensorCount === 0 ? 0 : 32 * (COUNT + 1), tensorCount };
};
const safetensors = (make: () => string, tensorCount: number, dataBytes: number) => () => {
  return { header: rawSafetensors(make()), dataBytes, tensorCount };
};
const CASES: readonly Case[] = [
  { what: "short.gguf", make: gguf(() => ggufTensors(1, [1]), COUNT) },
  { what: "four-extents.gguf", make: gguf(() => ggufTensors(1, [1, 1, 1, 1]), COUNT) },
  { what: "names.gguf", make: gguf(() => ggufTensors(longestName, [1, 1, 1, 1]), COUNT) },
  { what: "keys-64-mib.gguf", make: gguf(() => ggufKeys(64 * 16 - 24), 0) },
  {
    what: "short.safetensors",
    make: safetensors(
      () => `{${list(COUNT, (n) => entry(n, 1, "1", scattered(n), scattered(n) + 1)).join(",")}}`,
      COUNT,
      COUNT,
    ),
  },
  {
    what: "names-and-extents.safetensors",
    make: safetensors(
      () => `{${list(COUNT, (n) => entry(n, longestName, "0,1,1,1,1,1,1,1", 0, 0)).join(",")}}`,
      COUNT,
      0,
    ),
  },
  {
    what: "metadata-16-mib.safetensors",
    make: safetensors(
      () => `{"__metadata__":{${list(METADATA_COUNT, (n) => `"${name(n, 64)}":"${name(n, 185)}"`).join(",")}}}`,
      0,
      0,
    ),
  },
];

describe("memory of the largest headers", () => {
  it.each(CASES)("[VR-IN-02] $what takes at most 2 × header + 32 MiB", ({ what, make }) => {
    const { header, dataBytes, tensorCount } = make();
    const boundBytes = 2 * header.byteLength + 32 * MIB;
    const measured = measure(what, concat(header, new Uint8Array(dataBytes)), boundBytes);
    const mib = (byteLength: number): string => (byteLength / MIB).toFixed(1);
    console.log(
      `header memory: ${what}: header ${mib(header.byteLength)} MiB, ${measured.tensorCount} tensors, ` +
        `peak ${mib(measured.extraBytes)} of ${mib(boundBytes)} MiB`,
    );
    expect(measured.tensorCount).toBe(tensorCount);
    expect(measured.extraBytes).toBeLessThanOrEqual(boundBytes);
  });
});

describe("what would outgrow that bound", () => {
  it("[VR-IN-02] is refused: more extents in all than eight for every tensor there may be", () => {
    const extents = (count: number): string => list(count, () => "1").join(",");
    const tensors = (count: number): string[] => list(count, (n) => entry(n, 1, `0,${extents(63)}`, 0, 0));
    const full = tensors((8 * COUNT) / 64).join(",");
    const whole = rawSafetensors(`{${full}}`);
    expect(parseSafetensors(whole, whole.byteLength).kind).toBe("complete");
    const header = `{${full},${entry(0, 9, "0", 0, 0)}}`;
    const file = rawSafetensors(header);
    const offset = 8 + header.lastIndexOf("[0]");
    const details = { format: "safetensors", rule: "extent-count", offset: offset + 1 };
    expectRefusal(() => parseSafetensors(file, file.byteLength), details);
  });

  it("[VR-IN-02] is refused: metadata keys of more than 4 MiB in all", () => {
    const entries = list(Math.floor((4 * MIB) / 65_535), (n) => `"${name(n, 65_535)}":""`).join(",");
    const whole = rawSafetensors(`{"__metadata__":{${entries}}}`);
    expect(parseSafetensors(whole, whole.byteLength).kind).toBe("complete");
    const header = `{"__metadata__":{${entries},"${name(1, 1000)}":""}}`;
    const file = rawSafetensors(header);
    const offset = 8 + header.lastIndexOf(`"${name(1, 1000)}"`);
    const details = { format: "safetensors", rule: "metadata-keys-too-long", offset };
    expectRefusal(() => parseSafetensors(file, file.byteLength), details);
  });

  it("[VR-IN-02] is refused: names of more than LIMITS.tensorNameBytes in all", () => {
    const count = LIMITS.tensorNameBytes / LIMITS.nameBytes;
    const infos = list(count, (index) => ggufTensorInfo(name(index, LIMITS.nameBytes), [0], I8, 0));
    const most = concat(rawGguf(infos, { tensors: count }), new Uint8Array(32));
    expect(parseGguf(most, most.byteLength).kind).toBe("complete");
    const more = rawGguf([...infos, ggufTensorInfo("n", [0], I8, 0)], { tensors: count + 1 });
    const offset = rawGguf(infos).byteLength;
    expectRefusal(() => parseGguf(more, more.byteLength), { format: "gguf", rule: "names-too-long", offset });

    const entries = list(count, (index) => entry(index, LIMITS.nameBytes, "0", 0, 0)).join(",");
    const header = `{${entries},${entry(0, 1, "0", 0, 0)}}`;
    const file = rawSafetensors(header);
    const details = { format: "safetensors", rule: "names-too-long", offset: 8 + header.lastIndexOf('"0"') };
    expectRefusal(() => parseSafetensors(file, file.byteLength), details);
  });
});
