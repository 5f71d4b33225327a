/**
 * The one table of narration: for each type of entry what is said about it, or that nothing is. `docs/narration.md` has
 * it for readers; a test compares the two. A new type of entry does not compile until it has a row here.
 */
import { formatBytes } from "../bytes.ts";
import { ERROR_TABLE } from "../errors.ts";
import type { Entry } from "../journal/entry.ts";
import {
  count,
  DEBUG,
  FAILURE,
  GOOD,
  inMs,
  type Line,
  line,
  printableLine,
  rate,
  tensorList,
  WARNING,
  withoutPaths,
} from "./line.ts";
import { outcomeLine } from "./outcome.ts";
import { CALLER_ROWS, SERVICE_ROWS } from "./service.ts";

type Table = { readonly [E in Entry as E["type"]]: (entry: E) => Line | undefined };

/** Figures only: progress, metrics and the live view read them, people do not. */
const silent = (): undefined => undefined;

const TABLE: Table = {
  ...SERVICE_ROWS,
  device_opened: ({ device: { ordinal, uuid }, name, backend, bytesTotal }) => {
    const human = `${name} opened as device ${ordinal}: ${formatBytes(bytesTotal)}, ${uuid}, backend ${backend}`;
    return line(["worker", "cuda_init", "device"], uuid, human);
  },
  device_lost: ({ device: { ordinal, uuid }, code }) =>
    line(["worker", "device_lost", "lost"], uuid, `device ${ordinal} is lost: ${code}`, {
      ...FAILURE,
      errorKind: code,
    }),
  source_opened: ({ name, format, tensorCount, byteLength }) => {
    const human = `${name} is ${format}: ${count(tensorCount, "tensor")}, ${formatBytes(byteLength)}`;
    return line(["worker", "source_open", "source"], name, human);
  },
  capacity_reserved: ({ name, byteLength, bytesFree }) => {
    const human = `${formatBytes(byteLength)} set aside; ${formatBytes(bytesFree)} stay free`;
    return line(["worker", "reserve", "reserved"], name, human);
  },
  vram_allocated: ({ name, byteLength, device }) => {
    const human = `${formatBytes(byteLength)} of device ${device.ordinal} taken and mapped read-only`;
    return line(["worker", "allocate", "allocated"], name, human);
  },
  vram_allocation_failed: ({ name, bytesNeeded, bytesAvailable, code }) => {
    const why = code === "OUT_OF_VRAM" ? `${bytesAvailable} are available` : ERROR_TABLE[code].meaning;
    const human = `${bytesNeeded} bytes are needed; ${why}`;
    return line(["worker", "allocate_failed", "refused"], name, human, { ...FAILURE, errorKind: code });
  },
  vram_deallocated: ({ name, byteLength, zeroed, reason, because }) => {
    const how = zeroed ? "zeroed and freed" : `freed without zeroing: ${reason ?? "unknown"}`;
    const human = `${formatBytes(byteLength)} ${how} (${because})`;
    return line(["worker", "deallocate", "freed"], name, human, zeroed ? {} : WARNING);
  },
  upload_progressed: silent,
  uploaded: ({ name, byteLength, durationMs, comparedWith }) => {
    const how = comparedWith === "witnessed" ? "digested on the way" : "not hashed on the host";
    const human = `${formatBytes(byteLength)} copied in ${inMs(durationMs)}${rate(byteLength, durationMs)}, ${how}`;
    return line(["worker", "upload", "uploaded"], name, human, { durationMs });
  },
  facts_checked: ({ name, access }) => {
    const human = `the driver says: device memory, not managed, access ${access}`;
    return line(["worker", "facts_check", "facts"], name, human);
  },
  measured: ({ name, digest, bytesCovered, durationMs }) => {
    const human = `VRAM holds fsverity:${digest}, found in ${inMs(durationMs)}${rate(bytesCovered, durationMs)}`;
    return line(["worker", "digest", "measured"], name, human, { durationMs });
  },
  seal_computed: ({ name, shardId, sequence, keyId }) => {
    const human = `the mac of seal ${sequence}, ${shardId}, is computed under key ${keyId}`;
    return line(["worker", "sign", "mac"], name, human, DEBUG);
  },
  vram_sealed: ({ name, shardId, sequence, comparedWith }) => {
    const how = comparedWith === "expected" ? "the digest you gave" : "the digest of the bytes that were read";
    const human = `${name} is sealed as ${shardId}, seal ${sequence}; the measurement equals ${how}`;
    return line(["worker", "seal", "sealed"], name, human, GOOD);
  },
  set_sealed: ({ name, totalShards }) => {
    const human = `${name}: ${count(totalShards, "shard")} sealed as one model`;
    return line(["vram-residency", "seal_set", "set"], name, human, GOOD);
  },
  seal_verified: ({ name, bytesCovered, durationMs }) => {
    const human = `mac, facts and ${formatBytes(bytesCovered)} in VRAM are unchanged`;
    return line(["worker", "verify", "verified"], name, human, { ...GOOD, durationMs });
  },
  seal_verification_failed: ({ name, failure, message, tensors, tensorsTotal }) => {
    const damaged = tensorList(tensors, tensorsTotal);
    const human = `${message}${damaged === "" ? "" : `; the damaged range holds ${damaged}`}`;
    return line(["worker", "verify_failed", "caught"], name, human, { ...FAILURE, errorKind: failure });
  },
  seal_refused: ({ shardId, reason }) =>
    line(["worker", "seal_refused", "refused"], shardId, `the seal was refused: ${reason}`, WARNING),
  policy_violation: ({ device: { uuid }, rule, actual, expected }) => {
    const human = `${rule}: is ${actual}, must be ${expected}`;
    return line(["worker", "policy_violation", "policy"], uuid, human, { ...FAILURE, errorKind: "POLICY_VIOLATION" });
  },
  worker_stopped: ({ device: { ordinal, uuid }, reason }) => {
    const human = `device ${ordinal} seals nothing more until it is resumed: ${reason}`;
    return line(["worker", "worker_stop", "stopped"], uuid, human, FAILURE);
  },
  worker_resumed: ({ device: { ordinal, uuid }, reason }) =>
    line(["worker", "worker_resume", "resumed"], uuid, `device ${ordinal} may seal again: ${reason}`),
  capacity_queried: ({ device: { ordinal, uuid }, capacity: { bytesFree, bytesTotal } }) => {
    const human = `device ${ordinal}: ${formatBytes(bytesFree)} of ${formatBytes(bytesTotal)} are free`;
    return line(["worker", "capacity_query", "capacity"], uuid, human, DEBUG);
  },
  capacity_changed: silent,
  ...CALLER_ROWS,
  request_served: silent,
  operation_ended: outcomeLine,
  epoch_started: ({ because }) =>
    line(["audit", "audit_epoch", "audit"], "audit log", `a new epoch has begun (${because})`, DEBUG),
  heartbeat: () =>
    line(["audit", "audit_heartbeat", "audit"], "audit log", "nothing to record; the log can be written", DEBUG),
  audit_recovered: ({ segment, tornBytes }) => {
    const human = `${count(tornBytes, "byte")} of an unfinished line cut off segment ${segment}`;
    return line(["audit", "audit_recover", "audit"], "audit log", human, WARNING);
  },
  audit_gap: ({ entries, types }) => {
    const human = `entries that could not be recorded: ${entries} (${types.join(", ")})`;
    return line(["audit", "audit_gap", "unrecorded"], "audit log", human, {
      ...FAILURE,
      errorKind: "AUDIT_UNAVAILABLE",
    });
  },
  audit_pruned: ({ prunedEntries, lastSegment }) => {
    const human = `segments up to ${lastSegment} are removed; ${prunedEntries} entries are gone in all`;
    return line(["audit", "audit_prune", "audit"], "audit log", human);
  },
  audit_committed: silent,
  audit_failed: ({ message, final }) => {
    const human = `${withoutPaths(message)}${final ? "; nothing more is recorded by this process" : ""}`;
    return line(["audit", "audit_failed", "unrecorded"], "audit log", human, {
      ...FAILURE,
      errorKind: "AUDIT_UNAVAILABLE",
    });
  },
  release_failed: ({ what, message }) => {
    const human = `${what} could not be released: ${withoutPaths(message)}`;
    return line(["vram-residency", "release_failed", "leaked"], what, human, FAILURE);
  },
  entry_unrecorded: ({ lost, message }) => {
    const human = `${lost} could not be recorded: ${withoutPaths(message)}`;
    return line(["audit", "entry_lost", "unrecorded"], lost, human, { ...FAILURE, errorKind: "AUDIT_UNAVAILABLE" });
  },
};

/** The line for an entry, every text in it printable; undefined for entries that are figures only. */
export function lineFor(entry: Entry): Line | undefined {
  // The table has a row for each type; TypeScript cannot follow the pairing through the lookup.
  const told = (TABLE[entry.type] as (one: Entry) => Line | undefined)(entry);
  return told === undefined ? undefined : printableLine(told);
}
