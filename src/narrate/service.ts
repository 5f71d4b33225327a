/**
 * What is said about a service: its start and end, the processes of its devices, its leases, what it hands to other
 * processes, and who was not let in.
 * Rows of the one table, with their words in a file of their own.
 */
import { ERROR_TABLE } from "../errors.ts";
import type { Entry } from "../journal/entry.ts";
import type { ExportEnd, OrphanedExport, Transport } from "../journal/service-body.ts";
import { count, DEBUG, FAILURE, GOOD, inMs, inSeconds, type Line, line, WARNING } from "./line.ts";

/** The rows of these types; what an entry has decides which texts a row can use. */
type Rows<Type extends Entry["type"]> = {
  readonly [E in Entry as E["type"] & Type]: (entry: E) => Line | undefined;
};

/** Processes that a sentence names. */
const PIDS_NAMED = 8;

/** What other processes hold of an earlier start; empty without any. */
function heldBefore(orphans: readonly OrphanedExport[], total: number): string {
  if (total === 0) return "";
  const pids = [...new Set(orphans.map(({ peer }) => peer.pid))];
  const more = pids.length > PIDS_NAMED ? ", …" : "";
  const which = `${pids.length === 1 ? "pid" : "pids"} ${pids.slice(0, PIDS_NAMED).join(", ")}${more}`;
  const named = pids.length === 0 ? "" : ` (${which})`;
  return `; memory of ${count(total, "export")} of an earlier start is still held by other processes${named}`;
}

const over = (transport: Transport): string => (transport === "socket" ? "over the socket" : `over ${transport}`);

export const SERVICE_ROWS: Rows<"service_started" | "service_stopped" | "device_process_changed" | "wanted_refused"> = {
  service_started: ({ version, backend, instanceId, devices, ...before }) => {
    const { lost = [], lostTotal = lost.length, orphans = [], orphansTotal = orphans.length } = before;
    const gone = lostTotal === 0 ? "" : `; not resident any more: ${count(lostTotal, "shard")}`;
    const held = heldBefore(orphans, orphansTotal);
    const runs = `vram-residency ${version} runs on ${count(devices.length, "device")}, backend ${backend}`;
    const told = ["vram-residency", "init", "started"] as const;
    return line(told, instanceId, `${runs}${gone}${held}`, orphansTotal === 0 ? {} : WARNING);
  },
  service_stopped: ({ because, code }) => {
    const told = ["vram-residency", "shutdown", "ended"] as const;
    const target = "vram-residency";
    if (because === "closed") return line(told, target, "vram-residency was closed in order");
    if (because === "interrupted") {
      return line(told, target, "vram-residency was interrupted before it had closed in order", WARNING);
    }
    const human = `vram-residency failed: ${ERROR_TABLE[code ?? "INTERNAL"].meaning}`;
    return line(told, target, human, { ...FAILURE, errorKind: code ?? "INTERNAL" });
  },
  device_process_changed: ({ device: { ordinal, uuid }, state, pid, code = "DEVICE_LOST", restarts }) => {
    const what = `the process of device ${ordinal}`;
    const failure = { ...FAILURE, errorKind: code };
    const often = `${count(restarts, "restart")} in 5 minutes`;
    const which = `${pid === undefined ? "" : ` (pid ${pid})`}${restarts === 0 ? "" : `, after ${often}`}`;
    const told = {
      starting: line(["worker", "process_start", "starting"], uuid, `${what} is being started`, DEBUG),
      running: line(["worker", "process_run", "running"], uuid, `${what} runs${which}`),
      lost: line(
        ["worker", "process_lost", "lost"],
        uuid,
        `${what} is gone, and what was resident in it: ${code}; it is started again`,
        failure,
      ),
      stopped: line(
        ["worker", "process_stop", "stopped"],
        uuid,
        `${what} is not started again after ${often}`,
        failure,
      ),
      wedged: line(
        ["worker", "process_wedge", "wedged"],
        uuid,
        `${what} cannot be killed, and no other is started: ${code}`,
        failure,
      ),
    };
    return told[state];
  },
  // Its reason is the message of an error, which may name the source.
  wanted_refused: ({ name, code }) => {
    const human = `${name} was wanted, and is not sealed again: ${ERROR_TABLE[code].meaning}`;
    return line(["vram-residency", "wanted_refused", "refused"], name, human, { ...FAILURE, errorKind: code });
  },
};

const EXPORT_ENDS: Readonly<Record<ExportEnd, (what: string, held: boolean) => string>> = {
  closed: (what) => `the process that had ${what} has let go of it`,
  failed: (what) => `${what} was never handed over`,
  service_closed: (what) => `the service was closed while a process had ${what}`,
  service_gone: (what, held) =>
    `an earlier start of the service ended while a process had ${what}${held ? "" : ", and that process is gone"}`,
};

export const CALLER_ROWS: Rows<
  | "lease_granted"
  | "lease_renewed"
  | "lease_released"
  | "lease_expired"
  | "lease_revoked"
  | "shard_exported"
  | "export_ended"
  | "statement_issued"
  | "key_rotated"
  | "auth_failed"
  | "request_refused"
> = {
  lease_granted: ({ name, leaseId, holder, caller, durationMs, measuredAgeMs }) => {
    const human = `${holder} (${caller}) relies on ${name} for ${inSeconds(durationMs)}: ${leaseId}, measured ${inMs(measuredAgeMs)} before`;
    return line(["worker", "lease_grant", "leased"], name, human, GOOD);
  },
  lease_renewed: ({ name, leaseId, durationMs }) =>
    line(["worker", "lease_renew", "renewed"], name, `${leaseId} of ${name} goes on for ${inSeconds(durationMs)}`),
  lease_released: ({ name, leaseId }) =>
    line(["worker", "lease_release", "released"], name, `${leaseId} of ${name} was given back`),
  lease_expired: ({ name, leaseId }) =>
    line(["worker", "lease_expire", "expired"], name, `${leaseId} of ${name} ran out`),
  lease_revoked: ({ name, leaseId, because }) =>
    line(
      ["worker", "lease_revoke", "revoked"],
      name,
      `${leaseId} of ${name} is revoked (${because}): do not rely on it`,
      WARNING,
    ),
  shard_exported: ({ name, exportId, caller, peer, expected = "nothing in particular" }) => {
    const human = `${caller}'s process ${peer.pid} may read ${name} in place from now on: ${exportId}, expected ${expected}`;
    return line(["worker", "export", "exported"], name, human);
  },
  export_ended: ({ name, exportId, because, held }) => {
    const ended = EXPORT_ENDS[because](`${exportId} of ${name}`, held);
    const human = `${ended}${held ? "; the memory may still be mapped there" : ""}`;
    return line(["worker", "export_end", "ended"], name, human, held ? WARNING : {});
  },
  statement_issued: ({ name, statementId, caller, digest }) => {
    const human = `${caller} was given a statement about ${name}, measured as fsverity:${digest}: ${statementId}`;
    return line(["vram-residency", "attest", "issued"], name, human, GOOD);
  },
  key_rotated: ({ purpose, from, to, reason }) => {
    const human = `the key of every ${purpose} is another from now on: ${to} instead of ${from} (${reason})`;
    return line(["vram-residency", "key_rotate", "rotated"], to, human, WARNING);
  },
  auth_failed: ({ failure, transport, caller = "somebody" }) => {
    const human = `${caller} was not let in ${over(transport)}: ${failure}`;
    return line(["vram-residency", "auth_failed", "refused"], caller, human, { ...WARNING, errorKind: failure });
  },
  request_refused: ({ status, code, transport, caller = "somebody" }) => {
    const human = `a request of ${caller} ${over(transport)} was refused with ${status}: ${ERROR_TABLE[code].meaning}`;
    return line(["vram-residency", "request_refused", "refused"], caller, human, { ...WARNING, errorKind: code });
  },
};
