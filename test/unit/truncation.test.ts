/** Valid files of up to 4 KiB, cut off at every byte: a refusal, whatever the cut goes through, and however it is read. */
import { describe, expect, it } from "vitest";
import { VramError } from "../../src/errors.ts";
import { parseGguf } from "../../src/source/gguf.ts";
import { parseSafetensors } from "../../src/source/safetensors.ts";
import { errorOf, grow, tensorsOf } from "../helpers/header-parses.ts";
import { VALID_FILES } from "../helpers/mutate.ts";

const PARSERS = { gguf: parseGguf, safetensors: parseSafetensors };

describe.each(["gguf", "safetensors"] as const)("valid %s files", (format) => {
  const parse = PARSERS[format];
  const files = VALID_FILES[format];

  it("have up to 4 KiB, and one of them nearly as much", () => {
    const lengths = files.map(({ byteLength }) => byteLength);
    expect(Math.max(...lengths)).toBeLessThanOrEqual(4096);
    expect(Math.max(...lengths)).toBeGreaterThan(3500);
  });

  it.each(files.map((file) => [file.byteLength, file] as const))(
    "[VR-IN-02] of %d bytes, cut off anywhere, are refused and nothing else",
    (_, file) => {
      expect(tensorsOf(parse(file, file.byteLength))).toBeInstanceOf(Array);
      for (let byteLength = 0; byteLength < file.byteLength; byteLength += 1) {
        const cut = file.slice(0, byteLength);
        const error = errorOf(() => parse(cut, byteLength));
        if (!(error instanceof VramError)) throw new Error(`cut at ${byteLength}: ${String(error)}`);
        expect(error.code).toBe("MODEL_MALFORMED");
        expect((errorOf(() => grow(parse, cut, 0)) as VramError).message).toBe(error.message);
      }
    },
  );

  it.each(files.map((file) => [file.byteLength, file] as const))(
    "[VR-IN-02] of %d bytes, of which a prefix is at hand, are asked for more or known already",
    (_, file) => {
      const whole = JSON.stringify(parse(file, file.byteLength));
      for (let byteLength = 0; byteLength < file.byteLength; byteLength += 1) {
        // As text: thousands of deep comparisons would be most of this test's time.
        if (JSON.stringify(grow(parse, file, byteLength).parsed) !== whole) throw new Error(`from ${byteLength} on`);
      }
    },
  );
});
