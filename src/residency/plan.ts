/**
 * Whether a source would fit: its header is read and checked, the account of the device is asked, nothing is reserved
 * (VR-API-01). What fits now may not fit when it is sealed: only sealing reserves.
 */
import { roundUp } from "../bytes.ts";
import type { DeviceRef } from "../journal/entry.ts";
import { cleanName } from "../seal/names.ts";
import { cutAtTensors } from "../source/cut.ts";
import type { FormatOptions } from "../source/source.ts";
import type { Capacity } from "./ledger.ts";
import { cutName } from "./seal-set.ts";
import { readCapacity, type System, type Worker } from "./worker.ts";

export interface PlanRequest {
  /** The files, in order. */
  readonly paths: readonly string[];
  readonly name: string;
  /** Into how many shards a single file would be cut. */
  readonly shards: number;
  readonly format: FormatOptions;
  readonly signal: AbortSignal | undefined;
}

/** One shard that would be sealed. */
export interface PlannedShard {
  /** What the shard would be called. */
  readonly name: string;
  /** Bytes of weights. */
  readonly byteLength: number;
  /** As the header was read. */
  readonly format: string;
  /** 0 for `raw`. */
  readonly tensorCount: number;
  /** After those before it. */
  readonly fits: boolean;
}

/** What sealing would take, and whether there is room as of now. Nothing is reserved. */
export interface Plan {
  /** Whether all members fit together. */
  readonly fits: boolean;
  /** What it would be called. */
  readonly name: string;
  /** Of all members. */
  readonly byteLength: number;
  /** In index order. */
  readonly members: readonly PlannedShard[];
  /** Where they would lie. */
  readonly device: DeviceRef;
  /** The account that this was judged by. */
  readonly capacity: Capacity;
  /** Whether something of this name is resident already. */
  readonly resident: boolean;
  /** Why nothing would be sealed there now, though it fits. */
  readonly blocked?: string;
}

interface Part {
  readonly name: string;
  readonly byteLength: number;
  readonly format: string;
  readonly tensorCount: number;
}

/** The shards that a file would become. */
async function partsOf(system: System, worker: Worker, path: string, request: PlanRequest): Promise<Part[]> {
  const spec = { kind: "path", path, roots: system.modelRoots } as const;
  const source = await worker.device.openSource(spec, request.format, request.signal);
  await worker.device.closeSource(source.sourceId);
  const { byteLength, format, tensors } = source;
  const whole = { name: request.name, byteLength, format, tensorCount: tensors.length };
  if (request.paths.length > 1) return [{ ...whole, name: `${request.name}/${cleanName(source.name)}` }];
  if (request.shards === 1) return [whole];
  return cutAtTensors(tensors, byteLength, request.shards).map((part, index, parts) => ({
    name: cutName(request.name, index, parts.length),
    byteLength: part.byteLength,
    format,
    tensorCount: part.tensors.length,
  }));
}

function blockedBy(system: System, worker: Worker, parts: readonly Part[]): string | undefined {
  if (worker.lost) return "the device is lost";
  if (worker.stopped !== undefined) return `the worker is stopped: ${worker.stopped}`;
  if (parts.some(({ byteLength }) => byteLength === 0)) return "a source of zero bytes cannot be sealed";
  const largest = Math.max(...parts.map(({ byteLength }) => byteLength));
  return largest > system.maxModelBytes ? `the limit of a shard is ${system.maxModelBytes} bytes` : undefined;
}

/** Plans; throws what opening the source would throw. */
export async function plan(system: System, worker: Worker, request: PlanRequest): Promise<Plan> {
  const parts: Part[] = [];
  for (const path of request.paths) parts.push(...(await partsOf(system, worker, path, request)));
  const capacity = await readCapacity(worker);
  let free = capacity.bytesFree;
  const members = parts.map((part): PlannedShard => {
    const fits = part.byteLength <= free;
    free -= roundUp(part.byteLength, worker.device.info.granuleBytes);
    return { ...part, fits };
  });
  const { name } = request;
  const blocked = blockedBy(system, worker, parts);
  return {
    fits: members.every(({ fits }) => fits),
    name,
    byteLength: parts.reduce((sum, { byteLength }) => sum + byteLength, 0),
    members,
    device: worker.ref,
    capacity,
    resident: system.registry.all().some(({ seal }) => seal.name === name || seal.name.startsWith(`${name}/`)),
    ...(blocked === undefined ? {} : { blocked }),
  };
}
