/**
 * Work that takes longer than a request: seals and restorations, with their progress and their end. Those that ended are
 * kept for a while, so that whoever began one can ask what became of it.
 */
import { toVramError, VramError } from "../errors.ts";
import type { Entry } from "../journal/entry.ts";
import type { JournalReader } from "../journal/journal.ts";
import { currentScope, inOperation } from "../journal/scope.ts";
import { LIMITS } from "../limits.ts";
import { createId } from "../seal/names.ts";
import { publicError } from "./public-error.ts";
import type { OperationReply } from "./replies.ts";

type Result = NonNullable<OperationReply["result"]>;
type Progress = Extract<Entry, { type: "upload_progressed" }>;

export interface Begun {
  readonly operation: OperationReply;
  /** Settles with the operation; never rejects. */
  readonly ended: Promise<Ended>;
}

export interface Ended {
  readonly operation: OperationReply;
  /** Why it failed, as it was thrown. */
  readonly error?: VramError;
}

export interface Operations {
  /** Hears of progress. */
  readonly reader: JournalReader;
  /** Begins `task`, which stops when its signal fires. */
  begin(kind: OperationReply["kind"], name: string, task: (signal: AbortSignal) => Promise<Result>): Begun;
  /** Those that run, and those that failed of late. */
  listed(): readonly OperationReply[];
  /** `OPERATION_NOT_FOUND` if there is none of this id, or it ended too long ago. */
  find(operationId: string): OperationReply;
  /** Stops one that runs; resolves when it has ended. */
  cancel(operationId: string): Promise<OperationReply>;
}

interface Tracked {
  reply: OperationReply;
  readonly stop: AbortController;
  ended: Promise<Ended>;
  /** Bytes done and to do, by shard. */
  readonly uploads: Map<string, Progress>;
}

const sum = (values: Iterable<number>): number => [...values].reduce((total, value) => total + value, 0);

const isOf = ({ reply }: Tracked, { name, correlationId }: Entry & Progress): boolean =>
  reply.correlationId === correlationId && (name === reply.name || name.startsWith(`${reply.name}/`));

const runs = (one: Tracked): boolean => one.reply.state === "running";

function progress(one: Tracked, entry: Entry & Progress): void {
  one.uploads.set(entry.name, entry);
  const uploads = [...one.uploads.values()];
  const bytesDone = sum(uploads.map((upload) => upload.bytesDone));
  const bytesTotal = sum(uploads.map((upload) => upload.bytesTotal));
  one.reply = { ...one.reply, bytesDone, bytesTotal };
}

/** No operations yet. `wallMs` stamps their begin and end. */
export function createOperations(wallMs: () => number): Operations {
  const tracked = new Map<string, Tracked>();
  const rfc3339 = (): string => new Date(wallMs()).toISOString();

  const forget = (): void => {
    const over = [...tracked].filter(([, one]) => !runs(one));
    for (const [operationId] of over.slice(0, Math.max(0, over.length - LIMITS.serviceOperations))) {
      tracked.delete(operationId);
    }
  };

  const isFresh = ({ reply: { state, endedAt } }: Tracked): boolean =>
    state === "failed" && endedAt !== undefined && wallMs() - Date.parse(endedAt) < LIMITS.serviceFailedMs;

  const settle = (one: Tracked, end: Partial<OperationReply>): OperationReply => {
    one.reply = { ...one.reply, ...end, endedAt: rfc3339() };
    one.uploads.clear();
    forget();
    return one.reply;
  };

  const run = async (one: Tracked, task: (signal: AbortSignal) => Promise<Result>): Promise<Ended> => {
    try {
      const result = await task(one.stop.signal);
      const bytesDone = sum(result.shards.map(({ record }) => record.byteLength));
      return { operation: settle(one, { state: "succeeded", result, bytesDone, bytesTotal: bytesDone }) };
    } catch (thrown) {
      const error = toVramError(thrown);
      return { operation: settle(one, { state: "failed", error: publicError(error) }), error };
    }
  };

  const require = (operationId: string): Tracked => {
    const found = tracked.get(operationId);
    if (found !== undefined) return found;
    throw new VramError("OPERATION_NOT_FOUND", `there is no operation ${operationId}`);
  };

  return {
    reader: {
      required: false,
      accept: (entry) => {
        if (entry.type !== "upload_progressed") return;
        for (const one of tracked.values()) if (runs(one) && isOf(one, entry)) progress(one, entry);
      },
    },
    begin: (kind, name, task) =>
      inOperation(() => {
        const correlationId = currentScope()?.correlationId ?? "";
        const operationId = createId("op");
        const stop = new AbortController();
        const reply: OperationReply = {
          ...{ operationId, correlationId, kind, name },
          ...{ state: "running", bytesDone: 0, startedAt: rfc3339() },
        };
        const one: Tracked = { reply, stop, uploads: new Map(), ended: Promise.reject(new Error("not begun")) };
        one.ended.catch(() => undefined);
        tracked.set(operationId, one);
        one.ended = run(one, task);
        return { operation: one.reply, ended: one.ended };
      }),
    listed: () => [...tracked.values()].filter((one) => runs(one) || isFresh(one)).map(({ reply }) => reply),
    find: (operationId) => require(operationId).reply,
    cancel: async (operationId) => {
      const one = require(operationId);
      one.stop.abort();
      return (await one.ended).operation;
    },
  };
}
