/** `vram resume`: lets workers go on that a failed verification stopped. The reason is put on record. */
import { printable } from "../../bytes.ts";
import { EXIT } from "../exit.ts";
import { parseDevice } from "../figures.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";
import { type ServiceOptions, withService } from "../service-address.ts";

export interface ResumeOptions extends ServiceOptions {
  readonly reason: string;
  readonly device?: string;
}

/** Runs the command. */
export async function runResume(host: Host, _words: readonly string[], options: ResumeOptions): Promise<number> {
  const { reason, device } = options;
  const request = { reason, ...(device === undefined ? {} : { device: parseDevice(device) }) };
  const devices = await withService(host, options, (client) => client.resume(request, { signal: host.signal }));
  if (options.json === true) {
    printJson(host, "resume", { ok: true, devices });
    return EXIT.ok;
  }
  for (const { ordinal, uuid, state, reason: why } of devices) {
    host.out(`device ${ordinal}  ${state}  ${uuid}${why === undefined ? "" : `  ${printable(why)}`}\n`);
  }
  return EXIT.ok;
}
