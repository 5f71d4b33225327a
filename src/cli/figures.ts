/** Figures of commands: in words for people, and the words that people give for figures. */
import { DURATION_UNITS, parseDuration } from "../config/units.ts";
import { VramError } from "../errors.ts";

const AGES: readonly (readonly [unit: string, ms: number])[] = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["min", 60_000],
  ["s", 1000],
];

/** `12 s`, `3 min`, `5 h`, `2 d`: how long, rounded down; `0 s` also for a clock that went back. */
export function formatAge(ms: number): string {
  const [unit, length] = AGES.find(([, one]) => ms >= one) ?? ["s", 1000];
  return `${Math.max(0, Math.floor(ms / length))} ${unit}`;
}

/** How long ago a time of the service was, by this machine's clock. */
export const ageOf = (rfc3339: string): string => formatAge(Date.now() - Date.parse(rfc3339));

/** The first 12 digits: enough to tell shards apart, and too few to compare with. */
export const shortDigest = (hex: string): string => hex.slice(0, 12);

/** How far something is, in whole percent; 100 only when it is done. */
export const percent = (done: number, total: number): string =>
  `${total === 0 ? 100 : Math.min(100, Math.floor((done / total) * 100))} %`;

/** `GPU-1a2b3c4d…`: enough of a UUID to know a device by. */
export const shortUuid = (uuid: string): string => (uuid.length > 12 ? `${uuid.slice(0, 12)}…` : uuid);

const DURATION_MAX_MS = 366 * 24 * 3600 * 1000;

/** Milliseconds of `60000` or `15 min`; `INVALID_ARGUMENT` with `name` for anything else. */
export function parseMs(text: string, name: string): number {
  const ms = /^(?:0|[1-9][0-9]{0,15})$/.test(text) ? Number(text) : parseDuration(text);
  if (ms !== undefined && ms <= DURATION_MAX_MS) return ms;
  throw new VramError(
    "INVALID_ARGUMENT",
    `${name} must be whole milliseconds, or a number and a unit (${DURATION_UNITS.join(", ")}), at most 366 d`,
    { details: { argument: name } },
  );
}

/** A device by its ordinal or its UUID. */
export const parseDevice = (text: string): number | string =>
  /^(?:0|[1-9][0-9]{0,3})$/.test(text) ? Number(text) : text;
