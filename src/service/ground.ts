/**
 * What a service stands on before a device is opened: its journal with those who read it, its state, its audit log, which
 * devices there are, and what is wanted on them. What is opened here, `undo` closes.
 */
import { randomBytes } from "node:crypto";
import { dirname } from "node:path";
import type { AuditLog } from "../audit/audit-log.ts";
import { auditFolder } from "../audit/key-files.ts";
import { toHex } from "../bytes.ts";
import { type Clock, systemClock } from "../clock.ts";
import type { Config } from "../config/config.ts";
import { defaultSocket, type Place } from "../config/places.ts";
import type { ConfigValues } from "../config/table.ts";
import { readHostTraces } from "../device/detect.ts";
import { UndoStack } from "../dispose.ts";
import { optionsFromConfig } from "../environment.ts";
import { toVramError, VramError } from "../errors.ts";
import { createJournal, type Journal, type JournalReader } from "../journal/journal.ts";
import { createMetrics, type Metrics } from "../metrics/metrics.ts";
import { releaseReporter, type VramOptions } from "../open.ts";
import type { StartProcess } from "../process/start-process.ts";
import { attachAuditLog, recordEnd } from "../recording.ts";
import { openStateDirectory, type StateStore } from "../residency/state.ts";
import { type DevicesPlace, type FoundDevices, findDevices } from "./backend.ts";
import { createFeed, type KeptFeed } from "./feed.ts";
import { createOperations, type Operations } from "./operations.ts";
import { requireRuntimeDirectory } from "./runtime-dir.ts";
import { openStatementKeys, type StatementKeys } from "./statement-keys.ts";
import { openWanted, type WantedSet } from "./wanted.ts";

export interface ServiceOptions {
  readonly config: Config;
  readonly place: Place;
  /** Readers of the journal from its first entry on. */
  readonly readers?: readonly JournalReader[];
  /** Only tests have others. */
  readonly clock?: Clock;
  readonly start?: StartProcess;
  readonly openDevice?: NonNullable<DevicesPlace["openDevice"]>;
}

export interface Ground {
  readonly values: ConfigValues;
  /** The configuration as options of the library. */
  readonly options: VramOptions;
  readonly clock: Clock;
  readonly journal: Journal;
  readonly instanceId: string;
  readonly metrics: Metrics;
  readonly feed: KeptFeed;
  readonly operations: Operations;
  readonly state: StateStore;
  /** Absent where `audit.mode` is off. */
  readonly log: AuditLog | undefined;
  readonly logFolder: string | undefined;
  /** Absent where there is no log. */
  readonly statementKeys: StatementKeys | undefined;
  readonly found: FoundDevices;
  readonly wanted: WantedSet;
  readonly undo: UndoStack;
}

function requireStateDir({ stateDir }: ConfigValues): string {
  if (stateDir !== undefined) return stateDir;
  throw new VramError("INVALID_ARGUMENT", "neither XDG_STATE_HOME nor HOME says where the state is", {
    fix: "name it with --state-dir",
  });
}

/** Opens it all, and hands it to `build`. If anything fails, that is on record, and nothing stays open. */
export async function withGround<T>(given: ServiceOptions, build: (ground: Ground) => Promise<T>): Promise<T> {
  const clock = given.clock ?? systemClock;
  const journal = createJournal(clock);
  const undo = new UndoStack(releaseReporter(journal));
  try {
    return await build(await openGround(given, { clock, journal, undo }));
  } catch (error) {
    await recordEnd(journal, toVramError(error));
    await undo.unwind();
    throw error;
  }
}

async function openGround(
  { config: { values }, place, readers = [], start, openDevice }: ServiceOptions,
  base: Pick<Ground, "clock" | "journal" | "undo">,
): Promise<Ground> {
  const { clock, journal, undo } = base;
  const stateDir = requireStateDir(values);
  const options = { ...optionsFromConfig(values, place.env), stateDir };
  const instanceId = toHex(randomBytes(16));
  const runtimeDir = dirname(defaultSocket(place));
  await requireRuntimeDirectory(runtimeDir);
  const { CREDENTIALS_DIRECTORY: credentials = "" } = place.env;
  const state = await openStateDirectory(stateDir, credentials === "" ? undefined : credentials);
  undo.defer("state directory", () => state.close());
  const [metrics, feed, operations] = [await createMetrics(), createFeed(), createOperations(() => clock.wallMs())];
  for (const reader of [metrics.reader, feed.reader, operations.reader, ...readers]) journal.attach(reader);
  const log = await attachAuditLog(journal, { stateDir, audit: options.audit, clock, instanceId }, undo);
  const found = await findDevices(
    {
      ...{ values, options, runtimeDir, state, clock, env: place.env },
      traces: readHostTraces(options.libraryPath),
      report: releaseReporter(journal),
      ...(start === undefined ? {} : { start }),
      ...(openDevice === undefined ? {} : { openDevice }),
    },
    undo,
  );
  const { backend } = found.decision;
  const uuids = found.devices.map(({ uuid }) => uuid);
  await state.bind(backend, uuids);
  const wanted = await openWanted({ stateDir, rootKey: state.rootKey, backend });
  const statementKeys = log === undefined ? undefined : await openStatementKeys(stateDir, journal);
  const logFolder = log === undefined ? undefined : auditFolder(stateDir);
  return {
    ...base,
    values,
    options,
    instanceId,
    metrics,
    feed,
    operations,
    state,
    log,
    logFolder,
    statementKeys,
    found,
    wanted,
  };
}
