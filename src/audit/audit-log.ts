/**
 * The audit log as a reader of the journal (design §6, VR-AUD-03). Entries that wait together are written together. What
 * an operation waits for is refused when it cannot be written, and the operation with it; what must proceed anyway
 * (evict, stop, verify) is queued, up to a bound, and what did not fit is told by `audit_gap`. A full disk is tried again;
 * an fsync that failed ends the log for this process.
 */
import { within } from "../clock.ts";
import { toVramError, type VramError } from "../errors.ts";
import type { Entry, LogBody } from "../journal/entry.ts";
import type { JournalReader } from "../journal/journal.ts";
import { LIMITS } from "../limits.ts";
import { boundedData } from "./data.ts";
import { auditUnavailable } from "./durable.ts";
import { type Draft, type LogWriter, wallMs } from "./log-writer.ts";
import { encodeVkey, noteKeyOf } from "./note.ts";
import { type AuditLogOptions, type OpenedLog, openWriter } from "./open-writer.ts";
import { settleTorn } from "./recover.ts";
import { createRefusals } from "./refusals.ts";
import { findExpired } from "./retention.ts";

export interface AuditLog {
  readonly reader: JournalReader;
  /** The log's public key, `NAME+HASH+KEY`: what an auditor is given. */
  readonly vkey: string;
  /** Writes what is queued and a last log checkpoint. May be called twice. */
  close(): Promise<void>;
}

/** An entry on its way to the disk. */
interface Waiting {
  readonly draft: Draft;
  readonly gates: boolean;
  readonly resolve: () => void;
  readonly reject: (error: VramError) => void;
}

/** What the journal stamps on entries, and the line has fields of its own for. */
const STAMPED: ReadonlySet<string> = new Set(["seq", "timeMs", "durability", "gates", "workerId"]);

/** A draft from an entry. The worker is named only where no device is. */
function draftOf(entry: Entry): Draft {
  const body = Object.fromEntries(Object.entries(entry).filter(([key]) => !STAMPED.has(key)));
  const worker = "device" in entry || entry.workerId === undefined ? {} : { workerId: entry.workerId };
  const timeMs = Math.max(0, Math.floor(entry.timeMs));
  return {
    type: entry.type,
    timeMs: Number.isSafeInteger(timeMs) ? timeMs : 0,
    data: boundedData({ ...body, ...worker }),
  };
}

/** Opens the log of a state, making it where there is none, and mends what a crash left. */
export async function openAuditLog(options: AuditLogOptions): Promise<AuditLog> {
  const opened = await openWriter(options);
  const log = new OpenAuditLog(options, opened);
  try {
    await log.begin();
  } catch (error) {
    await log.close();
    throw error;
  }
  return log;
}

class OpenAuditLog implements AuditLog {
  readonly reader: JournalReader;
  readonly vkey: string;
  readonly #options: AuditLogOptions;
  readonly #opened: OpenedLog;
  readonly #writer: LogWriter;
  readonly #refusals = createRefusals(() => performance.now());
  #queue: Waiting[] = [];
  /** Types of entries that did not fit into the queue. */
  #dropped: string[] = [];
  #pumping: Promise<void> | undefined;
  #ended: VramError | undefined;
  #isBlocked = false;
  #closing: Promise<void> | undefined;
  readonly #timers: { sign?: NodeJS.Timeout; beat?: NodeJS.Timeout; retry?: NodeJS.Timeout; prune?: NodeJS.Timeout } =
    {};

  constructor(options: AuditLogOptions, opened: OpenedLog) {
    this.#options = options;
    this.#opened = opened;
    this.#writer = opened.writer;
    this.vkey = encodeVkey(noteKeyOf(opened.signer));
    this.reader = { required: options.mode === "required", accept: (entry) => this.#accept(entry) };
  }

  /** Puts on record what recovery set aside, and prunes what is too old. */
  async begin(): Promise<void> {
    for (const torn of this.#opened.torn) {
      await this.#own({ type: "audit_recovered", segment: torn.segment, tornBytes: torn.byteLength });
      await settleTorn(this.#opened.folder, torn);
    }
    await this.#prune();
    this.#timers.beat = setInterval(() => this.#beat(), LIMITS.auditHeartbeatMs).unref();
    this.#timers.prune = setInterval(() => void this.#prune().catch(() => undefined), DAY_MS).unref();
  }

  #accept(entry: Entry): Promise<void> | undefined {
    if (entry.durability !== "durable") return undefined;
    if (this.#closing !== undefined) throw auditUnavailable("the audit log is closed", true);
    if (this.#ended !== undefined) throw this.#ended;
    const draft = draftOf(entry);
    if (!this.#refusals.take(draft)) return undefined;
    return this.#enqueue(draft, entry.gates);
  }

  /** Resolves when the entry is on disk. */
  #enqueue(draft: Draft, gates: boolean): Promise<void> {
    const refusal = this.#refusalOf(gates);
    if (refusal !== undefined) {
      if (!gates) this.#dropped.push(draft.type);
      throw refusal;
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ draft, gates, resolve, reject });
      this.#wake();
    });
  }

  /** Why there is no room for another entry. */
  #refusalOf(gates: boolean): VramError | undefined {
    const { maxBytes } = this.#options;
    const bytes = this.#opened.bytes + this.#writer.bytesWritten;
    if (bytes >= (gates ? maxBytes - Math.min(LIMITS.auditReservedBytes, maxBytes / 2) : maxBytes)) {
      return auditUnavailable(`the audit log has reached its limit of ${maxBytes} bytes`, false);
    }
    const room = gates ? LIMITS.auditQueueEntries : LIMITS.auditQueueAnyway;
    return this.#queue.length < room ? undefined : auditUnavailable("too many entries wait for the disk", false);
  }

  #wake(): void {
    this.#pumping ??= this.#pump().finally(() => {
      this.#pumping = undefined;
    });
  }

  async #pump(): Promise<void> {
    while (this.#queue.length > 0 && this.#ended === undefined) {
      const segment = this.#writer.segment;
      try {
        await this.#commit();
      } catch (thrown) {
        if (await this.#isStuck(toVramError(thrown))) return;
      }
      if (segment !== this.#writer.segment) setImmediate(() => void this.#prune().catch(() => undefined));
    }
  }

  async #commit(): Promise<void> {
    const startMs = performance.now();
    const batch = this.#queue.slice(0, LIMITS.auditQueueEntries).map(({ draft }) => draft);
    const { drafts, byteLength } = await this.#opened.turn.run(() => this.#writer.commit(batch));
    for (const { resolve } of this.#queue.splice(0, drafts)) resolve();
    const durationMs = performance.now() - startMs;
    this.#options.note({
      type: "audit_committed",
      entries: drafts,
      byteLength,
      durationMs,
      waiting: this.#queue.length,
    });
    this.#timers.beat?.refresh();
    this.#timers.sign ??= setTimeout(() => void this.#sign(), LIMITS.auditCheckpointMs).unref();
    if (this.#isBlocked) await this.#unblock();
    this.#tellGap();
  }

  /** What to do about entries that could not be written: whether to stop trying for now. */
  async #isStuck(error: VramError): Promise<boolean> {
    if (error.code === "INVALID_ARGUMENT") {
      this.#queue.shift()?.reject(error);
      return false;
    }
    if (error.details["final"] !== false) {
      this.#end(error);
      return true;
    }
    const waiting = this.#queue;
    this.#queue = waiting.filter(({ gates }) => !gates);
    for (const { gates, reject } of waiting) if (gates) reject(error);
    if (this.#queue.length > 0 && (await this.#opened.giveUpReserve())) return false;
    // They stay in the queue; whoever waits for them is told that they are not on disk.
    for (const { reject } of this.#queue) reject(auditUnavailable("queued until there is room", false, error));
    if (!this.#isBlocked) this.#options.note({ type: "audit_failed", message: error.message, final: false });
    this.#isBlocked = true;
    clearTimeout(this.#timers.retry);
    if (this.#queue.length > 0) this.#timers.retry = setTimeout(() => this.#wake(), LIMITS.auditRetryMs).unref();
    return true;
  }

  async #unblock(): Promise<void> {
    this.#isBlocked = false;
    await this.#opened.makeReserve();
  }

  /** Nothing is written any more by this process. */
  #end(error: VramError): void {
    this.#ended = error;
    for (const { reject } of this.#queue.splice(0)) reject(error);
    this.#options.note({ type: "audit_failed", message: error.message, final: true });
  }

  /** Entries that were dropped are told of as soon as anything can be written again. */
  #tellGap(): void {
    const lost = this.#dropped.splice(0);
    if (lost.length === 0) return;
    const types = [...new Set(lost)].slice(0, LIMITS.entryRanges);
    void this.#own({ type: "audit_gap", entries: lost.length, types }).catch(() => this.#dropped.push(...lost));
  }

  /** An entry of the log's own; the journal hears of it once it is on disk. */
  async #own(body: LogBody): Promise<void> {
    const timeMs = wallMs(this.#options.clock);
    await this.#enqueue({ type: body.type, timeMs, data: boundedData({ ...body }) }, false);
    this.#options.note(body);
  }

  #beat(): void {
    for (const draft of this.#refusals.settle(false)) void this.#enqueue(draft, false).catch(() => undefined);
    if (this.#queue.length === 0) void this.#own({ type: "heartbeat" }).catch(() => undefined);
  }

  async #sign(): Promise<void> {
    clearTimeout(this.#timers.sign);
    delete this.#timers.sign;
    if (this.#ended !== undefined) return;
    try {
      await this.#opened.turn.run(() => this.#writer.sign());
    } catch (thrown) {
      const error = toVramError(thrown);
      if (error.details["final"] !== false) this.#end(error);
      else this.#options.note({ type: "audit_failed", message: error.message, final: false });
    }
  }

  async #prune(): Promise<void> {
    const { folder, turn } = this.#opened;
    const beforeMs = wallMs(this.#options.clock) - this.#options.retentionDays * DAY_MS;
    const { segments, prunedEntries, byteLength } = await findExpired(folder, this.#writer.segment, beforeMs);
    const lastSegment = segments.at(-1);
    if (lastSegment === undefined) return;
    await this.#own({ type: "audit_pruned", prunedEntries, lastSegment });
    for (const segment of segments) await turn.run(() => this.#writer.removeLines(segment));
    this.#opened.bytes -= byteLength;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    for (const draft of this.#ended === undefined ? this.#refusals.settle(true) : []) {
      void this.#enqueue(draft, false).catch(() => undefined);
    }
    const drain = async (): Promise<void> => {
      await this.#pumping;
      await this.#sign();
      await this.#opened.turn.run(() => this.#writer.close());
    };
    // A disk that does not answer must not hold the process.
    await within(LIMITS.journalWaitMs, drain()).catch((thrown: unknown) => {
      this.#options.note({ type: "audit_failed", message: toVramError(thrown).message, final: true });
    });
  }
}

const DAY_MS = 24 * 3600 * 1000;
