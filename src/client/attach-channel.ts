/**
 * The connection of a process that attaches: one request, one reply, then events for as long as either end is there. Node
 * must not read this socket: it would lose the descriptor. Whatever ends the connection closes it here at once, with all
 * that came over it and was not taken; it keeps the process alive only while the reply is awaited.
 */
import { closeSync } from "node:fs";
import { closedError } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import { watchReadable } from "../ffi/library.ts";
import { connectSocket, receiveWithDescriptors, sendWithDescriptor } from "../ffi/passing.ts";
import { createInbox } from "./attach-inbox.ts";
import { brokenError } from "./transport.ts";

/** The first message. The descriptors came with its first byte, and are whoever's it is. */
export interface Reply {
  readonly value: unknown;
  readonly descriptors: readonly number[];
}

export interface Waiting {
  readonly signal: AbortSignal | undefined;
  /** Absent: as long as it takes. */
  readonly deadlineMs: number | undefined;
}

export interface AttachChannel {
  /** Resolves when the connection is over: with what ended it, or nothing if that was `close`. Never rejects. */
  readonly ended: Promise<VramError | undefined>;
  /** Sends the request and waits for the reply; called once. Rejects with what ends the connection before. */
  ask(request: Uint8Array, waiting: Waiting): Promise<Reply>;
  /** From now on `take` is given every message behind the reply; what it throws ends the connection. */
  follow(take: (message: unknown) => void): void;
  /** Ends the connection. May be called twice. */
  close(): void;
}

/** What the system said is the last word of such an error: `EACCES`. */
function connectTo(path: string, where: string): number {
  try {
    return connectSocket(path);
  } catch (thrown) {
    const error = toVramError(thrown);
    const name = /\b(E[A-Z0-9]+)$/.exec(error.message)?.[1];
    if (error.code !== "SERVICE_UNREACHABLE" || name === undefined) throw error;
    throw brokenError(where, Object.assign(new Error(error.message), { code: name }), undefined);
  }
}

function send(fd: number, bytes: Uint8Array, where: string): void {
  // At most 16 KiB, into the empty buffer of a new connection.
  if (sendWithDescriptor(fd, bytes) === bytes.byteLength) return;
  throw brokenError(where, new Error("it takes no request"), undefined);
}

/** Connects. `where` is what to call the service in a message; errors are those of the client. */
export function openChannel(path: string, where: string): AttachChannel {
  const fd = connectTo(path, where);
  const inbox = createInbox(where);
  /** Of what came with the last of the reply. */
  const early: unknown[] = [];
  let take = (message: unknown): void => void early.push(message);
  let watch: ReturnType<typeof watchReadable> | undefined;
  let over = false;
  let settle = (_why: VramError | undefined): void => undefined;
  const ended = new Promise<VramError | undefined>((resolve) => {
    settle = resolve;
  });

  const finish = (why?: VramError): void => {
    if (over) return;
    over = true;
    watch?.close();
    inbox.discard();
    closeSync(fd);
    settle(why);
  };
  const deliver = (messages: readonly unknown[]): void => {
    for (const message of messages) take(message);
  };
  const guarded = (task: () => void): void => {
    if (over) return;
    try {
      task();
    } catch (thrown) {
      finish(toVramError(thrown));
    }
  };
  const receive = (): void =>
    guarded(() => {
      const received = receiveWithDescriptors(fd, inbox.wanted);
      if (received !== undefined) deliver(inbox.accept(received));
    });

  return {
    ended,
    ask: (request, waiting) =>
      new Promise((resolve, reject) => {
        const stopWaiting = giveUpWhen(waiting, where, finish);
        void ended.then((why) => reject(why ?? closedError("the connection"))).finally(stopWaiting);
        take = (value) => {
          // Nothing is received until somebody follows: what comes then waits in the kernel.
          watch?.close();
          take = (message) => void early.push(message);
          stopWaiting();
          resolve({ value, descriptors: inbox.take() });
        };
        guarded(() => {
          watch = watchReadable(fd, receive);
          send(fd, request, where);
        });
      }),
    follow: (listener) =>
      guarded(() => {
        take = listener;
        deliver(early.splice(0));
        if (over) return;
        watch = watchReadable(fd, receive);
        watch.unref();
      }),
    close: () => finish(),
  };
}

/** Ends the wait by its signal or its deadline. Returns what calls that off. */
function giveUpWhen({ signal, deadlineMs }: Waiting, where: string, giveUp: (why: VramError) => void): () => void {
  const onAbort = (): void => giveUp(new VramError("ABORTED", "the operation was aborted", { cause: signal?.reason }));
  const late = (): void => giveUp(brokenError(where, new Error(`nothing came for ${deadlineMs ?? 0} ms`), undefined));
  const timer = deadlineMs === undefined ? undefined : setTimeout(late, deadlineMs);
  signal?.addEventListener("abort", onAbort, { once: true });
  return () => {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  };
}
