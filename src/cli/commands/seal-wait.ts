/**
 * Waiting for an operation of a service. The feed tells of its progress and that its end is near; what became of it is
 * asked of the service, which also answers where the feed does not. An interruption cancels it.
 */
import { z } from "zod";
import { type Client, errorFromReply, type OperationReply } from "../../client.ts";
import { toVramError, VramError } from "../../errors.ts";
import type { Host } from "../host.ts";
import type { Progress } from "../progress.ts";

/** It is asked after 20 ms, 40 ms, … 1 s, and from the beginning when the feed says that the work has ended. */
const ASK_MS = 20;
const ASK_MAX_MS = 1000;

const uploadProgressed = z.object({
  type: z.literal("upload_progressed"),
  name: z.string(),
  bytesDone: z.number(),
  bytesTotal: z.number(),
});

/** Wakes one waiter. */
interface Bell {
  ring(): void;
  /** Resolves after `ms`, or as soon as it rings: true if it rang. */
  wait(ms: number): Promise<boolean>;
}

function createBell(): Bell {
  let wake: (() => void) | undefined;
  let hasRung = false;
  return {
    ring: () => {
      hasRung = true;
      wake?.();
    },
    wait: async (ms) => {
      if (!hasRung) {
        let timer: NodeJS.Timeout | undefined;
        await new Promise<void>((resolve) => {
          wake = resolve;
          timer = setTimeout(resolve, ms);
        });
        clearTimeout(timer);
      }
      const rang = hasRung;
      [wake, hasRung] = [undefined, false];
      return rang;
    },
  };
}

/** Shows the progress of an operation until the signal fires. A feed that fails is nothing but a screen that stands still. */
async function follow(
  client: Client,
  { correlationId }: OperationReply,
  progress: Progress,
  bell: Bell,
  signal: AbortSignal,
): Promise<void> {
  const types = ["upload_progressed", "operation_ended"];
  try {
    for await (const item of client.feed({ correlationId, types, signal })) {
      if (item.kind === "gap") continue;
      const told = uploadProgressed.safeParse(item.entry);
      if (told.success) progress.update(told.data.name, told.data.bytesDone, told.data.bytesTotal);
      else if (item.entry.type === "operation_ended") bell.ring();
    }
  } catch {
    bell.ring();
  }
}

/** What an operation that has ended made; throws why it failed. */
export function requireSucceeded(operation: OperationReply): OperationReply {
  if (operation.state === "succeeded") return operation;
  if (operation.error !== undefined) throw errorFromReply(operation.error);
  throw new VramError("INTERNAL", `${operation.name}: the operation failed, and nobody says why`);
}

/** Cancels an operation; throws `ABORTED` unless it had ended by then. */
async function cancel(host: Host, client: Client, { operationId, name }: OperationReply): Promise<OperationReply> {
  const ended = await client.cancel(operationId).catch((thrown: unknown) => {
    const { message } = toVramError(thrown);
    throw new VramError("ABORTED", `interrupted, but ${name} could not be cancelled: ${message}`, {
      cause: thrown,
      fix: "`vram ps` shows what became of it",
    });
  });
  if (ended.state === "succeeded") host.err("interrupted too late: it was sealed by then\n");
  return ended;
}

/** The operation as it ended. With `host.signal` it is cancelled. */
export async function waitForEnd(
  host: Host,
  client: Client,
  begun: OperationReply,
  progress: Progress,
): Promise<OperationReply> {
  const stop = new AbortController();
  const bell = createBell();
  const ring = (): void => bell.ring();
  const isInterrupted = (): boolean => host.signal.aborted;
  host.signal.addEventListener("abort", ring, { once: true });
  const following = follow(client, begun, progress, bell, stop.signal);
  try {
    let operation = begun;
    for (let waitMs = ASK_MS; operation.state === "running"; ) {
      if (isInterrupted()) return await cancel(host, client, operation);
      waitMs = (await bell.wait(waitMs)) ? ASK_MS : Math.min(2 * waitMs, ASK_MAX_MS);
      // Not with the host's signal: an interruption must not keep it from being cancelled.
      if (!isInterrupted()) operation = await client.operation(operation.operationId);
    }
    return operation;
  } finally {
    host.signal.removeEventListener("abort", ring);
    stop.abort();
    await following;
    progress.clear();
  }
}
