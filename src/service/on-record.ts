/**
 * What the audit log says of shards that are wanted (VR-API-04): the last `vram_sealed` of each, and whether it was
 * evicted after that. An old wanted set carries a valid mac too; the log tells it from the newest one.
 */
import { dataOfLine, type LineData } from "../audit/line.ts";
import { parseLine } from "../audit/parse-line.ts";
import { listSegments, readLines } from "../audit/segments.ts";
import type { Seal } from "../seal/encoding.ts";

/** What is on record of a shard. */
export interface OnRecord {
  readonly name: string;
  readonly digest: string;
  readonly byteLength: number;
  readonly deviceUuid: string;
  /** Evicted since, on purpose. */
  evicted: boolean;
}

const SEALED = Buffer.from('"type":"vram_sealed"');
const DEALLOCATED = Buffer.from('"type":"vram_deallocated"');

/** The entry of a line, if it is one that matters; most lines are told by their bytes alone. */
function dataOf(bytes: Uint8Array): { type: "sealed" | "freed"; data: LineData } | undefined {
  const line = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const type = line.includes(SEALED) ? "sealed" : line.includes(DEALLOCATED) ? "freed" : undefined;
  if (type === undefined) return undefined;
  const parsed = parseLine(bytes);
  return parsed.ok ? { type, data: dataOfLine(parsed.line) } : undefined;
}

function onRecordOf(data: LineData): OnRecord {
  const device = data["device"];
  const deviceUuid = typeof device === "object" && device !== null && "uuid" in device ? String(device.uuid) : "";
  const { name, digest, byteLength } = data;
  return {
    ...{ name: String(name), digest: String(digest), byteLength: Number(byteLength), deviceUuid },
    evicted: false,
  };
}

/** What one segment says, in its order. */
async function readSegment(folder: string, number: number, ids: ReadonlySet<string>): Promise<Map<string, OnRecord>> {
  const found = new Map<string, OnRecord>();
  for await (const { lines } of readLines(folder, number)) {
    for (const bytes of lines) {
      const entry = dataOf(bytes);
      if (entry === undefined) continue;
      const { type, data } = entry;
      if (type === "sealed" && ids.has(String(data["shardId"]))) found.set(String(data["shardId"]), onRecordOf(data));
      if (type !== "freed" || data["because"] !== "evicted") continue;
      const gone = found.get(String(data["shardId"]));
      if (gone !== undefined) gone.evicted = true;
    }
  }
  return found;
}

/** Shards that were evicted in a segment behind the one that sealed them. */
async function evictedIn(folder: string, number: number, ids: ReadonlySet<string>): Promise<Set<string>> {
  const evicted = new Set<string>();
  for await (const { lines } of readLines(folder, number)) {
    for (const bytes of lines) {
      const entry = dataOf(bytes);
      const shardId = String(entry?.data["shardId"]);
      if (entry?.type === "freed" && entry.data["because"] === "evicted" && ids.has(shardId)) evicted.add(shardId);
    }
  }
  return evicted;
}

/** What the log in `folder` has of these seals, by shard id; read from its newest segment backwards, as far as needed. */
export async function findOnRecord(folder: string, seals: readonly Seal[]): Promise<ReadonlyMap<string, OnRecord>> {
  const found = new Map<string, OnRecord>();
  const missing = new Set(seals.map(({ shardId }) => shardId));
  const evictedLater = new Set<string>();
  const { segments } = await listSegments(folder);
  for (const { number, hasLines } of segments.toReversed()) {
    if (missing.size === 0) break;
    if (!hasLines) continue;
    for (const [shardId, one] of await readSegment(folder, number, missing)) {
      one.evicted ||= evictedLater.has(shardId);
      found.set(shardId, one);
      missing.delete(shardId);
    }
    if (missing.size > 0) for (const shardId of await evictedIn(folder, number, missing)) evictedLater.add(shardId);
  }
  return found;
}
