/**
 * The service's side of one process of a device, from its start to its end, and one account of how it ended. When it is
 * lost (it says so, it ends, it does not answer, it sends what was not agreed), every call under way is answered at once
 * and the process is killed. One that will not go is `wedged`: nothing can be done about it from here, and it still has
 * the GPU.
 */
import { AsyncResource } from "node:async_hooks";
import type { Clock } from "../clock.ts";
import type { DeviceInfo } from "../device/device.ts";
import { closedError, type ReleaseFailureReporter } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { type CallOptions, type Calls, OPENING, openCalls } from "./calls.ts";
import { type Channel, openChannel } from "./channel.ts";
import { checkCall, checkReply, checkResult, fromWire } from "./checks.ts";
import { deadlineFor } from "./deadlines.ts";
import { type DescriptorInbox, openDescriptorInbox } from "./descriptors.ts";
import type { CallArguments, CallResult, ListRequest, Method, OpenRequest, Reply, Request } from "./protocol.ts";
import type { DeviceProcess, Exit } from "./start-process.ts";
import { openStreams, type Streams } from "./streams.ts";

/** How a process ended; or, `wedged`, that it was killed and has not gone. */
export type ProcessEnd = ({ readonly wedged: false } & Exit) | { readonly wedged: true };

export interface LinkOptions {
  readonly process: DeviceProcess;
  readonly clock: Pick<Clock, "monotonicMs"> | undefined;
  readonly floorMs: number;
  readonly startMs: number;
  readonly idlePingMs: number;
  /** Told of releases in the process that failed. */
  readonly report: ReleaseFailureReporter;
}

export class Link {
  readonly pid: number;
  readonly streams: Streams;
  /** Resolves when the process is gone, or will not go. */
  readonly ended: Promise<ProcessEnd>;
  readonly #options: LinkOptions;
  readonly #channel: Channel;
  readonly #calls: Calls;
  readonly #descriptors: DescriptorInbox;
  readonly #listeners: ((error: VramError) => void)[] = [];
  #settleEnd: (end: ProcessEnd) => void = () => undefined;
  #fatal: VramError | undefined;
  #exit: Exit | undefined;
  #channelEnded = false;
  /** It is to end: that it does is no loss. */
  #ending = false;
  #graceTimer: NodeJS.Timeout | undefined;
  #killTimer: NodeJS.Timeout | undefined;

  /** For a process that was just started. */
  constructor(options: LinkOptions) {
    const { process, clock, floorMs, idlePingMs } = options;
    this.#options = options;
    this.pid = process.pid;
    this.ended = new Promise((resolve) => {
      this.#settleEnd = resolve;
    });
    this.#descriptors = openDescriptorInbox(process.descriptors);
    const send = (request: Request): void => this.#channel.send(request);
    this.streams = openStreams(send);
    this.#calls = openCalls({
      clock,
      floorMs,
      idlePingMs,
      sendPing: (id) => send({ kind: "ping", id }),
      onStall: (what) => this.#stall(what),
    });
    this.#channel = openChannel(process.socket, {
      onMessage: (message) => this.#take(checkReply(message)),
      onEnd: (fault) => this.#onChannelEnd(fault),
    });
    process.onExit((exit) => this.#onExit(exit));
  }

  /** Why it is lost, if it is. */
  get fatal(): VramError | undefined {
    return this.#fatal;
  }

  /** A listener that comes when it is lost already is called at once. */
  onLost(listener: (error: VramError) => void): void {
    if (this.#fatal === undefined) this.#listeners.push(listener);
    else listener(this.#fatal);
  }

  /** The first request: its answer is the reply as a whole. */
  async #begin<K extends Reply["kind"]>(what: string, request: Request, kind: K): Promise<Extract<Reply, { kind: K }>> {
    const answer = this.#calls.add(OPENING, what, this.#options.startMs, (reply) => {
      if ((reply as Reply).kind === kind) return reply;
      throw new VramError("INTERNAL", `the answer to the first request is not ${kind}`);
    });
    this.#channel.send(request);
    // Judged above when it arrived.
    return answer as Promise<Extract<Reply, { kind: K }>>;
  }

  /** The first request: opens the device. */
  async open(request: OpenRequest): Promise<DeviceInfo> {
    return (await this.#begin("opening the device", { kind: "open", request }, "opened")).info;
  }

  /** The first request, and the last: lists the devices that the driver shows. */
  async list(request: ListRequest): Promise<readonly string[]> {
    return (await this.#begin("listing the devices", { kind: "list", ...request }, "listed")).uuids;
  }

  /** Calls a method. Rejects with what it throws, or `DEVICE_LOST`, `DEVICE_STALLED` when the process is lost. */
  async call<K extends Method>(method: K, args: CallArguments[K], options: CallOptions = {}): Promise<CallResult<K>> {
    this.requireUsable();
    checkCall(method, args);
    const id = this.#calls.nextId();
    const { byteLength = 0, sourcePaced = false, signal, onProgress } = options;
    const abort = (): void => {
      if (this.#calls.isUnderWay(id)) this.#channel.send({ kind: "abort", id } satisfies Request);
    };
    // What a callback of the caller's throws is the caller's: it ends the call, not the process.
    let failure: VramError | undefined;
    const progress = (bytesDone: number): void => {
      try {
        if (failure === undefined) onProgress?.(bytesDone);
      } catch (thrown) {
        failure = toVramError(thrown);
        abort();
      }
    };
    const deadlineMs = sourcePaced ? undefined : deadlineFor(byteLength, this.#options.floorMs);
    const check = (value: unknown): unknown => this.#complete(id, method, value);
    const answer = this.#calls.add(id, method, deadlineMs, check, {
      ...options,
      // Called from the channel, but on behalf of whoever called: the journal reads the scope from there.
      onProgress: AsyncResource.bind(progress),
    });
    signal?.addEventListener("abort", abort, { once: true });
    try {
      this.#channel.send({ kind: "call", id, method, args });
      // Judged by `check` when it arrived.
      const result = (await answer) as CallResult<K>;
      if (failure !== undefined) throw failure;
      return result;
    } catch (thrown) {
      const error = failure ?? toVramError(thrown);
      if (error.code !== "ABORTED" || signal?.aborted !== true) throw error;
      throw new VramError("ABORTED", error.message, { cause: signal.reason });
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** An answer as the caller has it: with the descriptor that came before it. Throws for what was not agreed. */
  #complete(id: number, method: Method, value: unknown): unknown {
    const result = checkResult(method, value);
    return method === "exportMemory" ? { ...(result as object), descriptor: this.#descriptors.take(id) } : result;
  }

  /** Throws `DEVICE_LOST` once it is lost, `CLOSED` once it is to end. */
  requireUsable(): void {
    if (this.#fatal !== undefined) throw this.#afterwards(this.#fatal);
    if (this.#ending) throw closedError("the device");
  }

  #take(reply: Reply): void {
    switch (reply.kind) {
      case "opened":
      case "listed": {
        const first = this.#calls.get(OPENING);
        first.settle({ value: first.check(reply) });
        break;
      }
      case "refused":
        this.#ending = true;
        this.#calls.get(OPENING).settle({ error: fromWire(reply.error) });
        break;
      case "result": {
        const call = this.#calls.get(reply.id);
        call.settle({ value: call.check(reply.value) });
        break;
      }
      case "failure":
        this.#calls.get(reply.id).settle({ error: fromWire(reply.error) });
        break;
      case "progress":
        this.#calls.get(reply.id).onProgress?.(reply.bytesDone);
        break;
      case "pong":
        this.#calls.onPong(reply.id);
        break;
      case "pull":
        this.streams.pull(reply.streamId);
        break;
      case "drop":
        this.streams.drop(reply.streamId);
        break;
      case "lost":
        this.#lose(fromWire(reply.error));
        // What it can still answer it does before it ends by itself.
        this.#awaitSign();
        break;
      case "release_failed":
        this.#options.report(reply.what, fromWire(reply.error));
        break;
    }
  }

  #stall(what: string): void {
    const message = `the device's process did not answer in time: ${what}`;
    this.#fail(new VramError("DEVICE_STALLED", message, { details: { pid: this.pid } }));
  }

  #gone(): VramError {
    const { exitCode = null, signal = null } = this.#exit ?? {};
    const how = signal ?? (exitCode === null ? undefined : `exit code ${exitCode}`);
    return new VramError("DEVICE_LOST", `the device's process ended${how === undefined ? "" : ` (${how})`}`, {
      details: { pid: this.pid, ...(exitCode === null ? {} : { exitCode }), ...(signal === null ? {} : { signal }) },
    });
  }

  #afterwards(cause: VramError): VramError {
    return new VramError("DEVICE_LOST", "the device was lost earlier", { cause, details: { pid: this.pid } });
  }

  #onChannelEnd(fault: VramError | undefined): void {
    this.#channelEnded = true;
    if (fault === undefined) {
      this.#onSign();
      return;
    }
    const message = "the device's process sent what was not agreed";
    this.#fail(new VramError("DEVICE_LOST", message, { cause: fault, details: { pid: this.pid } }));
  }

  #onExit(exit: Exit): void {
    this.#exit = exit;
    clearTimeout(this.#killTimer);
    this.#settleEnd({ wedged: false, ...exit });
    this.#onSign();
  }

  /** Its end has two signs, in either order. With the first alone it is not known how it ended, or what it still said. */
  #onSign(): void {
    if (this.#ending) return;
    if (this.#channelEnded && this.#exit !== undefined) this.#fail(this.#gone());
    else this.#awaitSign();
  }

  #awaitSign(): void {
    this.#graceTimer ??= setTimeout(() => this.#fail(this.#gone()), LIMITS.deviceEndMs);
  }

  #lose(error: VramError): void {
    if (this.#fatal !== undefined) return;
    this.#fatal = error;
    this.streams.dropAll();
    for (const listener of this.#listeners) listener(error);
  }

  /** Nothing is expected of it any more: whoever waits is told, and it is killed. */
  #fail(error: VramError): void {
    this.#lose(error);
    this.#calls.settleAll(this.#fatal === error ? error : this.#afterwards(this.#fatal ?? error));
    this.#kill();
  }

  /** Whoever still waits is told that it was closed. */
  #leave(): void {
    this.#ending = true;
    clearTimeout(this.#graceTimer);
    this.#channel.close();
    this.#descriptors.close();
    this.#calls.settleAll(closedError("the device"));
    this.streams.dropAll();
  }

  #kill(): void {
    this.#leave();
    if (this.#exit !== undefined) return;
    this.#options.process.kill();
    this.#killTimer ??= setTimeout(() => this.#settleEnd({ wedged: true }), LIMITS.deviceKillMs);
  }

  /** Lets it end by itself, then kills it. Resolves as `ended` does. */
  async end(): Promise<ProcessEnd> {
    this.#leave();
    const timer = this.#exit === undefined ? setTimeout(() => this.#kill(), LIMITS.deviceEndMs) : undefined;
    const end = await this.ended;
    clearTimeout(timer);
    return end;
  }
}
