/** What `vram plan` and `vram seal` have in common: a file, what to call it, and where it goes. */
import { resolve } from "node:path";
import type { PlanRequest } from "../../client.ts";
import { LIMITS } from "../../limits.ts";
import { parseDevice } from "../figures.ts";
import { parseWhole } from "../numbers.ts";
import type { ServiceOptions } from "../service-address.ts";

export interface PlacedOptions extends ServiceOptions {
  readonly name?: string;
  readonly device?: string;
  readonly format?: "auto" | "safetensors" | "gguf" | "raw";
  readonly shards?: string;
}

/** The request of a file. The service may run in another folder: its path is absolute. */
export function placedRequest(file: string, { name, device, format, shards }: PlacedOptions): PlanRequest {
  return {
    path: resolve(file),
    ...(name === undefined ? {} : { name }),
    ...(device === undefined ? {} : { device: parseDevice(device) }),
    ...(format === undefined ? {} : { format }),
    ...(shards === undefined ? {} : { shards: parseWhole(shards, "--shards", LIMITS.setMembers) }),
  };
}
