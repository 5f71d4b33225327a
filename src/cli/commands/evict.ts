/** `vram evict`: frees shards and sets, zeroed, and wants them no more. Leases keep them unless they are revoked. */
import { printable } from "../../bytes.ts";
import type { Client, Eviction } from "../../client.ts";
import { EXIT } from "../exit.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";
import { forEachName, worstOf } from "../outcomes.ts";
import { type ServiceOptions, withService } from "../service-address.ts";

export interface EvictOptions extends ServiceOptions {
  readonly revoke?: true;
}

function printEviction(host: Host, { name, shards, wanted }: Eviction): void {
  for (const { record, zeroed, reason } of shards) {
    const how = zeroed ? "zeroed" : `not zeroed: ${reason ?? "unknown"}`;
    host.out(`${printable(record.name)}  evicted  ${printable(how)}\n`);
  }
  if (shards.length === 0)
    host.out(`${printable(name)}  ${wanted ? "was not resident; wanted no more" : "was not resident"}\n`);
}

/** Runs the command. */
export async function runEvict(host: Host, names: readonly string[], options: EvictOptions): Promise<number> {
  const evictions: Eviction[] = [];
  const evictOne = async (client: Client, name: string): Promise<void> => {
    const eviction = await client.evict(name, { revoke: options.revoke === true, signal: host.signal });
    evictions.push(eviction);
    if (options.json !== true) printEviction(host, eviction);
  };
  const failures = await withService(host, options, (client) =>
    forEachName(
      host,
      names,
      (name) => name,
      (name) => evictOne(client, name),
    ),
  );
  const code = worstOf(failures);
  if (options.json === true) printJson(host, "evict", { ok: code === EXIT.ok, evictions, errors: failures });
  return code;
}
