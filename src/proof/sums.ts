/**
 * `SHA256SUMS` of a proof bundle, in the form of `sha256sum` (GNU coreutils manual, "sha2 utilities"): 64 hex digits, two
 * spaces, a path relative to the bundle. One form, sorted by path, and paths that need no escaping, so that
 * `sha256sum --check` reads it and nothing in it can lead out of the folder.
 */
const LINE = /^([0-9a-f]{64}) {2}([A-Za-z0-9_-][A-Za-z0-9._-]*(?:\/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)$/;

/** SHA-256 in hex of each file, by its path in the bundle. */
export type Sums = ReadonlyMap<string, string>;

const byPath = ([a]: readonly [string, string], [b]: readonly [string, string]): number => (a < b ? -1 : 1);

/** The text of the file. */
export function formatSums(sums: Sums): string {
  return [...sums]
    .sort(byPath)
    .map(([path, hex]) => `${hex}  ${path}\n`)
    .join("");
}

/** Reads the text; undefined unless it is exactly what `formatSums` would have written. */
export function parseSums(text: string): Sums | undefined {
  const sums = new Map<string, string>();
  for (const line of text.split("\n").slice(0, -1)) {
    const [, hex, path] = LINE.exec(line) ?? [];
    if (hex === undefined || path === undefined || sums.has(path)) return undefined;
    sums.set(path, hex);
  }
  return sums.size > 0 && formatSums(sums) === text ? sums : undefined;
}

/** Whether a file of this name can be listed. */
export const isListable = (path: string): boolean => LINE.test(`${"0".repeat(64)}  ${path}`);
