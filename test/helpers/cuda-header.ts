/** Asks the compiler about cuda.h: its preprocessed text, and what its names are as numbers. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Header, parseHeader } from "./prototype-rows.ts";

const BYTES_MAX = 64 * 1024 * 1024;

/** Reads the declarations of the cuda.h in `folder`. */
export function readHeader(folder: string): Header {
  const args = ["-E", "-P", "-x", "c++", `-isystem${folder}`, "-include", "cuda.h", "/dev/null"];
  const preprocessed = execFileSync("g++", args, { encoding: "utf8", maxBuffer: BYTES_MAX });
  return parseHeader(preprocessed, readFileSync(join(folder, "cuda.h"), "utf8"));
}

/** The values of constant expressions of C++ under the cuda.h in `folder`. Throws what the compiler says of one. */
export function evaluate(folder: string, expressions: readonly string[]): ReadonlyMap<string, number> {
  const work = mkdtempSync(join(tmpdir(), "vram-header-"));
  try {
    const lines = expressions.map((expression) => `  std::printf("%lld\\n", static_cast<long long>(${expression}));`);
    const source = join(work, "values.cpp");
    writeFileSync(
      source,
      `#include <cuda.h>\n#include <cstddef>\n#include <cstdio>\n#include <type_traits>\nint main() {\n${lines.join("\n")}\n}\n`,
    );
    const program = join(work, "values");
    execFileSync("g++", ["-std=c++17", "-O0", `-isystem${folder}`, source, "-o", program], { stdio: "pipe" });
    const values = execFileSync(program, { encoding: "utf8" }).trim().split("\n").map(Number);
    return new Map(expressions.map((expression, index) => [expression, values[index] ?? Number.NaN]));
  } finally {
    rmSync(work, { recursive: true });
  }
}
