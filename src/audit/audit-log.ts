/**
 * The audit log as a reader of the journal (design §6, VR-AUD-03). Entries that wait together are written together. What
 * an operation waits for is refused when it cannot be written, and the operation with it; what must proceed anyway
 * (evict, stop, verify) is queued, up to a bound, and what did not fit is told by `audit_gap`. A full disk is tried again;
 * an fsync that failed ends the log for this process.
 */
import { within } from "../clock.ts";
import { toVramError, VramError } from "../errors.ts";
import type { Entry, LogBody } from "../journal/entry.ts";
import type { JournalReader } from "../journal/journal.ts";
import { onNobodysBehalf } from "../journal/scope.ts";
import { LIMITS } from "../limits.ts";
import { boundedData, draftOf } from "./data.ts";
import { auditUnavailable, isFinal } from "./durable.ts";
import { type Draft, type LogWriter, wallMs } from "./log-writer.ts";
import { encodeVkey, noteKeyOf } from "./note.ts";
import { type AuditLogOptions, type OpenedLog, openWriter } from "./open-writer.ts";
import { type EntryKind, EntryQueue } from "./queue.ts";
import { createMissed, createRefusals } from "./refusals.ts";
import { createPruner, DAY_MS } from "./retention.ts";
import { settleTorn } from "./torn.ts";

export interface AuditLog {
  readonly reader: JournalReader;
  /** The log's public key, `NAME+HASH+KEY`: what an auditor is given. */
  readonly vkey: string;
  /** Writes a log checkpoint over everything that is on disk; `AUDIT_UNAVAILABLE` if it cannot. */
  checkpoint(): Promise<void>;
  /** Writes what is queued and a last log checkpoint. May be called twice. */
  close(): Promise<void>;
}

/** Opens the log of a state, making it where there is none, and mends what a crash left. */
export async function openAuditLog(options: AuditLogOptions): Promise<AuditLog> {
  // Its timers and writes serve everyone.
  return onNobodysBehalf(async () => {
    const log = new OpenAuditLog(options, await openWriter(options));
    try {
      await within(LIMITS.journalWaitMs, log.begin());
      return log;
    } catch (error) {
      await log.close();
      throw error instanceof VramError ? error : auditUnavailable("the audit log could not be begun", true, error);
    }
  });
}

class OpenAuditLog implements AuditLog {
  readonly reader: JournalReader;
  readonly vkey: string;
  readonly #options: AuditLogOptions;
  readonly #opened: OpenedLog;
  readonly #writer: LogWriter;
  readonly #refusals = createRefusals(() => performance.now());
  readonly #queue: EntryQueue;
  readonly #pruner: () => Promise<number>;
  /** Entries that had to proceed and found no place. */
  readonly #missed = createMissed();
  #pumping: Promise<void> | undefined;
  #ended: VramError | undefined;
  /** Since the disk was found full: what gates waits until there is room again for the reserve. */
  #isBlocked = false;
  #closing: Promise<void> | undefined;
  readonly #timers: Partial<Record<"sign" | "beat" | "retry" | "prune", NodeJS.Timeout>> = {};

  constructor(options: AuditLogOptions, opened: OpenedLog) {
    this.#options = options;
    this.#opened = opened;
    this.#writer = opened.writer;
    this.#queue = new EntryQueue(options.maxBytes, () => opened.bytes + opened.writer.bytesWritten);
    this.#pruner = createPruner({
      folder: opened.folder,
      current: () => opened.writer.segment,
      oldestMs: () => wallMs(options.clock) - options.retentionDays * DAY_MS,
      record: (told) => this.#own({ type: "audit_pruned", ...told }, "makesRoom"),
      remove: (segment) => opened.turn.run(() => opened.writer.removeLines(segment)),
      onFailure: (thrown) => this.#noteFailure(toVramError(thrown), toVramError(thrown).details["final"] === true),
    });
    this.vkey = encodeVkey(noteKeyOf(opened.signer));
    const accept: JournalReader["accept"] = (entry, withdrawn) => this.#accept(entry, withdrawn);
    this.reader = { required: options.mode === "required", accept };
  }

  /** Puts on record what recovery set aside, and prunes what is too old. */
  async begin(): Promise<void> {
    for (const torn of this.#opened.torn) {
      await this.#own({ type: "audit_recovered", segment: torn.segment, tornBytes: torn.byteLength }, "anyway");
      await settleTorn(this.#opened.folder, torn);
    }
    await this.#prune();
    this.#timers.beat = setInterval(() => this.#beat(), LIMITS.auditHeartbeatMs).unref();
    this.#timers.prune = setInterval(() => void this.#prune(), DAY_MS).unref();
  }

  #accept(entry: Entry, withdrawn?: AbortSignal): Promise<void> | undefined {
    if (entry.durability !== "durable") return undefined;
    if (this.#closing !== undefined) throw auditUnavailable("the audit log is closed", true);
    if (this.#ended !== undefined) throw this.#ended;
    this.#tellRefusals(false);
    const draft = draftOf(entry);
    if (!this.#refusals.take(draft)) return undefined;
    if (!entry.gates) return this.#offer(draft);
    withdrawn?.addEventListener("abort", () => this.#queue.withdraw(draft), { once: true });
    return this.#enqueue(draft, "gates");
  }

  /** An entry of what proceeds anyway. One that finds no place is counted. */
  #offer(draft: Draft): Promise<void> {
    if (this.#refusalOf("anyway") !== undefined) this.#missed.add(draft.type);
    return this.#enqueue(draft, "anyway");
  }

  /** Resolves when the entry is on disk. */
  async #enqueue(draft: Draft, kind: EntryKind): Promise<void> {
    const refusal = this.#refusalOf(kind);
    if (refusal !== undefined) throw refusal;
    const written = this.#queue.add(draft, kind);
    this.#wake();
    return written;
  }

  #refusalOf(kind: EntryKind): VramError | undefined {
    return this.#ended ?? this.#queue.refusalOf(kind);
  }

  #wake(): void {
    if (this.#queue.length > 0 && this.#ended === undefined) {
      this.#pumping ??= onNobodysBehalf(() => this.#pump());
    }
  }

  /** Writes until nothing waits. That it has ended is noted in the same turn, so that no entry waits for nobody. */
  async #pump(): Promise<void> {
    try {
      while (this.#queue.length > 0 && this.#ended === undefined) {
        const segment = this.#writer.segment;
        try {
          await (this.#isBlocked ? this.#commitBlocked() : this.#commit(this.#queue.length));
        } catch (thrown) {
          if (await this.#isStuck(toVramError(thrown))) return;
        }
        if (segment !== this.#writer.segment) setImmediate(() => void this.#prune());
      }
    } finally {
      this.#pumping = undefined;
    }
  }

  /** Writes of the first `count` entries that wait as many as go into one write. */
  async #commit(count: number): Promise<void> {
    const startMs = performance.now();
    const { drafts, byteLength } = await this.#opened.turn.run(async () => {
      let written = 0;
      try {
        const committed = await this.#writer.commit(this.#queue.begin(count));
        written = committed.drafts;
        return committed;
      } finally {
        this.#queue.end(written);
      }
    });
    const durationMs = performance.now() - startMs;
    this.#options.note({
      type: "audit_committed",
      entries: drafts,
      byteLength,
      durationMs,
      waiting: this.#queue.length,
    });
    if (this.#closing === undefined) {
      this.#timers.beat?.refresh();
      this.#timers.sign ??= setTimeout(() => void this.#sign(), LIMITS.auditCheckpointMs).unref();
    }
    this.#tellGap();
  }

  /** On a disk that was full: first what must proceed, and what gates only once the reserve is there again. */
  async #commitBlocked(): Promise<void> {
    const anyway = this.#queue.anywayFirst();
    if (anyway > 0) {
      await this.#commit(anyway);
      return;
    }
    if (await this.#opened.makeReserve()) this.#isBlocked = false;
    else this.#queue.rejectGates(auditUnavailable("the disk of the audit log is full", false));
  }

  /** What to do about entries that could not be written: whether to stop trying for now. */
  async #isStuck(error: VramError): Promise<boolean> {
    if (error.code === "INVALID_ARGUMENT") {
      this.#queue.rejectFirst(error);
      return false;
    }
    if (isFinal(error)) {
      this.#end(error);
      return true;
    }
    this.#queue.rejectGates(error);
    if (!this.#isBlocked) this.#options.note({ type: "audit_failed", message: error.message, final: false });
    this.#isBlocked = true;
    if (this.#queue.length === 0 || (await this.#opened.giveUpReserve())) return false;
    // They stay in the queue; whoever waits for them is told that they are not on disk.
    this.#queue.tellAll(auditUnavailable("queued until there is room", false, error));
    clearTimeout(this.#timers.retry);
    if (this.#closing === undefined) {
      this.#timers.retry = setTimeout(() => this.#wake(), LIMITS.auditRetryMs).unref();
    }
    return true;
  }

  /** Nothing is written any more by this process. */
  #end(cause: VramError): void {
    if (this.#ended !== undefined) return;
    const error = cause.code === "AUDIT_UNAVAILABLE" ? cause : auditUnavailable("the audit log has ended", true, cause);
    this.#ended = error;
    this.#queue.rejectAll(error);
    this.#options.note({ type: "audit_failed", message: error.message, final: true });
  }

  /** Something of the log's own went wrong, and nobody waits for it. */
  #noteFailure(error: VramError, ends: boolean): void {
    if (ends) this.#end(error);
    else this.#options.note({ type: "audit_failed", message: error.message, final: false });
  }

  /** Entries that found no place are told of as soon as anything can be written again. */
  #tellGap(): void {
    if (this.#refusalOf("anyway") !== undefined) return;
    const missed = this.#missed.take();
    // In the queue it is told, sooner or later.
    if (missed !== undefined) void this.#own({ type: "audit_gap", ...missed }, "anyway").catch(() => undefined);
  }

  /** Refused requests that were counted only: the sums of minutes that are over, or all. */
  #tellRefusals(all: boolean): void {
    for (const draft of this.#refusals.settle(all)) void this.#offer(draft).catch(() => undefined);
  }

  /** An entry of the log's own; the journal hears of it once it is on disk. */
  async #own(body: LogBody, kind: EntryKind): Promise<void> {
    const timeMs = wallMs(this.#options.clock);
    await this.#enqueue({ type: body.type, timeMs, data: boundedData({ ...body }) }, kind);
    this.#options.note(body);
  }

  #beat(): void {
    this.#tellRefusals(false);
    // Not into what is reserved: nobody is lost without it.
    if (this.#queue.length > 0 || this.#refusalOf("gates") !== undefined) return;
    void this.#own({ type: "heartbeat" }, "anyway").catch(() => undefined);
  }

  async #sign(): Promise<void> {
    clearTimeout(this.#timers.sign);
    delete this.#timers.sign;
    if (this.#ended !== undefined) return;
    // Told of where it failed.
    await this.#signNow().catch(() => undefined);
  }

  async #signNow(): Promise<void> {
    try {
      await this.#opened.turn.run(() => this.#writer.sign());
    } catch (thrown) {
      this.#noteFailure(toVramError(thrown), isFinal(thrown));
      throw auditUnavailable("no log checkpoint could be written", false, thrown);
    }
  }

  async checkpoint(): Promise<void> {
    if (this.#ended !== undefined) throw this.#ended;
    await within(LIMITS.journalWaitMs, this.#signNow());
  }

  async #prune(): Promise<void> {
    if (this.#ended === undefined) this.#opened.bytes -= await this.#pruner();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#tellRefusals(true);
    const drain = async (): Promise<void> => {
      this.#wake();
      await this.#pumping;
      await this.#sign();
      await this.#opened.turn.run(() => this.#writer.close());
    };
    // A disk that does not answer must not hold the process.
    await within(LIMITS.journalWaitMs, drain()).catch((thrown: unknown) => {
      this.#options.note({ type: "audit_failed", message: toVramError(thrown).message, final: true });
    });
    this.#ended ??= auditUnavailable("the audit log is closed", true);
    this.#queue.rejectAll(this.#ended);
  }
}
