/** `vram plan`: whether a model fits, and into what, before anything is read or moved. */
import { formatBytes } from "../../bytes.ts";
import type { Plan } from "../../client.ts";
import { EXIT } from "../exit.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";
import { printFields, printRecords } from "../records.ts";
import { withService } from "../service-address.ts";
import { type PlacedOptions, placedRequest } from "./placed.ts";

/** A plan that would not be carried out is no success: 1 if there is no room, 5 if the device seals nothing now. */
function exitOf({ fits, blocked }: Plan): number {
  if (!fits) return EXIT.error;
  return blocked === undefined ? EXIT.ok : EXIT.policy;
}

function printPlan(host: Host, plan: Plan): void {
  const { name, fits, byteLength, device, capacity, resident, blocked, members } = plan;
  printFields(host, `${name} ${fits ? "fits" : "does not fit"}`, {
    needs: `${formatBytes(byteLength)} (${byteLength} bytes)`,
    free: `${formatBytes(capacity.bytesFree)} of ${formatBytes(capacity.bytesTotal)} (${capacity.bytesFree} bytes)`,
    device: `${device.ordinal} (${device.uuid})`,
    resident: resident ? "yes, already" : undefined,
    blocked,
  });
  if (members.length < 2) return;
  host.out("\n");
  const columns = [
    { title: "MEMBER" },
    { title: "SIZE", right: true },
    { title: "TENSORS", right: true },
    { title: "FORMAT" },
    { title: "FITS" },
  ] as const;
  const rows = members.map((member) => [
    ...[member.name, formatBytes(member.byteLength), String(member.tensorCount), member.format],
    member.fits ? "yes" : { text: "no", tone: "bad" as const },
  ]);
  printRecords(host, columns, rows);
}

/** Runs the command. */
export async function runPlan(host: Host, [file = ""]: readonly string[], options: PlacedOptions): Promise<number> {
  const request = placedRequest(file, options);
  const plan = await withService(host, options, (client) => client.plan(request, { signal: host.signal }));
  const code = exitOf(plan);
  if (options.json === true) printJson(host, "plan", { ok: code === EXIT.ok, ...plan });
  else printPlan(host, plan);
  return code;
}
