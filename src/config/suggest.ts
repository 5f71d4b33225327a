/** What was probably meant by a name that does not exist: for keys of configuration and variables of the environment. */

/** Longer names are not compared: the work is the product of both lengths, and no name we know has 64 letters. */
const LENGTH_MAX = 64;

/** How many letters have to be inserted, left out, changed or swapped with their neighbour to make `b` of `a`. */
function distance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row += 1) {
    const next = [row];
    for (let column = 1; column <= b.length; column += 1) {
      const isSame = a[row - 1] === b[column - 1];
      const isSwapped = row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1];
      const costs = [
        (last[column] ?? 0) + 1,
        (next[column - 1] ?? 0) + 1,
        (last[column - 1] ?? 0) + (isSame ? 0 : 1),
        ...(isSwapped ? [(before[column - 2] ?? 0) + 1] : []),
      ];
      next.push(Math.min(...costs));
    }
    before = last;
    last = next;
  }
  return last[b.length] ?? 0;
}

/** Letters and digits only: `lease_max_ms`, `lease-max-ms` and `lease.maxMs` are the same to who types them. */
const bare = (name: string): string => name.toLowerCase().replaceAll(/[^a-z0-9]/g, "");

/**
 * The candidate that is nearest to `name`: at most two letters away and at most a third of its length, or the last part
 * of a dotted candidate.
 */
export function suggest(name: string, candidates: readonly string[]): string | undefined {
  if (name.length > LENGTH_MAX) return undefined;
  const wanted = bare(name);
  const near = candidates
    .map((candidate) => ({ candidate, away: distance(wanted, bare(candidate)) }))
    .filter(({ away }) => away <= Math.min(2, Math.floor(wanted.length / 3)))
    .toSorted((a, b) => a.away - b.away);
  const tails = candidates.filter((candidate) => bare(candidate.split(".").at(-1) ?? "") === wanted);
  return near[0]?.candidate ?? (tails.length === 1 ? tails[0] : undefined);
}
