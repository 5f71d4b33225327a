/** What the routes do: each calls the service once, and says what became of it. */
import type { z } from "zod";
import { ERROR_TABLE, type ErrorCode, VramError } from "../../errors.ts";
import type { errorReply, OperationReply } from "../replies.ts";
import type { SealRequestBody } from "../requests.ts";
import { type Answer, type Call, json, text } from "./route.ts";

/** Lines of the audit log unless asked for otherwise: a screen of them. */
const LAST_LINES = 100;

/** The error that an operation ended with. */
function errorOf({ code, message, fix, details }: z.infer<typeof errorReply>): VramError {
  const isKnown = (name: string): name is ErrorCode => Object.hasOwn(ERROR_TABLE, name);
  return new VramError(isKnown(code) ? code : "INTERNAL", message, { fix, details });
}

/** Resolves with the operation when it has ended; rejects when the client goes away, which does not stop it. */
async function untilEnded(ended: Promise<OperationReply>, signal: AbortSignal): Promise<OperationReply> {
  let leave: (() => void) | undefined;
  const gone = new Promise<never>((_, reject) => {
    leave = () => reject(new VramError("ABORTED", "the caller went away; the operation goes on"));
    if (signal.aborted) leave();
    else signal.addEventListener("abort", leave, { once: true });
  });
  try {
    return await Promise.race([ended, gone]);
  } finally {
    if (leave !== undefined) signal.removeEventListener("abort", leave);
  }
}

/** Begins to seal; with `wait` the answer is how it ended. */
export async function seal({
  service,
  body,
  caller,
  signal,
}: Call<unknown, undefined, SealRequestBody>): Promise<Answer> {
  const { operation, ended } = await service.seal(body, caller);
  const headers = { Location: `/v1/operations/${encodeURIComponent(operation.operationId)}` };
  if (body.wait !== true) return json(operation, 202, headers);
  const done = await untilEnded(ended, signal);
  if (done.error !== undefined) throw errorOf(done.error);
  return json(done, 201, headers);
}

/** The newest lines of the audit log, one a line. */
export async function lines({
  service,
  query,
}: Call<unknown, { readonly last?: number | undefined }, undefined>): Promise<Answer> {
  const found = await service.logLines(query.last ?? LAST_LINES);
  return text("application/jsonl", found.map((line) => `${line}\n`).join(""));
}
