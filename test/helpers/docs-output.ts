/** What a page shows of an output against what was printed: `…` stands for anything, and what differs each time is masked. */

/** What is another in each run, and what it becomes. */
const MASKS: readonly (readonly [RegExp, string])[] = [
  [/\b\d{4}-\d\d-\d\dT[\d:.]+Z/g, "TIME"],
  [/\b(EMU|GPU)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, "$1-UUID"],
  [/\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/g, "UUID"],
  [/\b(shard|op|lease|export|statement)-[a-z2-7]{26}\b/g, "$1-ID"],
  [/\bpid \d+/g, "pid N"],
  [/\b[0-9.]+ (?:ms|s|min)\b/g, "DURATION"],
  [/\b[0-9.]+ GB\/s/g, "RATE"],
  // Keys, logs and instances are made anew. 12 digits are the beginning of a digest, which is always the same.
  [/\b(?:[0-9a-f]{8,11}|[0-9a-f]{13,})\b/g, "HEX"],
  [/\s+/g, " "],
];

const mask = (line: string): string => MASKS.reduce((text, [from, to]) => text.replaceAll(from, to), line.trimEnd());

/** A digest that the page gives in full is compared as it is: the bytes of a model are always the same. */
const DIGEST = /\b[0-9a-f]{64}\b/g;

const literally = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\/-]/g, "\\$&");

function patternOf(shown: string): RegExp {
  const parts = shown.split("…").map((part) => literally(mask(part)));
  return new RegExp(`^${parts.join(".*")}$`);
}

/** The lines of a block that were not printed, in this order. Lines may have been left out; none may be added. */
export function missingFrom(shown: string, printed: string): string[] {
  const lines = printed.split("\n").map(mask);
  const missing: string[] = [];
  let from = 0;
  for (const line of shown.split("\n")) {
    if (line.trim() === "" || line.trim() === "…") continue;
    const pattern = patternOf(line);
    const at = lines.findIndex((one, index) => index >= from && pattern.test(one));
    if (at === -1) missing.push(line);
    else from = at + 1;
  }
  for (const hex of shown.match(DIGEST) ?? []) if (!printed.includes(hex)) missing.push(hex);
  return missing;
}

/** A document with what differs each time masked. */
export const masked = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value), (_, one: unknown) => (typeof one === "string" ? mask(one) : one));
