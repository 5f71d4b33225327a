/**
 * What a system's start and end look like on record, and the audit log behind its journal: with a state directory there
 * is one, unless it was asked to be off. It is attached before any device is opened, so that a device that breaks the
 * policy is on record although nothing started.
 */
import { type AuditLog, openAuditLog } from "./audit/audit-log.ts";
import type { OpenFile } from "./audit/durable.ts";
import { fromHex, toHex } from "./bytes.ts";
import type { Clock } from "./clock.ts";
import type { UndoStack } from "./dispose.ts";
import { systemReason, toVramError, VramError } from "./errors.ts";
import { sha256 } from "./hash/descriptor.ts";
import type { DurableBody } from "./journal/entry.ts";
import type { Journal } from "./journal/journal.ts";
import { LIMITS } from "./limits.ts";
import type { System, Worker } from "./residency/worker.ts";
import { VERSION } from "./version.ts";

/** How the audit log is kept. */
export interface AuditOptions {
  /**
   * `required` (default): nothing is sealed or resumed that is not on record. `best-effort`: what cannot be recorded
   * happens all the same. `off`: no log.
   */
  readonly mode?: "required" | "best-effort" | "off";
  /** Days for which lines are kept; default 365. Whole segments are pruned. */
  readonly retentionDays?: number;
  /** Bytes of the log at which nothing new is sealed; default 8 GiB. */
  readonly maxBytes?: number;
}

/** Where the audit log belongs. */
export interface RecordingPlace {
  readonly stateDir: string | undefined;
  readonly audit: AuditOptions | undefined;
  readonly clock: Clock;
  readonly instanceId: string;
  readonly openFile?: OpenFile;
}

/** What keeps the log from being opened: a refusal of the system is none of this program's. */
function openFailure(stateDir: string, thrown: unknown): unknown {
  const reason = systemReason(thrown);
  if (reason === undefined) return thrown;
  return new VramError("AUDIT_UNAVAILABLE", `${stateDir}: the audit log cannot be opened: ${reason}`, {
    cause: thrown,
  });
}

/** Opens the audit log and attaches it; `undo` closes it. Undefined where there is none. */
export async function attachAuditLog(
  journal: Journal,
  place: RecordingPlace,
  undo: UndoStack,
): Promise<AuditLog | undefined> {
  const { stateDir, audit, clock, instanceId, openFile } = place;
  const mode = audit?.mode ?? "required";
  if (stateDir === undefined || mode === "off") return undefined;
  const log = await openAuditLog({
    stateDir,
    clock,
    boot: fromHex(instanceId, 16, "instanceId"),
    mode,
    note: (body) => journal.note(body),
    retentionDays: audit?.retentionDays ?? LIMITS.auditRetentionDays,
    maxBytes: audit?.maxBytes ?? LIMITS.auditBytes,
    ...(openFile === undefined ? {} : { openFile }),
  }).catch((thrown: unknown) => {
    throw openFailure(stateDir, thrown);
  });
  const detach = journal.attach(log.reader);
  undo.defer("audit log", async () => {
    detach();
    await log.close();
  });
  return log;
}

/** What is on record of the start of a service, beside that of a system. */
export type ServiceStart = Pick<
  Extract<DurableBody, { type: "service_started" }>,
  "configDigest" | "lost" | "lostTotal" | "orphans" | "orphansTotal" | "statementKeyId"
>;

/** Puts the start on record: what runs, on which devices, under which keys and policy. */
export async function recordStart(
  system: System,
  workers: readonly Worker[],
  kernelImage: Uint8Array,
  service: ServiceStart = {},
): Promise<void> {
  const { backend } = workers[0]?.device.info ?? {};
  await system.journal.append({
    type: "service_started",
    backend: backend ?? "none",
    version: VERSION,
    instanceId: system.instanceId,
    policyDigest: system.policyDigest,
    ...(backend === "emulated" ? {} : { kernel: toHex(sha256(kernelImage)) }),
    devices: workers.map(({ ref, keys, stopped }) => ({
      ...ref,
      keyId: toHex(keys.keyId),
      stopped: stopped !== undefined,
    })),
    ...service,
  });
}

/** Puts the end on record: closed, or failed while it was opened. */
export async function recordEnd(
  journal: Journal,
  failure?: unknown,
  because: "closed" | "interrupted" = "closed",
): Promise<void> {
  await journal.appendAnyway(
    failure === undefined
      ? { type: "service_stopped", because }
      : { type: "service_stopped", because: "failed", code: toVramError(failure).code },
  );
}
