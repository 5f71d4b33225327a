/** `vram ps`: what is resident, what should be and is not, and what is being sealed. Nothing is measured for it. */

import { formatBytes, printable } from "../../bytes.ts";
import type { Listing, MissingShard, OperationReply, ShardRecordReply } from "../../client.ts";
import { EXIT } from "../exit.ts";
import { ageOf, percent, shortDigest, shortUuid } from "../figures.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";
import { type Cell, type Column, NONE, printRecords } from "../records.ts";
import { type ServiceOptions, warnOfBackend, withService } from "../service-address.ts";

const COLUMNS: readonly Column[] = [
  { title: "NAME" },
  { title: "DIGEST" },
  { title: "SIZE", right: true },
  { title: "RESIDENT" },
  { title: "STATE" },
  { title: "VERIFIED" },
  { title: "LEASES", right: true },
  { title: "GPU" },
  { title: "AGE" },
];

const YES: Cell = { text: "yes", tone: "good" };
const NO: Cell = { text: "no", tone: "bad" };
const bad = (text: string): Cell => ({ text, tone: "bad" });

function residentRow(record: ShardRecordReply): readonly Cell[] {
  const { name, digest, byteLength, sealed, state, lastVerifiedAt, leases, device, sealedAt } = record;
  return [
    ...[name, shortDigest(digest), formatBytes(byteLength)],
    ...(sealed ? [YES, state] : [NO, bad(state)]),
    ...[`${ageOf(lastVerifiedAt)} ago`, String(leases), String(device.ordinal), ageOf(sealedAt)],
  ];
}

const progressOf = ({ bytesDone, bytesTotal }: OperationReply): string =>
  bytesTotal === undefined ? "" : ` ${percent(bytesDone, bytesTotal)}`;

/** A member of a set is called `set/member`. */
const isOf = (missing: MissingShard, { kind, name }: OperationReply): boolean =>
  kind === "restore" && (missing.name === name || missing.name.startsWith(`${name}/`));

function missingRow(missing: MissingShard, { shards, operations }: Listing): readonly Cell[] {
  const { name, digest, byteLength, deviceUuid, state } = missing;
  const restore = operations.find((operation) => operation.state === "running" && isOf(missing, operation));
  const device = shards.find((record) => record.device.uuid === deviceUuid)?.device.ordinal;
  const shownState = restore === undefined ? state : `${state}${progressOf(restore)}`;
  return [
    ...[name, shortDigest(digest), formatBytes(byteLength), NO],
    state === "blocked" || state === "refused" ? bad(state) : shownState,
    ...[NONE, NONE, device === undefined ? shortUuid(deviceUuid) : String(device), NONE],
  ];
}

function operationRow(operation: OperationReply): readonly Cell[] {
  const { name, kind, bytesTotal, startedAt } = operation;
  const doing = operation.state === "failed" ? "failed" : kind === "seal" ? "sealing" : "restoring";
  const size = bytesTotal === undefined ? NONE : formatBytes(bytesTotal);
  return [name, NONE, size, NO, `${doing}${progressOf(operation)}`, NONE, NONE, NONE, ageOf(startedAt)];
}

/** Whether a seal failed, and nothing of its name came of it since. */
const isFailed = ({ state, kind, name }: OperationReply, { shards }: Listing): boolean =>
  state === "failed" && kind === "seal" && !shards.some((record) => record.name === name);

/** Operations that have no row of what they restore. */
const operationsApart = (listing: Listing): readonly OperationReply[] =>
  listing.operations.filter(
    (one) =>
      isFailed(one, listing) || (one.state === "running" && !listing.missing.some((wanted) => isOf(wanted, one))),
  );

/** Runs the command. */
export async function runPs(host: Host, _words: readonly string[], options: ServiceOptions): Promise<number> {
  const listing = await withService(host, options, (client) => client.list({ signal: host.signal }));
  if (options.json === true) {
    printJson(host, "ps", { ok: true, ...listing });
    return EXIT.ok;
  }
  warnOfBackend(host, listing.backend, listing.evidence);
  const rows = [
    ...listing.shards.map(residentRow),
    ...listing.missing.map((missing) => missingRow(missing, listing)),
    ...operationsApart(listing).map(operationRow),
  ];
  if (rows.length === 0) host.err("nothing is resident; `vram seal FILE` seals a model\n");
  printRecords(host, COLUMNS, rows);
  for (const { name, state, reason } of listing.missing) {
    if (reason !== undefined) host.err(`${printable(name)} is ${state}: ${printable(reason)}\n`);
  }
  for (const { name, error } of listing.operations.filter((one) => isFailed(one, listing))) {
    host.err(`${printable(name)} was not sealed: ${error?.code ?? ""}: ${printable(error?.message ?? "")}\n`);
  }
  return EXIT.ok;
}
