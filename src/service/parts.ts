/** What the calls of a service work on, and how they find what is meant: by id, by name, or by the name of a set. */
import type { Vram } from "../api.ts";
import type { ConfigValues } from "../config/table.ts";
import { VramError } from "../errors.ts";
import type { Exports } from "../exports/exports.ts";
import type { OpenCore } from "../open.ts";
import type { Shard } from "../residency/shard.ts";
import type { Attesting } from "./attesting.ts";
import type { KeptDevices } from "./devices.ts";
import type { Keeper } from "./keeper.ts";
import type { Operations } from "./operations.ts";
import type { Listing } from "./replies.ts";
import type { WantedSet } from "./wanted.ts";
import { nameOf, sealsOf, type WantedRow } from "./wanted-rows.ts";

/** What the calls work on. */
export interface Parts {
  readonly vram: Vram;
  readonly open: OpenCore;
  readonly exports: Exports;
  /** Absent without an audit log. */
  readonly attesting: Attesting | undefined;
  readonly devices: KeptDevices;
  readonly keeper: Keeper;
  readonly wanted: WantedSet;
  readonly operations: Operations;
  readonly values: ConfigValues;
  /** Throws `SERVICE_STOPPING` when nothing new may begin. */
  readonly requireAccepting: () => void;
}

export const isOfRow = (row: WantedRow, shard: Shard): boolean =>
  sealsOf(row).some(({ shardId }) => shardId === shard.seal.shardId);

/** Shards of a row, or the one of this id or name. Says of what is wanted and not resident why it is not. */
export function shardsOf({ keeper, open }: Parts, idOrName: string): readonly Shard[] {
  const all = open.system.registry.all();
  const row = keeper.rowOf(idOrName);
  const isOf = (shard: Shard): boolean =>
    row !== undefined && nameOf(row) === idOrName
      ? sealsOf(row).some(({ shardId }) => shardId === shard.seal.shardId)
      : shard.seal.shardId === idOrName || shard.seal.name === idOrName;
  return all.filter(isOf);
}

/** The one shard that is meant. */
export function shardOf(parts: Parts, idOrName: string): Shard {
  const shards = shardsOf(parts, idOrName);
  const [only, second] = shards;
  if (second !== undefined) {
    const names = shards.map(({ seal }) => seal.name);
    throw new VramError("INVALID_ARGUMENT", `${idOrName} is a set of ${shards.length} shards; name one of them`, {
      fix: `name one of ${names.slice(0, 3).join(", ")}${names.length > 3 ? ", …" : ""}; \`vram ps\` lists them`,
      details: { argument: "shard", names },
    });
  }
  if (only !== undefined) return only;
  const [missing] = missingOf(parts, idOrName);
  if (missing === undefined) throw new VramError("SHARD_NOT_FOUND", `no shard has the id or name ${idOrName}`);
  const { name, state, reason = "" } = missing;
  const why = state === "restoring" ? "it is being sealed again" : `${state}${reason === "" ? "" : `: ${reason}`}`;
  throw new VramError("SHARD_NOT_RESIDENT", `${name} is wanted, and not resident: ${why}`, {
    fix: "`vram ps` shows when it is; `vram evict` forgets it",
    details: { shardId: missing.shardId, state },
  });
}

export function missingOf({ keeper }: Parts, idOrName: string): Listing["missing"] {
  const row = keeper.rowOf(idOrName);
  const wanted = new Set(row === undefined ? [] : sealsOf(row).map(({ shardId }) => shardId));
  const isSet = row !== undefined && nameOf(row) === idOrName;
  return keeper
    .missing()
    .filter(({ shardId, name }) => wanted.has(shardId) && (isSet || shardId === idOrName || name === idOrName));
}
