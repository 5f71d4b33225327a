/** What the audit log says of memory that was handed out by services that are gone. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { auditFolder } from "../../src/audit/key-files.ts";
import { systemClock } from "../../src/clock.ts";
import { UndoStack } from "../../src/dispose.ts";
import { peerOf } from "../../src/exports/peer.ts";
import type { DurableBody } from "../../src/journal/entry.ts";
import { createJournal } from "../../src/journal/journal.ts";
import type { OrphanedExport, Peer } from "../../src/journal/service-body.ts";
import { attachAuditLog } from "../../src/recording.ts";
import { openStateDirectory } from "../../src/residency/state.ts";
import { findOrphans } from "../../src/service/orphans.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const UUID = "EMU-0b7f4c8e-1d5a-4f0e-9a39-3c1d7e2b5a60";
const device = { ordinal: 0, uuid: UUID };
const GONE: Peer = { pid: 1, startTicks: 12_345_678_901 };

let stateDir: string;
let child: ChildProcess;
let alive: Peer;

beforeEach(async () => {
  stateDir = join(await temporaryFolder(), "state");
  child = spawn("cat", { stdio: ["pipe", "ignore", "ignore"] });
  await once(child, "spawn");
  alive = peerOf(child.pid ?? 0);
});
afterEach(() => child.kill("SIGKILL"));

/** Puts entries into the log, as a service does; returns nothing of it but the folder. */
async function log(...entries: readonly DurableBody[]): Promise<string> {
  const state = await openStateDirectory(stateDir);
  const journal = createJournal(systemClock);
  const undo = new UndoStack(() => undefined);
  const place = { stateDir, audit: {}, clock: systemClock, instanceId: "ab".repeat(16) };
  await attachAuditLog(journal, place, undo);
  for (const entry of entries) await journal.append(entry);
  await undo.unwind();
  await state.close();
  return auditFolder(stateDir);
}

const exported = (exportId: string, peer: Peer, shardId = exportId): DurableBody => ({
  ...{ type: "shard_exported", device, exportId, shardId, name: `name-${shardId}`, digest: "ab".repeat(32) },
  ...{ leaseId: "lease-1", caller: "uid 1", peer, byteLength: 4096 },
});
const ended = (exportId: string, held: boolean): DurableBody => ({
  ...{ type: "export_ended", device, exportId, shardId: exportId, name: exportId },
  ...{ because: held ? "service_closed" : "closed", held },
});
const started = (...orphans: readonly OrphanedExport[]): DurableBody => ({
  ...{ type: "service_started", backend: "emulated", version: "0", instanceId: "ab", policyDigest: "", devices: [] },
  ...(orphans.length === 0 ? {} : { orphans, orphansTotal: orphans.length }),
});
const orphan = (exportId: string, peer: Peer): OrphanedExport => ({
  ...{ exportId, shardId: exportId, name: `name-${exportId}`, deviceUuid: UUID, byteLength: 4096, peer },
});

describe("[VR-MEM-03] memory that outlived a service", () => {
  it("is what was exported and not given back, by processes that are still there", async () => {
    const folder = await log(
      started(),
      exported("given-back", alive),
      ended("given-back", false),
      exported("crashed", alive),
      exported("closed", alive),
      ended("closed", true),
      exported("gone", GONE),
    );
    const orphans = await findOrphans(folder);
    expect(orphans.held()).toEqual([orphan("crashed", alive), orphan("closed", alive)]);
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(orphans.held()).toEqual([]);
  });

  it("is ended on record, once, if the service could not do that itself", async () => {
    const folder = await log(
      started(),
      exported("crashed", alive),
      exported("gone", GONE),
      exported("closed", alive),
      ended("closed", true),
    );
    const entries: DurableBody[] = [];
    const journal = { appendAnyway: async (entry: DurableBody) => void entries.push(entry) };
    await (await findOrphans(folder)).record(journal as never);
    expect(entries).toMatchObject([
      { type: "export_ended", exportId: "crashed", device, because: "service_gone", held: true },
      { type: "export_ended", exportId: "gone", device, because: "service_gone", held: false },
    ]);
    await log(...entries, started(orphan("crashed", alive), orphan("closed", alive)));
    const again: DurableBody[] = [];
    const later = await findOrphans(folder);
    await later.record({ appendAnyway: async (entry: DurableBody) => void again.push(entry) } as never);
    expect(again).toEqual([]);
    expect(later.held().map(({ exportId }) => exportId)).toEqual(["crashed", "closed"]);
  });

  it("is remembered from start to start while it is held, and only what the last start says of older ones", async () => {
    const folder = await log(started(), exported("old", alive), started(orphan("kept", alive)), exported("new", alive));
    expect((await findOrphans(folder)).held().map(({ exportId }) => exportId)).toEqual(["kept", "new"]);
  });

  it("is nothing where there is no log, or nothing in it", async () => {
    expect((await findOrphans(undefined)).held()).toEqual([]);
    expect((await findOrphans(await log(started()))).held()).toEqual([]);
  });
});
