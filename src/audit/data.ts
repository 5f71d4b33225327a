/**
 * From an entry of the journal to `data` of a line (design §5): at most 64 items of a list, then a total, and all of it
 * below 32 KiB, for which `limits.ts` has the arithmetic. A damaged shard of 100 GB has 200,000 ranges, and the log must
 * hold that it was damaged, not fail to. What is left out is counted: `rangesTotal`, `tensorsTotal`, `lostTotal`,
 * `orphansTotal`. A text that is too long ends in `…`: a name, a reason, what a holder calls itself.
 */
import type { Entry } from "../journal/entry.ts";
import { LIMITS } from "../limits.ts";
import type { LineData } from "./line.ts";
import type { Draft } from "./log-writer.ts";

const bytesOf = (value: unknown): number => Buffer.byteLength(JSON.stringify(value));

/** `text`, or as much of it as has at most `auditTextBytes` bytes of JSON, with `…` behind it. Well-formed either way. */
function boundedText(text: string): string {
  const whole = text.toWellFormed();
  if (bytesOf(whole) <= LIMITS.auditTextBytes) return whole;
  const room = LIMITS.auditTextBytes - bytesOf("…");
  let used = 0;
  let kept = "";
  for (const char of whole) {
    // Without the two quotation marks.
    used += bytesOf(char) - 2;
    if (used > room) break;
    kept += char;
  }
  return `${kept}…`;
}

/** The first `entryRanges` items, as far as they fit into `bytes` of JSON. */
function boundedList(items: readonly unknown[], bytes: number): readonly unknown[] {
  const kept: unknown[] = [];
  let used = 0;
  for (const item of items.slice(0, LIMITS.entryRanges)) {
    used += bytesOf(item) + 1;
    if (used > bytes) break;
    kept.push(item);
  }
  return kept;
}

function boundedValue(value: unknown): unknown {
  if (typeof value === "string") return boundedText(value);
  if (Array.isArray(value)) {
    return boundedList(
      value.map((item) => boundedValue(item)),
      LIMITS.auditListBytes,
    );
  }
  if (typeof value !== "object" || value === null) return value;
  const members = Object.entries(value).map(([key, part]) => [key, boundedValue(part)] as const);
  return Object.fromEntries(members);
}

/** Bytes that each of these lists may have, so that they have `auditListsBytes` together: only the longest ones are cut. */
function sharedBytes(lists: readonly (readonly unknown[])[]): number {
  const ascending = lists.map((list) => bytesOf(list)).toSorted((one, other) => one - other);
  let room = LIMITS.auditListsBytes;
  for (const [index, bytes] of ascending.entries()) {
    const share = Math.floor(room / (ascending.length - index));
    if (bytes > share) return share;
    room -= bytes;
  }
  return LIMITS.auditListBytes;
}

/**
 * `data` for an entry: its members without `type` and without those that are undefined. A list that was cut gets its
 * whole number under `…Total`, unless the entry brought a larger one.
 */
export function boundedData(body: Readonly<Record<string, unknown>>): LineData {
  const data = new Map<string, unknown>();
  for (const [key, value] of Object.entries(body)) {
    if (key === "type" || value === undefined) continue;
    data.set(key, boundedValue(value));
  }
  const shared = sharedBytes([...data.values()].filter((value) => Array.isArray(value)));
  for (const [key, value] of Object.entries(body)) {
    const bounded = data.get(key);
    if (!Array.isArray(value) || !Array.isArray(bounded)) continue;
    const kept = boundedList(bounded, shared);
    data.set(key, kept);
    if (kept.length === value.length) continue;
    const told = body[`${key}Total`];
    data.set(`${key}Total`, Math.max(value.length, typeof told === "number" ? told : 0));
  }
  return Object.fromEntries(data);
}

/** What the journal stamps on entries, and the line has fields of its own for. */
const STAMPED: ReadonlySet<string> = new Set(["seq", "timeMs", "durability", "gates", "workerId"]);

/** A draft of the line for an entry. The worker is named only where no device is. */
export function draftOf(entry: Entry): Draft {
  const body = Object.fromEntries(Object.entries(entry).filter(([key]) => !STAMPED.has(key)));
  const worker = "device" in entry || entry.workerId === undefined ? {} : { workerId: entry.workerId };
  const timeMs = Math.max(0, Math.floor(entry.timeMs));
  return {
    type: entry.type,
    timeMs: Number.isSafeInteger(timeMs) ? timeMs : 0,
    data: boundedData({ ...body, ...worker }),
  };
}
