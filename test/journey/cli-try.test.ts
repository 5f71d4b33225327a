import { existsSync, readdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { normalised, vram } from "../helpers/cli.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { digestOf } from "../helpers/reference.ts";
import { randomFile, temporaryFolder } from "../helpers/vram.ts";

/** A safetensors file whose second tensor is the largest; always the same bytes. */
async function modelFile(): Promise<string> {
  const path = join(await temporaryFolder(), "tiny.safetensors");
  const tensor = (name: string, size: number) => ({
    name,
    dtype: "U8",
    shape: [size],
    data: Uint8Array.from({ length: size }, (_, index) => index % 251),
  });
  await writeFile(
    path,
    buildSafetensors([tensor("norm", 100), tensor("attention.weight", 600_000), tensor("head", 50)]),
  );
  return path;
}

describe("vram try", () => {
  it("tells the journey of a model and ends with nothing resident", async () => {
    const path = await modelFile();
    const { code, out, err } = await vram(["try", "--log-format", "text", path]);
    expect(code).toBe(0);
    const words = err.split("\n").flatMap((line) => /^ {2}(\w+) /.exec(line)?.[1] ?? []);
    expect(words).toEqual([
      ...["device", "started", "backend", "source", "reserved", "allocated", "uploaded", "facts", "measured"],
      ...["sealed", "verified", "freed", "capacity", "ended"],
    ]);
    expect(err).toContain("capacity   back at");
    expect(out).toMatch(/^Sealed, verified and evicted\.\nEMULATED device: .+\.\n$/);
  });

  it("[VR-VER-03] --tamper flips a bit, catches it, names the tensor, and can be run again on the same state", async () => {
    const path = await modelFile();
    const stateDir = join(await temporaryFolder(), "state");
    for (let run = 0; run < 2; run += 1) {
      const command = ["try", "--tamper", "--log-format", "text", "--state-dir", stateDir, path];
      const { code, out, err } = await vram(command);
      expect(code).toBe(0);
      expect(err).toMatch(/tampered +bit 3 of byte \d+ flipped in VRAM, in attention\.weight/);
      expect(err).toMatch(/located +4 KiB block at \d+ of attention\.weight: 1 of its bytes differ/);
      expect(out).toContain("The flipped bit was caught and named.");
      expect(err).toMatch(/resumed +device 0/);
    }
    expect(existsSync(join(stateDir, "root.key"))).toBe(true);
  });

  it("prints one JSON document whose form is frozen", async () => {
    const path = await modelFile();
    const { code, out } = await vram(["try", "--tamper", "--json", path]);
    expect(code).toBe(0);
    const golden = new URL("../golden/try.json", import.meta.url);
    await expect(`${JSON.stringify(normalised(out), null, 2)}\n`).toMatchFileSnapshot(golden.pathname);
    expect(JSON.parse(out)).toMatchObject({
      schema: "vram-residency/try/v1",
      files: [{ path, tampering: { caught: true } }],
    });
  });

  it("[VR-SEAL-01] a wrong --expect exits 3 with both digests and leaves nothing; a right one is the fast way", async () => {
    const { path, bytes } = await randomFile(300_000);
    const wrong = `fsverity:${"1".repeat(64)}`;
    const right = `fsverity:${toHex(digestOf(bytes))}`;
    const refused = await vram(["try", "--expect", wrong, path]);
    expect(refused.code).toBe(3);
    expect(refused.err).toContain(wrong);
    expect(refused.err).toContain(right);
    expect(refused.err).toContain("fix");
    const json = await vram(["try", "--expect", wrong, "--json", path]);
    expect(json.code).toBe(3);
    expect(JSON.parse(json.out)).toMatchObject({
      ok: false,
      error: { code: "DIGEST_MISMATCH", details: { expected: wrong, actual: right } },
    });
    const good = await vram(["try", "--expect", right, path]);
    expect(good.code).toBe(0);
    expect(good.err).toContain("not hashed on the host");
    expect((await vram(["try", "--expect", "nonsense", path])).code).toBe(2);
  });

  it("tries several files, refuses --name for them, tampers with raw files, and takes a format", async () => {
    const [a, b] = [await randomFile(5000, "a.bin"), await randomFile(6000, "b.bin")];
    const both = await vram(["try", "--tamper", a.path, b.path]);
    expect(both.code).toBe(0);
    expect(both.err.match(/"action":"verify_failed"/g)).toHaveLength(2);
    expect((await vram(["try", "--name", "x", a.path, b.path])).code).toBe(2);
    const fake = await randomFile(5000, "fake.gguf");
    const refused = await vram(["try", fake.path]);
    expect(refused).toMatchObject({ code: 1 });
    expect(refused.err).toContain("MODEL_MALFORMED");
    expect(await vram(["try", "--format", "raw", "--name", "forced", fake.path])).toMatchObject({ code: 0 });
  });

  it("without room exits 1, with a device that is not to be had 5, interrupted 130, empty file 1", async () => {
    const big = await randomFile(2 * 1024 * 1024);
    const small = { env: { VRAM_EMULATED_BYTES: String(64 * 1024 * 1024) } };
    expect((await vram(["try", big.path], small)).code).toBe(0);
    expect((await vram(["try", "--backend", "cuda", big.path])).code).toBe(5);
    expect((await vram(["try", big.path], { signal: AbortSignal.abort() })).code).toBe(130);
    expect((await vram(["try", (await randomFile(0)).path])).code).toBe(1);
    expect((await vram(["try", big.path], { env: { VRAM_BACKEND: "gpu" } })).code).toBe(2);
    expect((await vram(["try", big.path], { env: { VRAM_EMULATED_BYTES: "-1" } })).code).toBe(2);
  });

  it("without --state-dir leaves nothing on disk", async () => {
    const { path } = await randomFile(5000);
    const home = await temporaryFolder();
    await vram(["try", path], { env: { HOME: home, XDG_STATE_HOME: home } });
    expect(readdirSync(home)).toEqual([]);
  });
});
