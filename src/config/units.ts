/**
 * Sizes and durations in configuration: numbers (bytes, milliseconds), or a number and its unit in words people read
 * without counting zeros. Both ways are exact; what is no whole number of bytes or milliseconds is refused, not rounded.
 */

const BYTES = {
  B: 1n,
  kB: 1000n,
  KiB: 1024n,
  MB: 1000n ** 2n,
  MiB: 1024n ** 2n,
  GB: 1000n ** 3n,
  GiB: 1024n ** 3n,
  TB: 1000n ** 4n,
  TiB: 1024n ** 4n,
} as const;

const MILLISECONDS = {
  ms: 1n,
  s: 1000n,
  min: 60_000n,
  h: 3_600_000n,
  d: 86_400_000n,
} as const;

type Units = Readonly<Record<string, bigint>>;

/** The units that may stand behind a size, and behind a duration. */
export const BYTE_UNITS = Object.keys(BYTES);
export const DURATION_UNITS = Object.keys(MILLISECONDS);

/** `64 GiB`, `1.5 h`, `250 ms`: at most 16 digits before the point and 6 behind it, an optional space, a unit. */
const QUANTITY = /^(0|[1-9][0-9]{0,15})(?:\.([0-9]{1,6}))? ?([A-Za-z]{1,3})$/;

/** What a number and a unit amount to, or undefined if that is no safe whole number of the smallest unit. */
function parseQuantity(text: string, units: Units): number | undefined {
  const [, whole = "", fraction = "", name = ""] = QUANTITY.exec(text) ?? [];
  const unit = new Map(Object.entries(units)).get(name);
  if (unit === undefined) return undefined;
  const scale = 10n ** BigInt(fraction.length);
  const scaled = BigInt(whole + fraction) * unit;
  const value = Number(scaled / scale);
  return scaled % scale === 0n && Number.isSafeInteger(value) ? value : undefined;
}

/** A value in the largest unit that it is a whole number of. */
function showQuantity(value: number, units: Units): string {
  const exact = Object.entries(units).filter(([, unit]) => value !== 0 && BigInt(value) % unit === 0n);
  const [name, unit] = exact.toSorted(([, a], [, b]) => (a < b ? 1 : -1))[0] ?? [Object.keys(units)[0] ?? "", 1n];
  return `${BigInt(value) / unit} ${name}`;
}

/** Bytes of a text like `64 GiB` or `100 GB`. */
export const parseBytes = (text: string): number | undefined => parseQuantity(text, BYTES);
/** Milliseconds of a text like `15 min`. */
export const parseDuration = (text: string): number | undefined => parseQuantity(text, MILLISECONDS);
/** Bytes as `parseBytes` reads them. */
export const showBytes = (byteLength: number): string => showQuantity(byteLength, BYTES);
/** Milliseconds as `parseDuration` reads them. */
export const showDuration = (ms: number): string => showQuantity(ms, MILLISECONDS);
