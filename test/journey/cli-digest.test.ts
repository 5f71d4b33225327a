import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { vram } from "../helpers/cli.ts";
import { digestOf } from "../helpers/reference.ts";
import { randomFile, temporaryFolder } from "../helpers/vram.ts";

describe("vram digest", () => {
  it("prints 64 hex digits, two spaces and the name", async () => {
    const [a, b] = [await randomFile(5000), await randomFile(0)];
    const { code, out, err } = await vram(["digest", a.path, b.path]);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out).toBe(
      `${toHex(digestOf(a.bytes))}  ${a.path}\n3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95  ${b.path}\n`,
    );
  });

  it("adds the plain SHA-256, takes a salt, and prints one JSON document", async () => {
    const { path, bytes } = await randomFile(9000);
    const flat = createHash("sha256").update(bytes).digest("hex");
    const salted = toHex(digestOf(bytes, Buffer.from("c0ffee", "hex")));
    expect((await vram(["digest", "--also-sha256", path])).out.split("\n")[1]).toBe(`sha256:${flat}  ${path}`);
    expect((await vram(["digest", "--salt", "c0ffee", path])).out).toBe(`${salted}  ${path}\n`);
    const json = await vram(["digest", "--also-sha256", "--salt", "c0ffee", "--json", path]);
    expect(JSON.parse(json.out)).toEqual({
      schema: "vram-residency/digest/v1",
      ok: true,
      files: [{ path, byteLength: 9000, digest: `fsverity:${salted}`, sha256: `sha256:${flat}`, salt: "c0ffee" }],
      errors: [],
    });
  });

  it("goes on past a file that cannot be read, and exits 1", async () => {
    const { path, bytes } = await randomFile(10);
    const { code, out, err } = await vram(["digest", "/no/such/file", path]);
    expect({ code, out }).toEqual({ code: 1, out: `${toHex(digestOf(bytes))}  ${path}\n` });
    expect(err).toContain("SOURCE_NOT_FOUND: /no/such/file");
    const json = await vram(["digest", "--json", "/no/such/file"]);
    expect(JSON.parse(json.out)).toMatchObject({ ok: false, errors: [{ error: { code: "SOURCE_NOT_FOUND" } }] });
  });

  it("checks a list: 0 when all match, 3 on a mismatch, 1 when a file is missing", async () => {
    const [a, b] = [await randomFile(5000), await randomFile(6000)];
    const sums = join(await temporaryFolder(), "SUMS");
    await writeFile(sums, (await vram(["digest", "--also-sha256", a.path, b.path])).out);
    const good = await vram(["digest", "--check", sums]);
    expect(good).toEqual({ code: 0, out: [a, a, b, b].map(({ path }) => `${path}: OK\n`).join(""), err: "" });

    await writeFile(a.path, "other");
    const bad = await vram(["digest", "--check", sums]);
    expect(bad.code).toBe(3);
    expect(bad.out).toContain(`${a.path}: FAILED\n`);
    expect(bad.err).toBe("2 of 4 digests do not match\n");
    const json = await vram(["digest", "--check", sums, "--json"]);
    expect(json.code).toBe(3);
    expect(JSON.parse(json.out)).toMatchObject({ schema: "vram-residency/digest-check/v1", ok: false });

    await writeFile(sums, `${"0".repeat(64)}  ${dirname(a.path)}/gone\n`);
    expect(await vram(["digest", "--check", sums])).toMatchObject({ code: 1 });
  });

  it("escapes names as sha256sum does, and reads them back", async () => {
    const path = join(await temporaryFolder(), "odd\nname\\here");
    await writeFile(path, "content");
    const { out } = await vram(["digest", path]);
    expect(out.startsWith("\\")).toBe(true);
    expect(out.trimEnd().split("\n")).toHaveLength(1);
    const sums = join(await temporaryFolder(), "SUMS");
    await writeFile(sums, out);
    expect(await vram(["digest", "--check", sums])).toMatchObject({ code: 0 });
  });

  it("refuses what is not a list, an empty list, no files, and files beside --check", async () => {
    const sums = join(await temporaryFolder(), "SUMS");
    for (const text of ["", "hello\n", `${"0".repeat(64)} one-space\n`, `${"0".repeat(63)}  short\n`]) {
      await writeFile(sums, text);
      expect(await vram(["digest", "--check", sums])).toMatchObject({ code: 2 });
    }
    expect(await vram(["digest"])).toMatchObject({ code: 2 });
    expect(await vram(["digest", "--check", sums, sums])).toMatchObject({ code: 2 });
    expect(await vram(["digest", "--check", "/no/such/list"])).toMatchObject({ code: 1 });
    for (const odd of ["/dev/zero", "/tmp"]) expect(await vram(["digest", "--check", odd])).toMatchObject({ code: 1 });
    expect(await vram(["digest", "--check", sums, "--also-sha256"])).toMatchObject({ code: 2 });
    expect(await vram(["digest", "--salt", "xyz", sums])).toMatchObject({ code: 2 });
  });

  it("stops when it is told to, with 130", async () => {
    const { path } = await randomFile(10);
    expect(await vram(["digest", path], { signal: AbortSignal.abort() })).toMatchObject({ code: 130, out: "" });
  });

  it("digests the members of a directory", async () => {
    const folder = await temporaryFolder();
    for (const name of ["b.gguf", "a.safetensors", "notes.txt"]) await writeFile(join(folder, name), name);
    const { out } = await vram(["digest", folder]);
    expect(
      out
        .trimEnd()
        .split("\n")
        .map((line) => line.slice(66)),
    ).toEqual([join(folder, "a.safetensors"), join(folder, "b.gguf")]);
  });
});
