/**
 * What is wanted stays resident: the keeper remembers every seal that somebody asked for, and seals it again from its
 * source when the device or the service was lost (VR-API-04). Nothing is believed that does not hold: the row carries our
 * mac, the audit log must have sealed the same, and the bytes must have the same digest, measured in VRAM. What does not
 * hold is refused, stays wanted and is shown as missing, until somebody evicts it or seals something else in its place.
 */

import { Mutex } from "../dispose.ts";
import { type ErrorCode, toVramError, type VramError } from "../errors.ts";
import { onNobodysBehalf } from "../journal/scope.ts";
import { LIMITS } from "../limits.ts";
import { withoutPaths } from "../narrate/line.ts";
import { evict } from "../residency/evict.ts";
import type { Shard } from "../residency/shard.ts";
import type { System, Worker } from "../residency/worker.ts";
import type { Seal } from "../seal/encoding.ts";
import type { Begun, Operations } from "./operations.ts";
import type { MissingShard, OperationReply } from "./replies.ts";
import type { WantedSet } from "./wanted.ts";
import { nameOf, sealsOf, type WantedRow } from "./wanted-rows.ts";

type Result = NonNullable<OperationReply["result"]>;

export interface KeeperOptions {
  readonly system: System;
  readonly workers: readonly Worker[];
  readonly wanted: WantedSet;
  readonly operations: Operations;
  /** Throws unless the row is what the audit log has. */
  readonly requireOnRecord: (row: WantedRow) => Promise<"wanted" | "evicted">;
  /** Seals a row again: same names, ids and digests. Returns what is wanted from now on. */
  readonly sealAgain: (row: WantedRow, signal: AbortSignal) => Promise<{ row: WantedRow; result: Result }>;
}

export interface Keeper {
  /** The row of this name, or with a shard of this id or name. */
  rowOf(idOrName: string): WantedRow | undefined;
  /** What is wanted and not on the list. */
  missing(): readonly MissingShard[];
  /** Whether everything wanted is sealed. */
  isComplete(): boolean;
  /** Seals again what is wanted on this device, or on any, and not resident. Does not wait. */
  restore(deviceUuid?: string): void;
  /** Resolves when nothing is being restored. */
  settled(): Promise<void>;
  /** Forgets a row, and stops restoring it. */
  forget(row: WantedRow): Promise<void>;
  close(): Promise<void>;
}

type Status =
  | { readonly state: "restoring"; readonly begun: Begun }
  | { readonly state: "waiting" | "refused"; readonly reason: string };

/** Whether another try may do better with nothing mended here: a disk that is mounted later has the file, too. */
const isPassing = ({ code, retriable, fatal }: VramError): boolean =>
  retriable || fatal || code === "SOURCE_NOT_FOUND" || code === "SOURCE_REFUSED";

class OpenKeeper implements Keeper {
  readonly #options: KeeperOptions;
  readonly #status = new Map<string, Status>();
  /** One restoration at a time on each device. */
  readonly #turns = new Map<string, Mutex>();
  readonly #restoring = new Set<Promise<void>>();
  /** Why a row failed the last time, as far as that is on record. */
  readonly #told = new Map<string, ErrorCode>();
  #retry: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: KeeperOptions) {
    this.#options = options;
  }

  #shardOf({ shardId }: Seal): Shard | undefined {
    return this.#options.system.registry.all().find((shard) => shard.seal.shardId === shardId);
  }

  #isSealed(row: WantedRow): boolean {
    return sealsOf(row).every((seal) => this.#shardOf(seal)?.state === "sealed");
  }

  rowOf(idOrName: string): WantedRow | undefined {
    const rows = this.#options.wanted.rows();
    const isMember = (row: WantedRow): boolean =>
      sealsOf(row).some(({ shardId, name }) => shardId === idOrName || name === idOrName);
    return rows.find((row) => nameOf(row) === idOrName) ?? rows.find(isMember);
  }

  isComplete(): boolean {
    return this.#options.wanted.rows().every((row) => this.#isSealed(row));
  }

  missing(): readonly MissingShard[] {
    return this.#options.wanted.rows().flatMap((row) =>
      sealsOf(row)
        .filter((seal) => this.#shardOf(seal) === undefined)
        .map(({ name, shardId, digest, byteLength, deviceUuid }) => ({
          ...{ name, shardId, digest, byteLength, deviceUuid },
          ...this.#stateOf(row),
        })),
    );
  }

  #stateOf(row: WantedRow): Pick<MissingShard, "state" | "reason"> {
    const status = this.#status.get(nameOf(row));
    if (status?.state === "restoring") return { state: "restoring" };
    if (status?.state === "refused") return { state: "refused", reason: status.reason };
    const blocked = this.#blockedBy(row);
    if (blocked !== undefined) return { state: "blocked", reason: blocked };
    return { state: "waiting", ...(status === undefined ? {} : { reason: status.reason }) };
  }

  /** Why a row cannot be sealed now, whatever its source is. */
  #blockedBy(row: WantedRow): string | undefined {
    for (const { deviceUuid } of sealsOf(row)) {
      const worker = this.#options.workers.find(({ ref }) => ref.uuid === deviceUuid);
      if (worker === undefined) return "its device is not one of this service";
      if (worker.stopped !== undefined) return `the worker of its device is stopped: ${worker.stopped}`;
      if (worker.lost) return "its device is lost";
    }
    return undefined;
  }

  restore(deviceUuid?: string): void {
    for (const row of this.#options.wanted.rows()) {
      const devices = sealsOf(row).map((seal) => seal.deviceUuid);
      if (deviceUuid !== undefined && !devices.includes(deviceUuid)) continue;
      const turn = this.#turns.get(devices[0] ?? "") ?? new Mutex();
      this.#turns.set(devices[0] ?? "", turn);
      const task = onNobodysBehalf(() => turn.run(() => this.#restoreRow(nameOf(row))));
      this.#restoring.add(task);
      void task.finally(() => this.#restoring.delete(task));
    }
  }

  /** Restores the row of this name, if it still is wanted and can be. Never rejects. */
  async #restoreRow(name: string): Promise<void> {
    const row = this.#options.wanted.rows().find((one) => nameOf(one) === name);
    if (row === undefined || this.#closed || this.#isSealed(row) || this.#blockedBy(row) !== undefined) return;
    const begun = this.#options.operations.begin("restore", name, (signal) => this.#sealAgain(row, signal));
    this.#status.set(name, { state: "restoring", begun });
    const { error } = await begun.ended;
    this.#status.delete(name);
    if (error === undefined) this.#told.delete(name);
    else if (error.code !== "ABORTED") await this.#failed(name, error);
  }

  async #sealAgain(row: WantedRow, signal: AbortSignal): Promise<Result> {
    const { system, wanted, requireOnRecord, sealAgain } = this.#options;
    const isOurs = sealsOf(row).every(({ instanceId }) => instanceId === system.instanceId);
    if (!isOurs && (await requireOnRecord(row)) === "evicted") {
      await wanted.remove(nameOf(row));
      // A crash before the wanted set was written, or somebody who put an old one back.
      const reason = "it was evicted, and the wanted set did not say so";
      const { journal } = system;
      await journal.appendAnyway({ type: "wanted_refused", name: nameOf(row), code: "STATE_INVALID", reason });
      return { shards: [] };
    }
    // What is left of it is worth nothing: of a lost device, or found to be changed.
    for (const seal of sealsOf(row)) {
      const shard = this.#shardOf(seal);
      if (shard === undefined || shard.state === "sealed") continue;
      // Not "evicted", which on record means that nobody wants it any more.
      await evict(system, shard.worker, shard, shard.state === "lost" ? "lost" : "undone");
    }
    const sealed = await sealAgain(row, signal);
    if (await wanted.replace(row, sealed.row)) return sealed.result;
    // Somebody evicted it while it was sealed.
    for (const { record } of sealed.result.shards) {
      const shard = system.registry.find(record.shardId);
      await evict(system, shard.worker, shard);
    }
    return { shards: [] };
  }

  async #failed(name: string, thrown: unknown): Promise<void> {
    const error = toVramError(thrown);
    const { code } = error;
    const reason = withoutPaths(error.message);
    this.#status.set(name, { state: isPassing(error) ? "waiting" : "refused", reason });
    // What fails again and again in the same way is on record once.
    if (this.#told.get(name) !== code) {
      await this.#options.system.journal.appendAnyway({ type: "wanted_refused", name, code, reason });
    }
    this.#told.set(name, code);
    if (!isPassing(error) || this.#closed) return;
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.restore();
    }, LIMITS.restoreRetryMs).unref();
  }

  async settled(): Promise<void> {
    while (this.#restoring.size > 0) await Promise.all(this.#restoring);
  }

  async forget(row: WantedRow): Promise<void> {
    const removing = this.#options.wanted.remove(nameOf(row));
    // What is being restored is either undone, because it is not wanted any more, or there when this is over.
    const status = this.#status.get(nameOf(row));
    if (status?.state === "restoring") {
      await this.#options.operations.cancel(status.begun.operation.operationId).catch(() => undefined);
    }
    this.#status.delete(nameOf(row));
    await removing;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    for (const status of this.#status.values()) {
      if (status.state === "restoring") await this.#options.operations.cancel(status.begun.operation.operationId);
    }
    await this.settled();
  }
}

/** A keeper of this wanted set. Nothing is restored before it is asked to. */
export function createKeeper(options: KeeperOptions): Keeper {
  return new OpenKeeper(options);
}
