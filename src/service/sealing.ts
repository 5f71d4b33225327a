/**
 * From what somebody asks to have sealed to a row of the wanted set, and from such a row back to the same seals. A single
 * file is a shard; several files, or one that is cut, are a set.
 */
import type { SealOptions, Vram } from "../api.ts";
import type { SealResult } from "../residency/seal-model.ts";
import { nodeFileSystem } from "../source/file.ts";
import { expandSource } from "../source/sets.ts";
import { given } from "./given.ts";
import type { OperationReply } from "./replies.ts";
import type { SealRequestBody } from "./requests.ts";
import { sealsOf, type WantedRow } from "./wanted-rows.ts";

export interface Sealed {
  /** What is wanted from now on. */
  readonly row: WantedRow;
  readonly result: NonNullable<OperationReply["result"]>;
}

type Row<Kind> = Extract<WantedRow, { readonly kind: Kind }>;

const resultOf = (members: readonly SealResult[], set?: object): Sealed["result"] => ({
  shards: members.map(({ record, seal }) => ({ record, seal: { ...seal } })),
  ...(set === undefined ? {} : { set: { ...set } }),
});

type Format = Pick<SealOptions, "format" | "maxHeaderBytes">;

async function sealOne(vram: Vram, path: string, format: Format, options: SealOptions): Promise<Sealed> {
  const result = await vram.seal(path, { ...format, ...options });
  return { row: { kind: "shard", seal: result.seal, path, format }, result: resultOf([result]) };
}

/** Seals what is asked for under `name`. Ages are of the service's configuration already. */
export async function sealRequested(
  vram: Vram,
  roots: readonly string[],
  request: Omit<SealRequestBody, "wait"> & { readonly name: string; readonly maxAgeMs: number },
  signal: AbortSignal,
): Promise<Sealed> {
  const { path, name, device, shards = 1, expected, sha256, maxAgeMs } = request;
  const format = given({ format: request.format, maxHeaderBytes: request.maxHeaderBytes });
  const terms = given({ expected, sha256 });
  const members = await expandSource(path, roots, nodeFileSystem);
  if (members.length === 1 && shards === 1) {
    return sealOne(vram, path, format, { name, maxAgeMs, signal, ...terms, ...given({ device }) });
  }
  const devices = device === undefined ? {} : { devices: [device] };
  const sealed = await vram.sealSet(path, { name, shards, maxAgeMs, signal, ...format, ...terms, ...devices });
  return { row: rowOf({ name, path, shards, format }, sealed), result: resultOf(sealed.members, sealed.set) };
}

const rowOf = (
  { name, path, shards, format }: { name: string; path: string; shards: number; format: Format },
  { set, members }: Awaited<ReturnType<Vram["sealSet"]>>,
): Row<"set"> => ({
  ...{ kind: "set", name, path, shards, format },
  set: { ...set, macs: [...set.macs] },
  members: members.map(({ seal }) => seal),
});

/** Seals a row again: the same names, ids and digests, on the same devices. */
export async function sealAgain(vram: Vram, row: WantedRow, signal: AbortSignal): Promise<Sealed> {
  const [first] = sealsOf(row);
  const { path } = row;
  const format = given(row.format);
  const terms = { maxAgeMs: first?.maxAgeMs ?? 0, sha256: first?.sha256 !== "", signal };
  if (row.kind === "shard") {
    const { name, shardId, deviceUuid: device, digest: expected } = row.seal;
    return sealOne(vram, path, format, { ...terms, name, shardId, device, expected });
  }
  const { name, shards, members } = row;
  // Member i is on device i modulo their number: the devices are the first ones, each once.
  const devices = [...new Set(members.map(({ deviceUuid }) => deviceUuid))];
  const sealed = await vram.sealSet(path, { ...terms, ...format, name, shards, devices, sealed: members });
  return { row: rowOf({ name, path, shards, format }, sealed), result: resultOf(sealed.members, sealed.set) };
}
