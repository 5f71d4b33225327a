/** What the tests of both header parsers ask of a result: its tensors, its refusal, where `need` leads. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { expect } from "vitest";
import { VramError } from "../../src/errors.ts";
import type { HeaderParse, Tensor } from "../../src/source/tensors.ts";

/** Real model files, beside the project; not everyone has them. */
export const MODELS = resolve(import.meta.dirname, "../../../shared/models");

/** Whether there are none; says so, since tests are skipped for it. */
export function withoutModels(format: string): boolean {
  const absent = !existsSync(MODELS);
  if (absent) console.log(`skipped: real ${format} files, there is no ${MODELS}`);
  return absent;
}

export function tensorsOf(parsed: HeaderParse): readonly Tensor[] {
  if (parsed.kind !== "complete") throw new Error(`the parser wants ${parsed.byteLength} bytes`);
  return parsed.tensors;
}

export function errorOf(run: () => unknown): unknown {
  try {
    run();
  } catch (thrown) {
    return thrown;
  }
  return undefined;
}

/** Expects `MODEL_MALFORMED` with these details and no others. */
export function expectRefusal(run: () => unknown, details: { format: string; rule: string; offset: number }): void {
  const error = errorOf(run);
  expect(error).toBeInstanceOf(VramError);
  expect(error).toMatchObject({ code: "MODEL_MALFORMED" });
  expect((error as VramError).details).toEqual(details);
}

/** Follows `need` from a prefix of `start` bytes; returns the result, the bytes parsed in total and the retries. */
export function grow(
  parse: (prefix: Uint8Array, fileByteLength: number) => HeaderParse,
  file: Uint8Array,
  start: number,
): { readonly parsed: HeaderParse; readonly bytesParsed: number; readonly retries: number } {
  let byteLength = start;
  let bytesParsed = start;
  let retries = 0;
  let parsed = parse(file.subarray(0, byteLength), file.byteLength);
  while (parsed.kind === "need") {
    expect(parsed.byteLength).toBeGreaterThan(byteLength);
    expect(parsed.byteLength).toBeLessThanOrEqual(file.byteLength);
    byteLength = parsed.byteLength;
    bytesParsed += byteLength;
    retries += 1;
    parsed = parse(file.subarray(0, byteLength), file.byteLength);
  }
  return { parsed, bytesParsed, retries };
}
