/** `vram-residency/offline` runs where there is nothing: what it can reach is read from the sources. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { type CheckOptions, checkStatement } from "../../src/offline.ts";
import { madeStatement, NOW_MS, SIGNER } from "../helpers/statements.ts";

const SRC = fileURLToPath(new URL("../../src/", import.meta.url));

/** Modules that a file imports while the program runs; types are gone by then. */
function importsOf(path: string, isLazy: boolean): string[] {
  const text = readFileSync(path, "utf8").replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, "");
  const kept = text.replace(/^(?:import|export) type [^;]*;/gm, "");
  const named = [...kept.matchAll(/(?:^(?:import|export)\b[^;]*?from |\bimport\(|^import )"([^"]+)"/gm)];
  return named.filter(([whole]) => isLazy || !whole.startsWith("import(")).map(([, specifier = ""]) => specifier);
}

/** `isLazy`: also what is loaded when it is first needed. */
function reachedFrom(
  entry: string,
  isLazy = true,
): { readonly files: readonly string[]; readonly packages: readonly string[] } {
  const files = new Set<string>();
  const packages = new Set<string>();
  const visit = (path: string): void => {
    if (files.has(path)) return;
    expect(existsSync(path), path).toBe(true);
    files.add(path);
    for (const specifier of importsOf(path, isLazy)) {
      if (specifier.startsWith(".")) visit(resolve(dirname(path), specifier));
      else packages.add(specifier);
    }
  };
  visit(resolve(SRC, entry));
  return { files: [...files].map((path) => relative(SRC, path)), packages: [...packages] };
}

const ALLOWED = ["zod", "picocolors", "smol-toml", "commander"];

describe("[VR-ATT-01] what is checked offline", () => {
  it("has a value for every term that is named: what nobody set is not passed over", async () => {
    const { file, statement, nonce } = madeStatement();
    const { digest } = statement.predicate.measurement;
    const terms = { publicKey: SIGNER.publicPem, digest, nowMs: NOW_MS };
    expect(await checkStatement(file, { ...terms, nonce })).toMatchObject({ ok: true });
    // What a program in JavaScript does with a variable that is not set.
    const unset = { ...terms, nonce: undefined } as unknown as CheckOptions;
    await expect(checkStatement(file, unset)).rejects.toMatchObject({
      ...{ code: "INVALID_ARGUMENT", details: { argument: "nonce" } },
    });
  });

  it.each<[string, boolean]>([
    ["offline.ts", true],
    // The client is loaded by commands that talk to a service, and this one does not.
    ["cli/commands/attest-check.ts", false],
  ])("%s reaches no native code, no driver and no other process", (entry, isLazy) => {
    const { files, packages } = reachedFrom(entry, isLazy);
    expect(files).toContain("attest/check.ts");
    expect(files.filter((path) => /^(?:ffi|cuda|handles|device|process|service|exports)\//.test(path))).toEqual([]);
    expect(packages).not.toContain("node:child_process");
    expect(packages.filter((name) => !name.startsWith("node:") && !ALLOWED.includes(name))).toEqual([]);
  });

  it("is read as it should be: the library itself does reach native code", () => {
    expect(reachedFrom("index.ts").packages).toContain("koffi");
  });
});
