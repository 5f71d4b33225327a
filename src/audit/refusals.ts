/**
 * Refused requests must not fill the log (VR-AUD-03): whoever may ask can be refused as often as he likes, and whoever
 * only reaches the service need not even be let in. Of each kind some are written in a minute; the others are counted,
 * and one entry tells how many there were: the last one of them, with `repeated` and `sinceMs`. In the minute behind one
 * with a count everything is counted: what never stops takes one line a minute. After a crash the count of that minute
 * is lost.
 */
import { LIMITS } from "../limits.ts";
import type { Draft } from "./log-writer.ts";

/** Entry types that a caller causes by asking for what is refused, and what tells their kinds apart. */
const REFUSALS: ReadonlyMap<string, readonly string[]> = new Map([
  ["seal_refused", ["device"]],
  ["vram_allocation_failed", ["device"]],
  // Not by caller: whoever is not let in may call himself anything.
  ["auth_failed", ["failure", "transport"]],
  ["request_refused", ["code", "transport"]],
]);

interface Kind {
  beganMs: number;
  written: number;
  repeated: number;
  last: Draft;
}

export interface Refusals {
  /** Whether this draft is to be written; if not, it was counted. */
  take(draft: Draft): boolean;
  /** What was counted in minutes that are over; or, with `all`, until now. */
  settle(all: boolean): Draft[];
}

/** A device is told by its UUID. */
function wordOf(value: unknown): string {
  if (typeof value === "string") return value;
  return typeof value === "object" && value !== null && "uuid" in value ? String(value.uuid) : "";
}

/**
 * Refusals of one type and device, failure or code, and way in are of one kind; beyond so many kinds, those of one type
 * are.
 */
function kindOf({ type, data }: Draft, kinds: ReadonlyMap<string, Kind>): string {
  const kind = [type, ...(REFUSALS.get(type) ?? []).map((field) => wordOf(data[field]))].join(" ");
  return kinds.has(kind) || kinds.size < LIMITS.auditRefusalKinds ? kind : type;
}

/** Counts refusals. `now` is monotonic, in milliseconds. */
export function createRefusals(now: () => number): Refusals {
  const kinds = new Map<string, Kind>();

  const settleOne = (name: string, kind: Kind): Draft[] => {
    if (kind.repeated === 0) {
      kinds.delete(name);
      return [];
    }
    const { repeated, beganMs } = kind;
    const { type, timeMs, data } = kind.last;
    kind.beganMs = now();
    kind.repeated = 0;
    return [{ type, timeMs, data: { ...data, repeated, sinceMs: Math.round(kind.beganMs - beganMs) } }];
  };

  return {
    take: (draft) => {
      if (!REFUSALS.has(draft.type)) return true;
      const name = kindOf(draft, kinds);
      const kind = kinds.get(name) ?? { beganMs: now(), written: 0, repeated: 0, last: draft };
      kinds.set(name, kind);
      if (kind.written < LIMITS.auditRefusals) {
        kind.written += 1;
        return true;
      }
      kind.repeated += 1;
      kind.last = draft;
      return false;
    },
    settle: (all) =>
      [...kinds].flatMap(([name, kind]) =>
        all || now() - kind.beganMs >= LIMITS.auditRefusalsMs ? settleOne(name, kind) : [],
      ),
  };
}

/** Entries that had to proceed and could not be written down: `audit_gap` tells how many, and of which types. */
export interface Missed {
  add(type: string): void;
  /** What came together since the last time; undefined if there was none. */
  take(): { readonly entries: number; readonly types: readonly string[] } | undefined;
}

export function createMissed(): Missed {
  const types = new Set<string>();
  let entries = 0;
  return {
    add: (type) => {
      entries += 1;
      if (types.size < LIMITS.entryRanges) types.add(type);
    },
    take: () => {
      if (entries === 0) return undefined;
      const missed = { entries, types: [...types] };
      entries = 0;
      types.clear();
      return missed;
    },
  };
}
