/** One JSON document per command, with a `schema` field that names its form. */
import type { Host } from "./host.ts";

/** Prints `{ schema, …document }`, indented, as one document. */
export function printJson(host: Host, command: string, document: object): void {
  host.out(`${JSON.stringify({ schema: `vram-residency/${command}/v1`, ...document }, null, 2)}\n`);
}
