/**
 * Narration: a best-effort reader of the journal that says what happens, as JSON lines for programs or as readable lines
 * for people. It holds nothing back and waits for nobody: a line is written in the call that brings it. pino is loaded
 * only where JSON is written.
 */
import { type Clock, systemClock } from "../clock.ts";
import type { Entry } from "../journal/entry.ts";
import type { JournalReader } from "../journal/journal.ts";
import { currentScope } from "../journal/scope.ts";
import { LEVELS, type Level, type Line, printableLine } from "./line.ts";
import { lineFor } from "./table.ts";

export interface NarratorOptions {
  readonly format: "text" | "json";
  /** Lines below this level are left out. */
  readonly level: Level;
  /** Takes one whole line with its line feed. */
  readonly write: (text: string) => void;
  /** How the readable form shows a tone; without it there are no colours. */
  readonly paint?: (tone: Line["tone"], word: string) => string;
  /** The time of lines that are no entries. */
  readonly clock?: Pick<Clock, "wallMs">;
}

export interface Narrator extends JournalReader {
  readonly required: false;
  /** Says something that is no entry. Its texts need not be printable. */
  tell(told: Line): void;
}

/** What is known of a line besides its words. */
interface Facts {
  readonly timeMs: number;
  readonly workerId?: string;
  readonly correlationId?: string;
  readonly ordinal?: number;
}

type Writer = (told: Line, facts: Facts) => void;

function factsOf(entry: Entry): Facts {
  const { timeMs, workerId, correlationId } = entry;
  return {
    timeMs,
    ...(workerId === undefined ? {} : { workerId }),
    ...(correlationId === undefined ? {} : { correlationId }),
    ...("device" in entry ? { ordinal: entry.device.ordinal } : {}),
  };
}

/** Column in which sentences begin, behind two spaces. */
const WORD_COLUMNS = 11;

function textWriter({ write, paint = (_, word) => word }: NarratorOptions): Writer {
  return ({ tone, word, human }) => write(`  ${paint(tone, word.padEnd(WORD_COLUMNS))}${human}\n`);
}

/** Microseconds are more than anybody reads. */
const rounded = (ms: number): number => Math.round(ms * 1000) / 1000;

/**
 * One object a line. JSON escapes C0 controls only; U+2028 and bidirectional overrides would pass, so texts come here
 * printable already. Ids and codes are of closed alphabets.
 */
async function jsonWriter({ write }: NarratorOptions): Promise<Writer> {
  const { pino } = await import("pino");
  const logger = pino(
    {
      level: "debug",
      base: null,
      timestamp: false,
      messageKey: "human",
      formatters: { level: (label) => ({ level: label }) },
    },
    { write },
  );
  return ({ actor, action, level, target, human, durationMs, errorKind }, facts) => {
    const { timeMs, workerId, correlationId, ordinal } = facts;
    const fields = {
      time: new Date(timeMs).toISOString(),
      actor,
      action,
      target,
      ...(workerId === undefined ? {} : { worker_id: workerId }),
      ...(correlationId === undefined ? {} : { correlation_id: correlationId }),
      ...(ordinal === undefined ? {} : { device: ordinal }),
      ...(durationMs === undefined ? {} : { duration_ms: rounded(durationMs) }),
      ...(errorKind === undefined ? {} : { error_kind: errorKind }),
    };
    logger[level](fields, human);
  };
}

/** A narrator in one of the two forms. */
export async function createNarrator(options: NarratorOptions): Promise<Narrator> {
  const { format, level, clock = systemClock } = options;
  const writer = format === "json" ? await jsonWriter(options) : textWriter(options);
  const isLoud = (told: Line): boolean => LEVELS.indexOf(told.level) >= LEVELS.indexOf(level);
  return {
    required: false,
    accept: (entry) => {
      const told = lineFor(entry);
      if (told !== undefined && isLoud(told)) writer(told, factsOf(entry));
    },
    tell: (told) => {
      const { correlationId } = currentScope() ?? {};
      const facts = { timeMs: clock.wallMs(), ...(correlationId === undefined ? {} : { correlationId }) };
      if (isLoud(told)) writer(printableLine(told), facts);
    },
  };
}
