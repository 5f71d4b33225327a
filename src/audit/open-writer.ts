/**
 * From a state directory to a writer behind its last line, and the file that keeps room on a full disk: given up when
 * an entry that must proceed finds no room, made again when there is some.
 */
import { randomBytes } from "node:crypto";
import { promises } from "node:fs";
import { join } from "node:path";
import type { Clock } from "../clock.ts";
import { Mutex } from "../dispose.ts";
import { writeSynced } from "../files.ts";
import type { Journal } from "../journal/journal.ts";
import { LIMITS } from "../limits.ts";
import { type OpenFile, openLogFiles } from "./durable.ts";
import { type EpochCause, wipeEpochKey } from "./epochs.ts";
import { createLogWriter, type LogWriter } from "./log-writer.ts";
import type { NoteSigner } from "./note.ts";
import { recoverLog } from "./recover.ts";
import type { TornLine } from "./torn.ts";

export interface AuditLogOptions {
  /** Private to this user, and held by no other process. */
  readonly stateDir: string;
  readonly clock: Clock;
  /** 16 random bytes: this start of the program. */
  readonly boot: Uint8Array;
  /** Whether operations wait for the log, and fail without it. */
  readonly mode: "required" | "best-effort";
  /** Told of what the log does, and of entries it wrote about itself. */
  readonly note: Journal["note"];
  /** Days for which lines are kept. */
  readonly retentionDays: number;
  /** Bytes of lines and leaf hashes. */
  readonly maxBytes: number;
  /** Bytes of lines in a segment; tests make them small. */
  readonly segmentBytes?: number;
  readonly openFile?: OpenFile;
}

export interface OpenedLog {
  readonly folder: string;
  readonly writer: LogWriter;
  readonly signer: NoteSigner;
  readonly torn: readonly TornLine[];
  /** Held while anything is written. */
  readonly turn: Mutex;
  /** Bytes of lines and leaf hashes when it was opened, less what was pruned since. */
  bytes: number;
  /** Removes the file that keeps room; whether there was one. */
  giveUpReserve(): Promise<boolean>;
  /** Makes it again; whether it is there. Without room there is none. */
  makeReserve(): Promise<boolean>;
}

/** Makes the file that keeps room, unless it is there. A crash may have left the beginning of one. */
async function makeReserveFile(path: string): Promise<boolean> {
  const { auditReserveFileBytes: byteLength } = LIMITS;
  try {
    const there = await promises.stat(path).catch(() => undefined);
    if (there?.size === byteLength) return true;
    await promises.rm(path, { force: true });
    // Random, so that no file system stores it in less.
    await writeSynced(path, randomBytes(byteLength));
    return true;
  } catch {
    await promises.rm(path, { force: true }).catch(() => undefined);
    return false;
  }
}

/** Opens the log for writing. */
export async function openWriter(options: AuditLogOptions): Promise<OpenedLog> {
  const { stateDir, clock, boot, openFile, segmentBytes = LIMITS.auditSegmentBytes } = options;
  const recovered = await recoverLog(stateDir);
  const { folder, position, epochKey, signer, signedSize, keptSize, torn } = recovered;
  const files = await openLogFiles(folder, recovered.ends, openFile).catch((error: unknown) => {
    wipeEpochKey(epochKey);
    throw error;
  });
  const onEpoch = (because: EpochCause): void => options.note({ type: "epoch_started", because });
  const made = {
    stateDir,
    files,
    position,
    epochKey,
    signer,
    clock,
    boot,
    signedSize,
    keptSize,
    segmentBytes,
    onEpoch,
  };
  const reserve = join(folder, "reserve");
  const makeReserve = (): Promise<boolean> => makeReserveFile(reserve);
  await makeReserve();
  return {
    folder,
    writer: createLogWriter(made),
    signer,
    torn,
    turn: new Mutex(),
    bytes: recovered.bytes,
    makeReserve,
    giveUpReserve: () =>
      promises.rm(reserve).then(
        () => true,
        () => false,
      ),
  };
}
