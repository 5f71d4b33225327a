/**
 * Memory that outlived an earlier process of this service: it was exported, and the process at the other end still holds
 * it. The kernel keeps such memory for as long as anybody has a descriptor or a mapping, whoever allocated it is dead. The
 * audit log knows what was handed out since the last start; `/proc` knows who is still there.
 */
import { dataOfLine, type LineData } from "../audit/line.ts";
import { parseLine } from "../audit/parse-line.ts";
import { listSegments, readLines } from "../audit/segments.ts";
import { isAlive } from "../exports/peer.ts";
import type { DeviceRef } from "../journal/entry.ts";
import type { Journal } from "../journal/journal.ts";
import type { OrphanedExport, Peer } from "../journal/service-body.ts";

/** What the log says of one export that may still be held. */
export interface OpenExport extends OrphanedExport {
  readonly device: DeviceRef;
  /** Whether the log has no end of it: the service died first. */
  readonly isUnended: boolean;
}

const TYPES = ["service_started", "shard_exported", "export_ended"] as const;
const MARKS = TYPES.map((type) => ({ type, mark: Buffer.from(`"type":"${type}"`) }));

type Told = { readonly type: (typeof TYPES)[number]; readonly data: LineData };

/** The entry of a line, if it is one that matters; most lines are told by their bytes alone. */
function toldBy(bytes: Uint8Array): Told | undefined {
  const line = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = MARKS.find(({ mark }) => line.includes(mark));
  if (found === undefined) return undefined;
  const parsed = parseLine(bytes);
  if (!parsed.ok || parsed.line.type !== found.type) return undefined;
  return { type: found.type, data: dataOfLine(parsed.line) };
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;

const textOf = (value: unknown): string => (typeof value === "string" ? value : "");

function peerOfData(value: unknown): Peer {
  const { pid, startTicks } = isObject(value) ? value : {};
  return { pid: Number(pid), startTicks: Number(startTicks) };
}

/** An export as a line has it; `deviceUuid` stands by itself where `device` does not. */
function exportOf(data: Record<string, unknown>, isUnended: boolean): OpenExport {
  const { ordinal, uuid } = isObject(data["device"]) ? data["device"] : { ordinal: 0, uuid: data["deviceUuid"] };
  return {
    exportId: textOf(data["exportId"]),
    shardId: textOf(data["shardId"]),
    name: textOf(data["name"]),
    deviceUuid: textOf(uuid),
    byteLength: Number(data["byteLength"]),
    peer: peerOfData(data["peer"]),
    device: { ordinal: Number(ordinal), uuid: textOf(uuid) },
    isUnended,
  };
}

/** Follows the lines of one start. */
function follow(told: readonly Told[]): readonly OpenExport[] {
  const open = new Map<string, OpenExport>();
  for (const { type, data } of told) {
    const id = textOf(data["exportId"]);
    if (type === "service_started") {
      open.clear();
      const { orphans } = data;
      const rows = Array.isArray(orphans) ? orphans.filter(isObject) : [];
      for (const row of rows) open.set(textOf(row["exportId"]), exportOf(row, false));
    } else if (type === "shard_exported") open.set(id, exportOf(data, true));
    else if (data["held"] === true) {
      const one = open.get(id);
      if (one !== undefined) open.set(id, { ...one, isUnended: false });
    } else open.delete(id);
  }
  return [...open.values()];
}

/** What was exported since the last start on record, or before it, and not given back. `folder` is that of the log. */
export async function findOpenExports(folder: string): Promise<readonly OpenExport[]> {
  const { segments } = await listSegments(folder);
  let told: Told[] = [];
  for (const { number, hasLines } of segments.toReversed()) {
    if (!hasLines) continue;
    const here: Told[] = [];
    for await (const { lines } of readLines(folder, number)) {
      for (const bytes of lines) {
        const one = toldBy(bytes);
        if (one !== undefined) here.push(one);
      }
    }
    told = [...here, ...told];
    if (here.some(({ type }) => type === "service_started")) break;
  }
  return follow(told);
}

/** Memory of an earlier process that others hold. */
export interface Orphans {
  /** Those whose process is still there, asked for anew each time. */
  held(): readonly OrphanedExport[];
  /** Ends on record what the earlier process could not end itself. */
  record(journal: Journal): Promise<void>;
}

/** Looks for orphans on the devices of this service; none without a log. */
export async function findOrphans(folder: string | undefined): Promise<Orphans> {
  const open = folder === undefined ? [] : await findOpenExports(folder);
  let held = open.filter(({ peer }) => isAlive(peer));
  return {
    held: () => {
      held = held.filter(({ peer }) => isAlive(peer));
      return held.map(({ device: _, isUnended: __, ...orphan }) => orphan);
    },
    record: async (journal) => {
      for (const { device, exportId, shardId, name, peer, isUnended } of open) {
        if (!isUnended) continue;
        await journal.appendAnyway({
          ...{ type: "export_ended", device, exportId, shardId, name },
          ...{ because: "service_gone", held: isAlive(peer) },
        });
      }
    },
  };
}
