/** A small proof bundle, made as `npm run proof` makes one, with whatever a test wants to be different. */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createStatementSigner, type StatementSigner } from "../../src/attest/keys.ts";
import { matrixOf } from "../../src/proof/matrix.ts";
import { type Features, outcomeOf, type Tests } from "../../src/proof/results.ts";
import { formatSums } from "../../src/proof/sums.ts";
import {
  encodeTestResult,
  formatSigned,
  PUBLIC_KEY_FILE,
  STATEMENT_FILE,
  SUMS_FILE,
} from "../../src/proof/test-result.ts";

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";

export const TESTS: Tests = {
  schema: "vram-residency/proof-tests/v1",
  gpus: [],
  files: [
    {
      ...{ path: "test/unit/a.test.ts", tier: "unit", ms: 5 },
      tests: [{ title: "a thing holds", status: "passed", ms: 2 }],
    },
    {
      ...{ path: "test/device/b.test.ts", tier: "device", ms: 0 },
      tests: [{ title: "another (no GPU)", status: "skipped", ms: 0 }],
    },
  ],
};

export const FEATURES: Features = {
  schema: "vram-residency/proof-features/v1",
  backend: "emulated",
  features: [
    {
      ...{ path: "features/seal.feature", name: "Seal" },
      scenarios: [{ name: "a file is sealed", requirements: ["VR-SEAL-01"], status: "passed", ms: 7 }],
    },
  ],
};

const REQUIREMENTS = ["VR-SEAL-01", "VR-MEM-01"].map((id) => ({ id, title: "a title" }));

/** What is different from a whole bundle. */
export interface BundleKnobs {
  readonly tests?: Tests;
  readonly features?: Features;
  /** Files besides the two lists, by path. */
  readonly files?: Readonly<Record<string, string>>;
  readonly signer?: StatementSigner;
  /** The payload that is signed, in place of what follows from the lists. */
  readonly payload?: (whole: Uint8Array) => Uint8Array;
}

export const sha256 = (bytes: string | Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** Writes a bundle into a fresh folder, which the caller removes. */
export function makeBundle(knobs: BundleKnobs = {}) {
  const { tests = TESTS, features = FEATURES, files = {}, signer = createStatementSigner() } = knobs;
  const folder = mkdtempSync(join(tmpdir(), "vram-bundle-"));
  const all: Record<string, string> = {
    ...{ "tests.json": JSON.stringify(tests), "features.json": JSON.stringify(features) },
    "requirements.json": JSON.stringify({
      schema: "vram-residency/proof-matrix/v1",
      ...matrixOf(REQUIREMENTS, tests, [features]),
    }),
    ...{ "index.html": "<p>what was shown</p>\n", "results/bench.json": "{}\n" },
    ...{ [PUBLIC_KEY_FILE]: signer.publicPem, ...files },
  };
  for (const [path, text] of Object.entries(all)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  const sums = formatSums(new Map(Object.entries(all).map(([path, text]) => [path, sha256(text)])));
  writeFileSync(join(folder, SUMS_FILE), sums);
  const configuration = [{ name: "package.json", sha256: sha256("{}") }];
  const outcome = outcomeOf(tests, [features]);
  const whole = encodeTestResult({ sumsSha256: sha256(sums), commit: COMMIT, configuration, outcome });
  const payload = knobs.payload?.(whole) ?? whole;
  writeFileSync(join(folder, STATEMENT_FILE), formatSigned(payload, signer));
  return { folder, signer, paths: [...Object.keys(all), SUMS_FILE, STATEMENT_FILE] };
}

/** Variables of `npm run proof`, by its source. */
export const PROOF_VARIABLES = [
  ...new Set(
    readFileSync(new URL("../../scripts/proof.mjs", import.meta.url), "utf8").match(/\bVRAM_PROOF_[A-Z_]+\b/g) ?? [],
  ),
];
