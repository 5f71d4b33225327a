/**
 * Exports: the memory of a shard in the hands of another process, which maps it and reads it in place. Handing it over
 * waits for the audit log and is refused without it; the end of an export is on record too, as far as it is known. A
 * descriptor cannot be called back: who has one may map it writable and hand it on, so a record says how many have it
 * now, and how many ever had (VR-SEAL-04). What of it outlives this program is found again by the next (`orphans.ts`).
 */
import { roundUp } from "../bytes.ts";
import type { ExportedMemory } from "../device/device.ts";
import { closedError } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import type { ExportEnd, OrphanedExport, Peer } from "../journal/service-body.ts";
import type { Shard } from "../residency/shard.ts";
import type { System } from "../residency/worker.ts";
import { createId } from "../seal/names.ts";

/** To whom, and under which lease. */
export interface ExportTerms {
  readonly leaseId: string;
  /** Who the service knows it to be; for the record. */
  readonly caller: string;
  readonly peer: Peer;
  /** What the other process said it expects; undefined if it expects nothing in particular. */
  readonly expected: string | undefined;
}

/** Memory on its way to another process. The descriptor is the caller's to close. */
export interface Export extends ExportedMemory {
  readonly exportId: string;
}

export interface Exports {
  /** Hands out the memory of a shard. Not handed out unless it is on record; fails as the device does. */
  begin(shard: Shard, terms: ExportTerms): Promise<Export>;
  /** The other process is gone, or never had it. Harmless if it ended before. */
  end(exportId: string, because: "closed" | "failed"): Promise<void>;
  /** Bytes on a device that other processes hold, of allocations that no worker of now has. */
  heldOn(deviceUuid: string): number;
  /** What is still out there ends for us; whether those processes let go of it, nobody knows. May be called twice. */
  close(): Promise<void>;
}

interface Live {
  readonly exportId: string;
  readonly shard: Shard;
  readonly byteLength: number;
}

class OpenExports implements Exports {
  readonly #system: Pick<System, "journal">;
  readonly #orphans: () => readonly OrphanedExport[];
  readonly #live = new Map<string, Live>();
  #closed = false;

  constructor(system: Pick<System, "journal">, orphans: () => readonly OrphanedExport[]) {
    this.#system = system;
    this.#orphans = orphans;
  }

  async begin(shard: Shard, terms: ExportTerms): Promise<Export> {
    if (this.#closed) throw closedError("the book of exports");
    const { device, seal, worker, allocationId } = shard;
    const { shardId, name, digest } = seal;
    const byteLength = roundUp(seal.byteLength, worker.device.info.granuleBytes);
    const live: Live = { exportId: createId("export"), shard, byteLength };
    const { exportId } = live;
    // Counted from here on: whoever frees the memory meanwhile knows that another process may be about to map it.
    this.#live.set(exportId, live);
    shard.exports += 1;
    shard.exportsTotal += 1;
    try {
      const { expected, ...who } = terms;
      await this.#system.journal.append({
        ...{ type: "shard_exported", device, exportId, shardId, name, digest, ...who, byteLength },
        ...(expected === undefined ? {} : { expected }),
      });
      requireThere(shard);
      return { exportId, ...(await worker.device.exportMemory(allocationId)) };
    } catch (thrown) {
      shard.exportsTotal -= 1;
      // It may have been written all the same, and is then ended there.
      await this.end(exportId, "failed");
      // What was taken away while it was exported fails in many ways; this is the reason for all of them.
      requireThere(shard);
      throw toVramError(thrown);
    }
  }

  async end(exportId: string, because: "closed" | "failed"): Promise<void> {
    const live = this.#live.get(exportId);
    if (live === undefined) return;
    this.#live.delete(exportId);
    live.shard.exports -= 1;
    await this.#tell(live, because, false);
  }

  heldOn(deviceUuid: string): number {
    const live = [...this.#live.values()].map(({ shard: { seal }, byteLength }) => ({
      ...{ shardId: seal.shardId, deviceUuid: seal.deviceUuid, byteLength },
    }));
    // Several processes may hold the same memory.
    const held = new Map(
      [...this.#orphans(), ...live]
        .filter((one) => one.deviceUuid === deviceUuid)
        .map(({ shardId, byteLength }) => [shardId, byteLength]),
    );
    return [...held.values()].reduce((sum, byteLength) => sum + byteLength, 0);
  }

  async close(): Promise<void> {
    this.#closed = true;
    const live = [...this.#live.values()];
    this.#live.clear();
    // The shards go on counting them: they are not known to be gone.
    await Promise.all(live.map((one) => this.#tell(one, "service_closed", true)));
  }

  #tell({ exportId, shard }: Live, because: ExportEnd, held: boolean): Promise<void> {
    const { shardId, name } = shard.seal;
    const { journal } = this.#system;
    return journal.appendAnyway({
      ...{ type: "export_ended", device: shard.device, exportId, shardId, name, because, held },
    });
  }
}

function requireThere({ state, seal }: Shard): void {
  if (state === "sealed") return;
  throw new VramError("SHARD_NOT_RESIDENT", `${seal.name} is ${state}: its memory is handed to nobody`, {
    details: { shardId: seal.shardId, state },
  });
}

/** An empty book of exports. `orphans`: what an earlier process exported, and others still hold. */
export function createExports(
  system: Pick<System, "journal">,
  orphans: () => readonly OrphanedExport[] = () => [],
): Exports {
  return new OpenExports(system, orphans);
}
