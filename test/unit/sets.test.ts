/** What a path stands for: itself, or the members of the directory or index that it names. */
import { chmod, mkdir, realpath, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { nodeFileSystem } from "../../src/source/file.ts";
import { expandSource } from "../../src/source/sets.ts";
import { codeOf, temporaryFolder } from "../helpers/vram.ts";

const expand = (path: string, roots: readonly string[] = ["/"]): Promise<string[]> =>
  expandSource(path, roots, nodeFileSystem);

const INDEX = "model.safetensors.index.json";

/** A folder with an index of this content, or of these member names. */
async function indexed(content: string | Uint8Array | readonly unknown[]): Promise<{ folder: string; index: string }> {
  const folder = await temporaryFolder();
  const index = join(folder, INDEX);
  const isText = typeof content === "string" || content instanceof Uint8Array;
  const map = isText ? {} : Object.fromEntries(content.map((name, at) => [`t${at}`, name]));
  await writeFile(index, isText ? content : JSON.stringify({ metadata: {}, weight_map: map }));
  return { folder, index };
}

describe("a file", () => {
  test("stands for itself, whether it is there or not: opening it says more", async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, "a.gguf"), "x");
    expect(await expand(join(folder, "a.gguf"))).toEqual([join(folder, "a.gguf")]);
    expect(await expand(join(folder, "missing"))).toEqual([join(folder, "missing")]);
    expect(await expand("with\0NUL")).toEqual(["with\0NUL"]);
  });
});

describe("a directory", () => {
  test("stands for its model files, sorted, under the path that was given", async () => {
    const folder = await temporaryFolder();
    for (const name of ["b.safetensors", "a.gguf", "c.bin", "README.md", "a.safetensors", "gguf"]) {
      await writeFile(join(folder, name), "x");
    }
    const members = ["a.gguf", "a.safetensors", "b.safetensors"].map((name) => join(folder, name));
    expect(await expand(folder)).toEqual(members);
    const link = join(await temporaryFolder(), "link");
    await symlink(folder, link);
    expect(await expand(link)).toEqual(members.map((path) => path.replace(folder, link)));
  });

  test("with an index stands for what the index names, and nothing else in it", async () => {
    const { folder } = await indexed(["m-2.safetensors", "m-1.safetensors", "m-2.safetensors"]);
    await writeFile(join(folder, "stray.safetensors"), "x");
    expect(await expand(folder)).toEqual([join(folder, "m-1.safetensors"), join(folder, "m-2.safetensors")]);
  });

  test("with two indexes is refused: which one is meant is for the caller to say", async () => {
    const { folder, index } = await indexed(["a.safetensors"]);
    await writeFile(join(folder, `other.safetensors.index.json`), "{}");
    expect(await codeOf(expand(folder))).toBe("MODEL_MALFORMED");
    expect(await expand(index)).toEqual([join(folder, "a.safetensors")]);
  });

  test("without a model file is SOURCE_NOT_FOUND", async () => {
    const folder = await temporaryFolder();
    expect(await codeOf(expand(folder))).toBe("SOURCE_NOT_FOUND");
    await writeFile(join(folder, "notes.txt"), "x");
    expect(await codeOf(expand(folder))).toBe("SOURCE_NOT_FOUND");
    expect(await codeOf(expand("/dev/pts"))).toBe("SOURCE_NOT_FOUND");
  });

  test("[VR-IN-03] outside the roots is refused before it is listed", async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, "a.gguf"), "x");
    expect(await codeOf(expand(folder, ["/usr"]))).toBe("SOURCE_REFUSED");
    expect(await expand(folder, [folder])).toHaveLength(1);
  });

  test("[VR-IN-04] that may not be listed is refused under the name that was given", async () => {
    const folder = await realpath(await temporaryFolder());
    await mkdir(join(folder, "closed"));
    await symlink("closed", join(folder, "link"));
    await chmod(folder, 0o755);
    await chmod(join(folder, "closed"), 0o311);
    // Root may list everything: then somebody else (nobody, 65534) tries.
    const isRoot = process.geteuid?.() === 0;
    if (isRoot) process.seteuid?.(65_534);
    const error: unknown = await expand(join(folder, "link"))
      .catch((thrown: unknown) => thrown)
      .finally(() => isRoot && process.seteuid?.(0));
    await chmod(join(folder, "closed"), 0o755);
    expect(error).toMatchObject({
      code: "SOURCE_REFUSED",
      message: `${join(folder, "link")}: this user may not read it`,
    });
    expect(error).toBeInstanceOf(VramError);
  });
});

describe("an index", () => {
  test("names each member once, however many tensors are in it", async () => {
    const { folder, index } = await indexed(["b", "a", "b", "b", "a"]);
    expect(await expand(index)).toEqual([join(folder, "a"), join(folder, "b")]);
  });

  test.each(["../a.safetensors", "/etc/passwd", "sub/a", "a/", "", ".", "..", 5, null, ["a"], {}])(
    "[VR-IN-01] with the member %j is refused",
    async (name) => {
      const { index } = await indexed(["good.safetensors", name]);
      expect(await codeOf(expand(index))).toBe("MODEL_MALFORMED");
    },
  );

  test.each([
    ["no JSON", "{"],
    ["JSON and more", '{"weight_map":{"a":"b"}} {}'],
    ["no UTF-8", Uint8Array.of(0x22, 0xff, 0x22)],
    ["nothing", ""],
    ["null", "null"],
    ["a list", "[]"],
    ["no map", "{}"],
    ["a map that is none", '{"weight_map":"a"}'],
    ["a map of nothing", '{"weight_map":null}'],
    ["nesting without end", "[".repeat(200_000)],
  ])("of %s is refused", async (_what, content) => {
    const { index } = await indexed(content);
    expect(await codeOf(expand(index))).toBe("MODEL_MALFORMED");
  });

  test("without members is SOURCE_NOT_FOUND, and so is one that is not there", async () => {
    const { folder, index } = await indexed([]);
    expect(await codeOf(expand(index))).toBe("SOURCE_NOT_FOUND");
    expect(await codeOf(expand(join(folder, `no.safetensors.index.json`)))).toBe("SOURCE_NOT_FOUND");
  });

  test(`has at most ${LIMITS.setMembers} members`, async () => {
    const names = Array.from({ length: LIMITS.setMembers + 1 }, (_, at) => `${at}.safetensors`);
    expect(await codeOf(expand((await indexed(names)).index))).toBe("MODEL_MALFORMED");
    expect(await expand((await indexed(names.slice(1))).index)).toHaveLength(LIMITS.setMembers);
  });

  test("larger than a header may be is refused before it is read", async () => {
    const { index } = await indexed("x");
    const fs: typeof nodeFileSystem = {
      ...nodeFileSystem,
      open: async (path, flags) => {
        const handle = await nodeFileSystem.open(path, flags);
        const size = BigInt(LIMITS.safetensorsHeaderBytes + 1);
        return {
          fd: handle.fd,
          stat: async (options) => Object.assign(await handle.stat(options), { size }),
          read: () => Promise.reject(new Error("it was read")),
          close: () => handle.close(),
        };
      },
    };
    expect(await codeOf(expandSource(index, ["/"], fs))).toBe("MODEL_MALFORMED");
  });
});
