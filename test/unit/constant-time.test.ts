import { readdirSync, readFileSync } from "node:fs";
import ts from "typescript";
import { describe, expect, it } from "vitest";
import { constantTimeEqual } from "../../src/bytes.ts";
import { nodesOf, type TreeFile } from "../helpers/house-rules.ts";

const FOLDERS = ["seal", "verify", "residency", "device", "hash", "audit"];
const SECRETIVE = /(?:^|\.)(?:mac|macs|digest|sha256|root|kept|keyId)$/i;
const EQUALITY = new Set([
  ts.SyntaxKind.EqualsEqualsEqualsToken,
  ts.SyntaxKind.ExclamationEqualsEqualsToken,
  ts.SyntaxKind.EqualsEqualsToken,
  ts.SyntaxKind.ExclamationEqualsToken,
]);

/** Comparisons of a mac or digest by an operator, which stops at the first difference. Absence may be asked that way. */
function operatorComparisons(file: TreeFile): string[] {
  return nodesOf(file).flatMap((node) => {
    if (!ts.isBinaryExpression(node) || !EQUALITY.has(node.operatorToken.kind)) return [];
    const sides = [node.left, node.right];
    const harmless = sides.some((side) => ts.isStringLiteralLike(side) || side.getText() === "undefined");
    const found = sides.some((side) => SECRETIVE.test(side.getText()));
    return found && !harmless ? [`${file.path}: ${node.getText()}`] : [];
  });
}

describe("comparing macs and digests", () => {
  it("[VR-VER-02] is done in constant time wherever they are judged", () => {
    const files = FOLDERS.flatMap((folder) =>
      readdirSync(new URL(`../../src/${folder}/`, import.meta.url)).map((name) => {
        const path = `src/${folder}/${name}`;
        return { path, text: readFileSync(new URL(`../../${path}`, import.meta.url), "utf8") };
      }),
    );
    expect(files.length).toBeGreaterThan(20);
    expect(files.flatMap(operatorComparisons)).toEqual([]);
    const bad = { path: "bad.ts", text: "if (seal.mac !== presented.mac || a.digest == b) throw 1;" };
    expect(operatorComparisons(bad)).toHaveLength(2);
  });

  it("[VR-VER-02] says equal for equal bytes only, of any lengths", () => {
    const bytes = Uint8Array.from({ length: 32 }, (_, index) => index);
    expect(constantTimeEqual(bytes, Uint8Array.from(bytes))).toBe(true);
    for (let index = 0; index < 32; index += 1) {
      const other = Uint8Array.from(bytes);
      other[index] = (other[index] ?? 0) ^ 0x80;
      expect(constantTimeEqual(bytes, other)).toBe(false);
    }
    expect(constantTimeEqual(bytes, bytes.subarray(1))).toBe(false);
    expect(constantTimeEqual(new Uint8Array(0), new Uint8Array(0))).toBe(true);
  });
});
