/**
 * Entries on their way to the disk, and who may still join them. What an operation waits for stays out of the end of the
 * log and of the queue, which are kept for what must proceed anyway; what makes room may go beyond the limit.
 */
import type { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { auditUnavailable } from "./durable.ts";
import type { Draft } from "./log-writer.ts";

/** What an entry may use: not the reserve, the reserve too, or more than the limit, because it makes room. */
export type EntryKind = "gates" | "anyway" | "makesRoom";

interface Waiting {
  readonly draft: Draft;
  readonly kind: EntryKind;
  readonly resolve: () => void;
  readonly reject: (error: VramError) => void;
}

export class EntryQueue {
  readonly #maxBytes: number;
  readonly #usedBytes: () => number;
  #waiting: Waiting[] = [];
  /** How many of them, from the first on, are being written. */
  #writing = 0;

  /** `usedBytes`: lines and leaf hashes so far. */
  constructor(maxBytes: number, usedBytes: () => number) {
    this.#maxBytes = maxBytes;
    this.#usedBytes = usedBytes;
  }

  get length(): number {
    return this.#waiting.length;
  }

  /** Why there is no room for another entry. */
  refusalOf(kind: EntryKind): VramError | undefined {
    const reserved = Math.min(LIMITS.auditReservedBytes, this.#maxBytes / 2);
    const limits = { gates: this.#maxBytes - reserved, anyway: this.#maxBytes, makesRoom: Number.POSITIVE_INFINITY };
    if (this.#usedBytes() >= limits[kind]) {
      return auditUnavailable(`the audit log has reached its limit of ${this.#maxBytes} bytes`, false);
    }
    const room = kind === "gates" ? LIMITS.auditQueueEntries : LIMITS.auditQueueAnyway;
    return this.#waiting.length < room ? undefined : auditUnavailable("too many entries wait for the disk", false);
  }

  /** Resolves when the entry is on disk. */
  add(draft: Draft, kind: EntryKind): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ draft, kind, resolve, reject });
    });
  }

  /** The first `count` drafts, which are being written from now on. */
  begin(count: number): Draft[] {
    const batch = this.#waiting.slice(0, Math.min(count, LIMITS.auditQueueEntries));
    this.#writing = batch.length;
    return batch.map(({ draft }) => draft);
  }

  /** The first `written` of them are on disk; the others are not being written any more. */
  end(written: number): void {
    this.#writing = 0;
    for (const { resolve } of this.#waiting.splice(0, written)) resolve();
  }

  /** Takes an entry back whose operation was refused meanwhile, unless it is being written. */
  withdraw(draft: Draft): void {
    const at = this.#waiting.findIndex((waiting) => waiting.draft === draft);
    if (at < this.#writing) return;
    for (const { reject } of this.#waiting.splice(at, 1)) reject(auditUnavailable("it took too long", false));
  }

  /** Moves what must proceed to the front, and says how much that is. */
  anywayFirst(): number {
    const anyway = this.#waiting.filter(({ kind }) => kind !== "gates");
    this.#waiting = [...anyway, ...this.#waiting.filter(({ kind }) => kind === "gates")];
    return anyway.length;
  }

  rejectFirst(error: VramError): void {
    this.#waiting.shift()?.reject(error);
  }

  rejectGates(error: VramError): void {
    const all = this.#waiting;
    this.#waiting = all.filter(({ kind }) => kind !== "gates");
    for (const { kind, reject } of all) if (kind === "gates") reject(error);
  }

  /** Tells whoever waits that his entry is not on disk; it stays in the queue. */
  tellAll(error: VramError): void {
    for (const { reject } of this.#waiting) reject(error);
  }

  rejectAll(error: VramError): void {
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}
