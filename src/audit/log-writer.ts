/**
 * Makes lines of entries and puts them on disk, one batch at a time (`durable.ts` has the order). Knows epochs and
 * segments; knows nothing of who waits for what, which is `audit-log.ts`. Nothing here runs twice at once.
 */
import type { KeyObject } from "node:crypto";
import type { Clock } from "../clock.ts";
import { toVramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { signCheckpoint } from "./checkpoint.ts";
import { auditUnavailable, isFinal, isFull, type LogFiles } from "./durable.ts";
import { type EpochCause, type EpochKey, macKeyOf, nextEpochKey, whyAdvance, wipeEpochKey } from "./epochs.ts";
import { replaceEpochKey } from "./key-files.ts";
import { encodeLine, type LineData } from "./line.ts";
import type { NoteSigner } from "./note.ts";
import { applyLine, beginSegment, type LogPosition } from "./position.ts";
import { leafHash, NODE_BYTES } from "./tree.ts";

/** What a line will say. */
export interface Draft {
  readonly type: string;
  readonly timeMs: number;
  readonly data: LineData;
}

/** What one commit put on disk. */
export interface Committed {
  /** Drafts, from the first one on. */
  readonly drafts: number;
  readonly byteLength: number;
}

export interface LogWriter {
  /** Entries on disk. */
  readonly size: number;
  /** Entries that the newest log checkpoint covers. */
  readonly signedSize: number;
  /** Bytes of lines and leaf hashes written so far. */
  readonly bytesWritten: number;
  readonly segment: number;
  /** Puts the first of `drafts` on disk: as many as one batch, one epoch and one segment take, at least one. */
  commit(drafts: readonly Draft[]): Promise<Committed>;
  /** Writes a log checkpoint over everything on disk, unless there is one. */
  sign(): Promise<void>;
  /** Removes the lines of a closed segment, which an `audit_pruned` on disk has told of. */
  removeLines(segment: number): Promise<void>;
  close(): Promise<void>;
}

export interface LogWriterOptions {
  readonly stateDir: string;
  readonly files: LogFiles;
  readonly position: LogPosition;
  /** K of the epoch of the last line. Taken over: it is wiped. */
  readonly epochKey: EpochKey;
  readonly signer: NoteSigner;
  readonly clock: Clock;
  /** 16 bytes: this start of the program. */
  readonly boot: Uint8Array;
  /** Size of the newest log checkpoint, and of the last one that was kept of a closed epoch. */
  readonly signedSize: number;
  readonly keptSize: number;
  /** Bytes of lines in one segment; no less than two lines. */
  readonly segmentBytes: number;
  /** Told of each epoch that has begun. */
  readonly onEpoch?: (because: EpochCause) => void;
}

interface Encoded {
  readonly line: Uint8Array;
  readonly leaf: Uint8Array;
}

/** A writer behind `position`. The first commit begins a new epoch. */
export function createLogWriter(options: LogWriterOptions): LogWriter {
  return new OpenLogWriter(options);
}

class OpenLogWriter implements LogWriter {
  readonly #options: LogWriterOptions;
  readonly #files: LogFiles;
  readonly #position: LogPosition;
  #key: EpochKey;
  #macKey: KeyObject;
  #epochBeganMs = 0;
  #isFirstOfStart = true;
  /** Whether the file of the key still has the one before: the disk was full when it was to be replaced. */
  #owesKey = false;
  /** The error after which nothing is written any more, whoever comes next. */
  #ended: Error | undefined;
  #keptSize: number;
  signedSize: number;
  bytesWritten = 0;

  constructor(options: LogWriterOptions) {
    this.#options = options;
    this.#files = options.files;
    this.#position = options.position;
    this.#key = options.epochKey;
    this.#macKey = macKeyOf(options.epochKey);
    this.#keptSize = options.keptSize;
    this.signedSize = options.signedSize;
  }

  get size(): number {
    return this.#position.tree.size;
  }

  get segment(): number {
    return this.#files.segment;
  }

  commit(drafts: readonly Draft[]): Promise<Committed> {
    return this.#unlessEnded(async () => {
      await this.#payKey();
      await this.#advanceIfDue();
      const left = LIMITS.auditEpochEntries - this.#position.epochEntries;
      const room = Math.min(LIMITS.auditBatchBytes, this.#options.segmentBytes - this.#files.segmentBytes);
      const { epoch } = this.#position;
      return this.#store(this.#encode(drafts.slice(0, left), epoch, this.#macKey, room), epoch);
    });
  }

  async #unlessEnded<T>(task: () => Promise<T>): Promise<T> {
    if (this.#ended !== undefined) throw this.#ended;
    try {
      return await task();
    } catch (error) {
      if (isFinal(error)) this.#ended = toVramError(error);
      throw error;
    }
  }

  /** The lines of `drafts`, chained behind the position, as many as there is room for; at least one. */
  #encode(drafts: readonly Draft[], epoch: number, macKey: KeyObject, room: number): Encoded[] {
    const { boot } = this.#options;
    const encoded: Encoded[] = [];
    let { prev } = this.#position;
    let bytes = 0;
    for (const { type, timeMs, data } of drafts) {
      if (encoded.length > 0 && bytes + LIMITS.auditLineBytes > room) break;
      let line: Uint8Array;
      try {
        line = encodeLine({ seq: this.size + encoded.length, timeMs, boot, epoch, type, data, prev }, macKey);
      } catch (error) {
        // What has no line is refused on its own, not with the entries before it.
        if (encoded.length > 0) break;
        throw error;
      }
      prev = leafHash(line.subarray(0, -1));
      bytes += line.byteLength;
      encoded.push({ line, leaf: prev });
    }
    return encoded;
  }

  /** Lines, fdatasync, leaf hashes: the only way anything gets into the log. */
  async #store(encoded: readonly Encoded[], epoch: number): Promise<Committed> {
    const bytes = Buffer.concat(encoded.map(({ line }) => line));
    await this.#files.appendLines(bytes);
    for (const { leaf } of encoded) applyLine(this.#position, leaf, epoch);
    this.bytesWritten += bytes.byteLength + encoded.length * NODE_BYTES;
    // The lines are on disk, and leaf hashes follow from them: a full disk takes them later.
    await this.#files.appendLeaves(encoded.map(({ leaf }) => leaf)).catch(throwFinal);
    return { drafts: encoded.length, byteLength: bytes.byteLength };
  }

  async #advanceIfDue(): Promise<void> {
    const because = whyAdvance({
      isFirstOfStart: this.#isFirstOfStart,
      beginsSegment: this.#position.segmentEntries === 0 || this.#isSegmentFull(),
      ageMs: this.#monotonicMs() - this.#epochBeganMs,
      entries: this.#position.epochEntries,
    });
    if (because !== undefined) await this.#advance(because);
  }

  #isSegmentFull(): boolean {
    return this.#files.segmentBytes + LIMITS.auditLineBytes > this.#options.segmentBytes;
  }

  /** Begins the epoch after this one with a line that says so, then gives up the key of this one. */
  async #advance(because: EpochCause): Promise<void> {
    const { clock } = this.#options;
    await this.#closeEpoch();
    if (this.#isSegmentFull()) {
      await this.#files.nextSegment();
      beginSegment(this.#position);
    }
    const next = nextEpochKey(this.#key);
    const macKey = macKeyOf(next);
    try {
      const draft = { type: "epoch_started", timeMs: wallMs(clock), data: { because } };
      await this.#store(this.#encode([draft], next.epoch, macKey, LIMITS.auditBatchBytes), next.epoch);
    } catch (error) {
      wipeEpochKey(next);
      throw error;
    }
    wipeEpochKey(this.#key);
    this.#key = next;
    this.#macKey = macKey;
    this.#isFirstOfStart = false;
    this.#epochBeganMs = this.#monotonicMs();
    this.#owesKey = true;
    this.#options.onEpoch?.(because);
    await this.#payKey();
  }

  /** Keeps K of this epoch in its file. Until it is there nothing more is written: recovery knows of one step only. */
  async #payKey(): Promise<void> {
    if (!this.#owesKey) return;
    await replaceEpochKey(this.#options.stateDir, this.#key).catch((cause: unknown) => {
      throw auditUnavailable("the epoch key could not be replaced", !isFull(cause), cause);
    });
    this.#owesKey = false;
  }

  #monotonicMs(): number {
    try {
      return this.#options.clock.monotonicMs();
    } catch {
      return this.#epochBeganMs;
    }
  }

  async #closeEpoch(): Promise<void> {
    if (this.size === this.#keptSize) return;
    const note = await this.#sign();
    await this.#files.keepCheckpoint(note);
    this.#keptSize = this.size;
  }

  async #sign(): Promise<Uint8Array> {
    const note = signCheckpoint(this.size, this.#position.tree.root(), this.#options.signer);
    await this.#files.replaceCheckpoint(note);
    this.signedSize = this.size;
    return note;
  }

  sign(): Promise<void> {
    return this.#unlessEnded(async () => {
      if (this.signedSize !== this.size) await this.#sign();
    });
  }

  removeLines(segment: number): Promise<void> {
    return this.#unlessEnded(() => this.#files.removeLines(segment));
  }

  async close(): Promise<void> {
    wipeEpochKey(this.#key);
    await this.#files.close();
  }
}

/** Whole milliseconds since 1970 for a line. A clock that fails or says nonsense is no reason not to record. */
export function wallMs(clock: Clock): number {
  try {
    const now = Math.floor(clock.wallMs());
    return Number.isSafeInteger(now) && now >= 0 ? now : 0;
  } catch {
    return 0;
  }
}

function throwFinal(error: unknown): void {
  if (isFinal(error)) throw error;
}
