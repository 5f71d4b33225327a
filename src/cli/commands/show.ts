/** `vram show`: all that may be said about a shard, or about something wanted that is not resident. */

import { formatBytes } from "../../bytes.ts";
import type { MissingShard, ShardRecordReply } from "../../client.ts";
import { EXIT } from "../exit.ts";
import { ageOf } from "../figures.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";
import { printFields } from "../records.ts";
import { type ServiceOptions, warnOfBackend, withService } from "../service-address.ts";

const bytesInFull = (byteLength: number): string => `${formatBytes(byteLength)} (${byteLength} bytes)`;
const timeAndAge = (rfc3339: string): string => `${rfc3339} (${ageOf(rfc3339)} ago)`;

function printRecord(host: Host, record: ShardRecordReply): void {
  const { shardIndex, totalShards } = record;
  printFields(host, record.name, {
    id: record.shardId,
    state: record.state,
    resident: record.sealed ? "yes" : "no",
    digest: `fsverity:${record.digest}`,
    sha256: record.sha256 === undefined ? undefined : `sha256:${record.sha256}`,
    compared: record.comparedWith === "expected" ? "with the digest that was expected" : "with what was read",
    size: bytesInFull(record.byteLength),
    member: totalShards === 1 ? undefined : `${shardIndex + 1} of ${totalShards}`,
    device: `${record.device.ordinal} (${record.device.uuid})`,
    backend: record.backend,
    sealed: timeAndAge(record.sealedAt),
    verified: timeAndAge(record.lastVerifiedAt),
    leases: String(record.leases),
    exports: `${record.exports} now, ${record.exportsTotal} since it was sealed`,
  });
}

function printMissing(host: Host, missing: MissingShard): void {
  printFields(host, missing.name, {
    id: missing.shardId,
    state: missing.state,
    resident: "no",
    reason: missing.reason,
    digest: `fsverity:${missing.digest}`,
    size: bytesInFull(missing.byteLength),
    device: missing.deviceUuid,
  });
}

/** Runs the command. */
export async function runShow(host: Host, [name = ""]: readonly string[], options: ServiceOptions): Promise<number> {
  const found = await withService(host, options, (client) => client.show(name, { signal: host.signal }));
  if (options.json === true) {
    printJson(host, "show", { ok: true, ...found });
    return EXIT.ok;
  }
  const [first] = found.shards;
  if (first !== undefined) warnOfBackend(host, first.backend);
  for (const record of found.shards) printRecord(host, record);
  for (const missing of found.missing) printMissing(host, missing);
  return EXIT.ok;
}
