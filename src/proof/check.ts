/**
 * Checks a proof bundle: is every file what it was when the bundle was signed, is none missing and none added, does the
 * signature hold, and is the signed result what the lists of tests and scenarios say? It shows that a bundle is whole and
 * whose key signed it. It cannot show that the tests were run: that is the signer's word, and running them again is how
 * to find out.
 */
import type { KeyObject } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { checkEnvelope } from "../attest/envelope.ts";
import { keyIdOf, parsePublicKey } from "../attest/keys.ts";
import { toHex } from "../bytes.ts";
import { VramError } from "../errors.ts";
import { sha256 } from "../hash/descriptor.ts";
import { LIMITS } from "../limits.ts";
import { hashFile, type Listing, listFolder, readInside } from "./folder.ts";
import { type Lists, readLists } from "./lists.ts";
import { outcomeOf } from "./results.ts";
import { parseSums, type Sums } from "./sums.ts";
import {
  decodeTestResult,
  openSigned,
  PUBLIC_KEY_FILE,
  STATEMENT_FILE,
  SUMS_FILE,
  type TestResult,
  verdictOf,
} from "./test-result.ts";

/** One thing that is wrong with a bundle. `path` is the file it is about. */
export interface BundleFault {
  readonly kind: "changed" | "missing" | "added" | "sums" | "statement" | "signature" | "result";
  readonly path: string;
  readonly words: string;
}

/** What was read from a bundle that is whole. */
export interface BundleContent {
  readonly files: number;
  /** SHA-256 of the key's SPKI in DER, hex. */
  readonly keyId: string;
  /** Whether the key came from the caller; a key that lies in the bundle says nothing about who signed. */
  readonly keyGiven: boolean;
  readonly result: TestResult["predicate"]["result"];
  /** What was asked for, if it was not the whole suite. */
  readonly partial: string | undefined;
  /** 40 hex digits, or undefined if the bundle names no commit. */
  readonly commit: string | undefined;
  readonly counts: { readonly passed: number; readonly failed: number; readonly skipped: number };
  readonly requirements: Lists["requirements"];
  /** Tests of `test/device` and scenarios that passed on a real GPU. */
  readonly onHardware: number;
}

export type CheckedBundle =
  | ({ readonly ok: true } & BundleContent)
  | { readonly ok: false; readonly faults: readonly BundleFault[] };

/** A file that was too large or could not be read is not the one that was signed, or nobody can tell. */
function readFailure(error: unknown): string {
  if (error instanceof VramError) return `not known (${error.message})`;
  throw error;
}

const fault = (kind: BundleFault["kind"], path: string, words: string): BundleFault => ({ kind, path, words });

/** Faults of the files against the list: each is read and hashed. */
async function compareFiles(
  folder: string,
  sums: Sums,
  { files, others, empty }: Listing,
  signal: AbortSignal | undefined,
): Promise<BundleFault[]> {
  const faults = others.map((path) => fault("added", path, "it is neither a file nor a folder"));
  const present = new Set(files);
  for (const path of files) {
    if (path === SUMS_FILE || path === STATEMENT_FILE || sums.has(path)) continue;
    faults.push(fault("added", path, `${SUMS_FILE} does not list it`));
  }
  for (const path of empty) faults.push(fault("added", path, "an empty folder"));
  for (const [path, expected] of sums) {
    if (signal?.aborted === true) throw new VramError("ABORTED", "the check was interrupted");
    if (!present.has(path)) {
      faults.push(fault("missing", path, `${SUMS_FILE} lists it`));
      continue;
    }
    const found = await hashFile(folder, path).catch(readFailure);
    if (found !== expected) faults.push(fault("changed", path, `its SHA-256 is ${found}, and was ${expected}`));
  }
  return faults;
}

/** The key to check with: the one that was given, or the one in the bundle. */
async function keyFor(folder: string, given: string | undefined): Promise<KeyObject | BundleFault> {
  if (given !== undefined) return parsePublicKey(given);
  try {
    return parsePublicKey((await readInside(folder, PUBLIC_KEY_FILE, LIMITS.proofFileBytes)).toString("utf8"));
  } catch {
    return fault("signature", PUBLIC_KEY_FILE, "there is no P-256 public key in it, and none was given");
  }
}

type Signed = { readonly statement: TestResult; readonly key: KeyObject };

async function readSigned(folder: string, given: string | undefined): Promise<Signed | BundleFault> {
  const key = await keyFor(folder, given);
  if ("kind" in key) return key;
  const opened = openSigned(await readInside(folder, STATEMENT_FILE, LIMITS.statementBytes));
  if (opened === undefined) {
    return fault("statement", STATEMENT_FILE, "it is not one DSSE envelope with one signature, as it is written");
  }
  if (!checkEnvelope(opened, key) || opened.keyId !== keyIdOf(key)) {
    return fault("signature", STATEMENT_FILE, `key ${keyIdOf(key)} has not signed it`);
  }
  const statement = decodeTestResult(opened.payload);
  return statement === undefined
    ? fault("statement", STATEMENT_FILE, "what was signed is not a test result of a proof bundle")
    : { statement, key };
}

/** Computes the result once more, from the lists. */
function compareResult({ statement, key }: Signed, { tests, features, requirements }: Lists) {
  const outcome = outcomeOf(tests, features);
  const { configuration: _, ...said } = statement.predicate;
  if (!isDeepStrictEqual(said, verdictOf(outcome))) {
    return fault("result", STATEMENT_FILE, `it says ${said.result}, and that is not what the lists of tests say`);
  }
  const hardware = tests.gpus.length > 0 ? tests.files.filter(({ tier }) => tier === "device") : [];
  const device = hardware.flatMap(({ tests: all }) => all);
  const onGpu = features.filter(({ backend }) => backend === "cuda").flatMap((list) => list.features);
  const passed = [...device, ...onGpu.flatMap(({ scenarios }) => scenarios)].filter((one) => one.status === "passed");
  return {
    keyId: keyIdOf(key),
    result: said.result,
    partial: tests.partial,
    commit: statement.subject[1]?.digest.gitCommit,
    counts: { passed: outcome.passed, failed: outcome.failed.length, skipped: outcome.skipped.length },
    requirements,
    onHardware: passed.length,
  };
}

/**
 * Checks a bundle. What is wrong with it is in what comes back; throws `SOURCE_NOT_FOUND` and its like if the folder or
 * its `SHA256SUMS` cannot be read, `INVALID_ARGUMENT` for a key that is none, `SOURCE_TOO_LARGE` beyond the limits.
 * `publicKey` is SPKI in PEM; without it the key in the bundle is taken.
 */
export async function checkBundle(
  folder: string,
  { publicKey, signal }: { readonly publicKey?: string; readonly signal?: AbortSignal } = {},
): Promise<CheckedBundle> {
  const listing = await listFolder(folder);
  for (const path of [SUMS_FILE, STATEMENT_FILE]) {
    if (listing.files.includes(path)) continue;
    if (listing.others.includes(path)) return { ok: false, faults: [fault("added", path, "it is no regular file")] };
    throw new VramError("SOURCE_NOT_FOUND", `${folder}: there is no ${path} in it`, {
      fix: "name the folder of one run, as `npm run proof` wrote it",
    });
  }
  const listed = await readInside(folder, SUMS_FILE, LIMITS.proofFileBytes);
  const sums = parseSums(listed.toString("utf8"));
  if (sums === undefined) {
    return { ok: false, faults: [fault("sums", SUMS_FILE, "it is not a list as it is written with a bundle")] };
  }
  const faults = await compareFiles(folder, sums, listing, signal);
  const signed = await readSigned(folder, publicKey);
  if ("kind" in signed) return { ok: false, faults: [...faults, signed] };
  if (signed.statement.subject[0].digest.sha256 !== toHex(sha256(listed))) {
    faults.push(fault("changed", SUMS_FILE, "its SHA-256 is not the one that was signed"));
  }
  if (faults.length > 0) return { ok: false, faults };
  const lists = await readLists(folder, sums);
  if (typeof lists === "string") {
    return { ok: false, faults: [fault("result", lists, "it cannot be read, or is not what the other lists say")] };
  }
  const checked = compareResult(signed, lists);
  if ("kind" in checked) return { ok: false, faults: [checked] };
  return { ok: true, files: sums.size, keyGiven: publicKey !== undefined, ...checked };
}
