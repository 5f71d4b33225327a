/** `vram digest`: what `fsverity digest` says of a file, without a device; and the checking of such lists. */
import { toHex } from "../../bytes.ts";
import { optionsFromEnvironment } from "../../environment.ts";
import { toVramError, VramError } from "../../errors.ts";
import { formatDigest, parseDigest, parseSalt } from "../../hash/descriptor.ts";
import { type HashPool, openHashPool } from "../../hash/pool.ts";
import { nodeFileSystem } from "../../source/file.ts";
import { expandSource } from "../../source/sets.ts";
import { openSource } from "../../source/source.ts";
import { digestOpened } from "../../staging/digest.ts";
import { EXIT, exitCodeFor } from "../exit.ts";
import { type Host, printError } from "../host.ts";
import { printJson } from "../json.ts";
import { createProgress, type Progress } from "../progress.ts";
import { readSmallFile } from "../read-file.ts";
import { escapeName, parseSums, type SumsLine } from "./sums.ts";

export interface DigestOptions {
  readonly json?: true;
  readonly alsoSha256?: true;
  readonly salt?: string;
  readonly check?: string;
}

interface Wanted {
  readonly tree: boolean;
  readonly sha256: boolean;
  readonly salt: Uint8Array | undefined;
}

interface Digested {
  readonly path: string;
  readonly byteLength: number;
  readonly digest?: string;
  readonly sha256?: string;
  readonly salt?: string;
}

interface Tools {
  readonly host: Host;
  readonly pool: HashPool;
  readonly progress: Progress;
}

async function digestFile(tools: Tools, path: string, wanted: Wanted): Promise<Digested> {
  const source = await openSource({ kind: "path", path }, { format: "raw" }, nodeFileSystem);
  try {
    const { byteLength } = source.info;
    const { tree, sha256, salt } = wanted;
    const result = await digestOpened(
      source,
      tools.pool,
      { tree, sha256, ...(salt === undefined ? {} : { salt }) },
      { signal: tools.host.signal, onProgress: (done) => tools.progress.update(path, done, byteLength) },
    );
    return {
      path,
      byteLength,
      ...(result.tree === undefined ? {} : { digest: formatDigest("fsverity", result.tree.digest) }),
      ...(result.sha256 === undefined ? {} : { sha256: formatDigest("sha256", result.sha256) }),
      ...(salt === undefined ? {} : { salt: toHex(salt) }),
    };
  } finally {
    await source.close();
    tools.progress.clear();
  }
}

/** One outcome a file: what was computed, or the error. Only an abort ends the whole. */
async function eachFile<T>(
  tools: Tools,
  items: readonly T[],
  pathOf: (item: T) => string,
  task: (item: T) => Promise<void>,
): Promise<{ path: string; error: VramError }[]> {
  const failures: { path: string; error: VramError }[] = [];
  for (const item of items) {
    try {
      await task(item);
    } catch (thrown) {
      const error = toVramError(thrown);
      if (error.code === "ABORTED") throw error;
      failures.push({ path: pathOf(item), error });
      printError(tools.host, error);
    }
  }
  return failures;
}

async function digestAll(tools: Tools, files: readonly string[], options: DigestOptions): Promise<number> {
  const wanted: Wanted = {
    tree: true,
    sha256: options.alsoSha256 === true,
    salt: options.salt === undefined ? undefined : parseSalt(options.salt),
  };
  const results: Digested[] = [];
  const failures = await eachFile(
    tools,
    files,
    (path) => path,
    async (path) => {
      for (const member of await expandSource(path, ["/"], nodeFileSystem)) {
        const digested = await digestFile(tools, member, wanted);
        results.push(digested);
        if (options.json === true) continue;
        const { mark, name } = escapeName(member);
        tools.host.out(`${mark}${(digested.digest ?? "").replace("fsverity:", "")}  ${name}\n`);
        if (digested.sha256 !== undefined) tools.host.out(`${mark}${digested.sha256}  ${name}\n`);
      }
    },
  );
  if (options.json === true) {
    printJson(tools.host, "digest", { ok: failures.length === 0, files: results, errors: failures });
  }
  const [first] = failures;
  return first === undefined ? EXIT.ok : exitCodeFor(first.error);
}

/** About 400,000 lines. */
const SUMS_BYTES_MAX = 64 * 1024 * 1024;

interface Checked {
  readonly path: string;
  readonly expected: string;
  readonly actual: string;
  readonly matches: boolean;
}

/** Lines grouped by file, so that each file is read once. */
function byFile(lines: readonly SumsLine[]): { path: string; lines: SumsLine[] }[] {
  const groups = new Map<string, SumsLine[]>();
  for (const line of lines) groups.set(line.path, [...(groups.get(line.path) ?? []), line]);
  return [...groups].map(([path, group]) => ({ path, lines: group }));
}

async function checkAll(tools: Tools, sums: string, options: DigestOptions): Promise<number> {
  const text = Buffer.from(await readSmallFile(sums, SUMS_BYTES_MAX)).toString("utf8");
  const salt = options.salt === undefined ? undefined : parseSalt(options.salt);
  const checked: Checked[] = [];
  const failures = await eachFile(
    tools,
    byFile(parseSums(text, sums)),
    ({ path }) => path,
    async ({ path, lines }) => {
      const kinds = lines.map((line) => parseDigest(line.digest).kind);
      const found = await digestFile(tools, path, {
        tree: kinds.includes("fsverity"),
        sha256: kinds.includes("sha256"),
        salt,
      });
      for (const line of lines) {
        const { kind, bytes } = parseDigest(line.digest);
        const expected = formatDigest(kind, bytes);
        const actual = (kind === "sha256" ? found.sha256 : found.digest) ?? "";
        checked.push({ path, expected, actual, matches: expected === actual });
        if (options.json !== true)
          tools.host.out(`${escapeName(path).name}: ${expected === actual ? "OK" : "FAILED"}\n`);
      }
    },
  );
  const mismatches = checked.filter((one) => !one.matches).length;
  if (options.json === true) {
    printJson(tools.host, "digest-check", { ok: mismatches + failures.length === 0, checked, errors: failures });
  } else if (mismatches > 0) {
    tools.host.err(`${mismatches} of ${checked.length} digests do not match\n`);
  }
  if (mismatches > 0) return EXIT.mismatch;
  const [first] = failures;
  return first === undefined ? EXIT.ok : exitCodeFor(first.error);
}

/** Runs the command. */
export async function runDigest(host: Host, files: readonly string[], options: DigestOptions): Promise<number> {
  if (options.check === undefined ? files.length === 0 : files.length > 0) {
    throw new VramError("INVALID_ARGUMENT", "give files to digest, or --check SUMS and no files", {
      fix: "vram digest FILE…, or vram digest --check SUMS",
    });
  }
  if (options.check !== undefined && options.alsoSha256 === true) {
    throw new VramError("INVALID_ARGUMENT", "--also-sha256 does not go with --check: each line says what it is");
  }
  const pool = openHashPool(optionsFromEnvironment(host.env).hashThreads);
  const tools = { host, pool, progress: createProgress(host) };
  try {
    return options.check === undefined
      ? await digestAll(tools, files, options)
      : await checkAll(tools, options.check, options);
  } finally {
    await pool.close();
  }
}
