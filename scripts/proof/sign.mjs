/**
 * The end of a bundle: every file is hashed into `SHA256SUMS`, and a test result that names its hash is signed with a key
 * for proof bundles and nothing else. The key lies beside the runs, readable by its owner alone, and never in a bundle.
 */
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  fchmodSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { createStatementSigner, encodeStatementKey, readStatementKey } from "../../dist/attest/keys.js";
import { formatSums } from "../../dist/proof/sums.js";
import {
  encodeTestResult,
  formatSigned,
  PUBLIC_KEY_FILE,
  STATEMENT_FILE,
  SUMS_FILE,
} from "../../dist/proof/test-result.js";
import { ROOT } from "../quickstart.mjs";

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

/** The key in a file; a fresh one is written there if there is no such file. */
export function openSigner(path) {
  if (existsSync(path)) {
    // As for every key of ours: what others may read, others may sign with.
    if ((statSync(path).mode & 0o077) !== 0) throw new Error(`${path}: others may read it; chmod 600 ${path}`);
    return readStatementKey(readFileSync(path), path);
  }
  const signer = createStatementSigner();
  mkdirSync(dirname(path), { recursive: true });
  const file = openSync(path, "wx", 0o600);
  try {
    fchmodSync(file, 0o600);
    writeFileSync(file, encodeStatementKey(signer));
  } finally {
    closeSync(file);
  }
  return signer;
}

const filesBelow = (folder) =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1));

/** Files that say how the suite is run. */
const CONFIGURATION = ["package.json", "package-lock.json", "vitest.config.ts", "docs/requirements.json"];

/** Writes the public key, the list and the signed result into a bundle. */
export function signBundle(folder, signer, { commit, outcome }) {
  writeFileSync(join(folder, PUBLIC_KEY_FILE), signer.publicPem);
  const sums = new Map(filesBelow(folder).map((path) => [path, sha256(readFileSync(join(folder, path)))]));
  const text = formatSums(sums);
  writeFileSync(join(folder, SUMS_FILE), text);
  const configuration = CONFIGURATION.map((name) => ({ name, sha256: sha256(readFileSync(join(ROOT, name))) }));
  const payload = encodeTestResult({ sumsSha256: sha256(text), commit, configuration, outcome });
  writeFileSync(join(folder, STATEMENT_FILE), formatSigned(payload, signer));
}
