/**
 * What comes over the attach socket, put together: bytes into messages, and the descriptors that come with them. The
 * first byte is received alone, so that what comes with it is known to have come with nothing else. Whatever breaks the
 * framing, or brings a descriptor where none may be, is no service of ours; descriptors that nobody took are closed.
 */
import { closeSync } from "node:fs";
import { toVramError, VramError } from "../errors.ts";
import type { Received } from "../ffi/passing.ts";
import { LIMITS } from "../limits.ts";
import { createMessageReader } from "../service/attach/protocol.ts";
import { brokenError, notOurs } from "./transport.ts";

export interface Inbox {
  /** How much to receive next; undefined: as much as there is. */
  readonly wanted: number | undefined;
  /** Takes what was received; the messages that are complete with it. Throws `SERVICE_UNREACHABLE` at the end, and for
   * what is none of ours. */
  accept(received: Received): unknown[];
  /** The descriptors that came; they are the caller's from now on. */
  take(): readonly number[];
  /** Closes what nobody took. */
  discard(): void;
}

/** The kernel keeps a descriptor that this process has no place for. */
const truncatedError = (where: string): VramError =>
  new VramError(
    "SERVICE_UNREACHABLE",
    `${where}: the memory was handed over, and this process may have no more files`,
    {
      fix: "raise the limit of open files (`ulimit -n`), or close some; if it is no limit, what answers is no vram service",
      details: { answer: "descriptors that were dropped" },
    },
  );

/** The end of the connection: between two messages, or in one. */
function endError(where: string, hasBegun: boolean, pending: number): VramError {
  if (pending > 0) return notOurs(where, "a message on the attach socket that ends in its middle");
  const what = hasBegun ? "it ended the connection" : "it ended the connection without a reply";
  return brokenError(where, new Error(what), undefined);
}

/** Takes what a service sends. `where` is what to call it. */
export function createInbox(where: string): Inbox {
  const reader = createMessageReader(LIMITS.attachReplyBytes);
  const descriptors: number[] = [];
  let hasBegun = false;

  const accept: Inbox["accept"] = ({ bytes, descriptors: came, truncated }) => {
    descriptors.push(...came);
    if (truncated) throw truncatedError(where);
    if (came.length > 0 && hasBegun) throw notOurs(where, "a descriptor that does not come with the first byte");
    if (bytes.byteLength === 0) throw endError(where, hasBegun, reader.pending);
    hasBegun = true;
    try {
      return reader.push(bytes);
    } catch (thrown) {
      throw notOurs(where, toVramError(thrown).message, thrown);
    }
  };
  return {
    get wanted() {
      return hasBegun ? undefined : 1;
    },
    accept,
    take: () => descriptors.splice(0),
    discard: () => {
      for (const fd of descriptors.splice(0)) closeSync(fd);
    },
  };
}
