/**
 * What is resident, by id and by name. Registering is synchronous and cannot fail: everything that could is claimed
 * beforehand. A name has one digest; two devices may hold it.
 */
import { present } from "../assert.ts";
import { VramError } from "../errors.ts";
import type { Shard } from "./shard.ts";

export interface Registry {
  /** Reserves a name for a seal in flight; the function returned gives it up. `SEAL_IN_PROGRESS` if it is taken. */
  claim(name: string): () => void;
  /** Reserves the id of a shard of this name and device; the function gives it up. `NAME_CONFLICT` if another has it. */
  claimId(shardId: string, name: string, deviceUuid: string): () => void;
  /** Shards of this name, at most one per device. */
  named(name: string): readonly Shard[];
  add(shard: Shard): void;
  remove(shard: Shard): void;
  /** The shard with this id or, failing that, this name. `SHARD_NOT_FOUND`, or `INVALID_ARGUMENT` if ambiguous. */
  find(idOrName: string): Shard;
  all(): readonly Shard[];
}

/** An empty registry. */
export function createRegistry(): Registry {
  const byId = new Map<string, Shard>();
  const byName = new Map<string, Shard[]>();
  const claimed = new Set<string>();

  const conflict = (message: string): VramError => new VramError("NAME_CONFLICT", message);

  const claim = (key: string, taken: () => VramError): (() => void) => {
    if (claimed.has(key)) throw taken();
    claimed.add(key);
    return () => claimed.delete(key);
  };

  return {
    claim: (name) => {
      if (byId.has(name) || claimed.has(`id:${name}`)) throw conflict(`the name ${name} is another shard's id`);
      return claim(
        `name:${name}`,
        () => new VramError("SEAL_IN_PROGRESS", `a shard named ${name} is being sealed`, { details: { name } }),
      );
    },
    claimId: (shardId, name, deviceUuid) => {
      const taken = (): VramError => conflict(`the id ${shardId} is taken`);
      const held = byId.get(shardId);
      const isName = byName.has(shardId) || (shardId !== name && claimed.has(`name:${shardId}`));
      const isOthers = held !== undefined && (held.seal.name !== name || held.device.uuid !== deviceUuid);
      if (isOthers || isName) throw taken();
      return claim(`id:${shardId}`, taken);
    },
    named: (name) => byName.get(name) ?? [],
    add: (shard) => {
      const { shardId, name } = shard.seal;
      byId.set(shardId, shard);
      byName.set(name, [...(byName.get(name) ?? []), shard]);
    },
    remove: (shard) => {
      const { shardId, name } = shard.seal;
      byId.delete(shardId);
      const rest = (byName.get(name) ?? []).filter((other) => other !== shard);
      if (rest.length === 0) byName.delete(name);
      else byName.set(name, rest);
    },
    find: (idOrName) => {
      const found = byId.get(idOrName);
      if (found !== undefined) return found;
      const named = byName.get(idOrName) ?? [];
      if (named.length === 1) return present(named[0], "the only shard of a name");
      if (named.length > 1) {
        throw new VramError("INVALID_ARGUMENT", `${idOrName} is resident on several devices; give its shard id`, {
          details: { shardIds: named.map((shard) => shard.seal.shardId) },
        });
      }
      throw new VramError("SHARD_NOT_FOUND", `no shard has the id or name ${idOrName}`);
    },
    all: () => [...byId.values()],
  };
}
