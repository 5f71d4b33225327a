/**
 * The attach socket (docs/attach.md): beside the one for HTTP, for the same users. Descriptors cannot go over HTTP, and
 * the connection stays: it says that the process is there. Node sends them here by its own socket's descriptor, while
 * nothing else is being written; what a peer sends with its request is dropped by the kernel.
 */
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { type ReleaseFailureReporter, UndoStack } from "../../dispose.ts";
import { type ErrorCode, systemReason, toVramError, VramError } from "../../errors.ts";
import { peerOf as processOf } from "../../exports/peer.ts";
import { withCorrelation } from "../../journal/scope.ts";
import { LIMITS } from "../../limits.ts";
import type { Peer, PeerOf } from "../http/auth.ts";
import { noteRefusal } from "../http/exchange.ts";
import { authRefusal, problemOf, statusOf } from "../http/problem.ts";
import type { WorkQueue } from "../http/queue.ts";
import { openSocket, prepareSocket } from "../http/socket-file.ts";
import type { Caller, Service } from "../service.ts";
import type { Attached } from "./attaching.ts";
import { descriptorOf, endWhenStalled, readRequest, refusePeer, sendGranted, watchPeer } from "./connection.ts";
import { PROTOCOL_VERSION } from "./protocol.ts";

export interface AttachServerOptions {
  readonly service: Pick<Service, "attach" | "note">;
  /** Of the socket's file. */
  readonly path: string;
  readonly peerOf: PeerOf;
  /** The user that the service runs as, and the group that may use the socket, too. */
  readonly uid: number;
  readonly groupId: number | undefined;
  /** Places for what makes a device work. */
  readonly queue: WorkQueue;
  /** A peer that takes nothing for so long is ended. */
  readonly stallMs: number;
  readonly report: ReleaseFailureReporter;
}

export interface AttachServer {
  /** From now on nobody attaches: `SERVICE_STOPPING`. Those who have stay. */
  drain(): void;
  /** Ends every connection; resolves when what was exported over them is ended. */
  close(): Promise<void>;
}

const ROOT = 0;
/** Somebody wanted memory that is not his, or not what he takes it for: on record, as what is malformed is. */
const REFUSED: ReadonlySet<ErrorCode> = new Set<ErrorCode>(["DIGEST_MISMATCH", "LEASE_NOT_FOUND"]);

/** Who asks. Throws unless he may. */
function callerOf(peer: Peer | undefined, { uid, groupId }: AttachServerOptions): Caller {
  const isOwner = peer?.uid === uid || peer?.uid === ROOT;
  if (peer !== undefined && (isOwner || groupId !== undefined)) {
    return { transport: "socket", scope: isOwner ? "operate" : "use", name: `uid ${peer.uid}` };
  }
  throw authRefusal("wrong-peer", "this user may not use the service");
}

function peerAt(socket: Socket, peerOf: PeerOf): Peer | undefined {
  try {
    return peerOf(descriptorOf(socket));
  } catch {
    // It is gone already: nobody knows who it was.
    return undefined;
  }
}

class OpenAttachServer implements AttachServer {
  readonly #options: AttachServerOptions;
  readonly #server: Server;
  /** What is done for each connection, until nothing is left of it. */
  readonly #open = new Map<Socket, Promise<void>>();
  /** Those of them that attach, or are attached. */
  #held = 0;
  #draining = false;

  constructor(options: AttachServerOptions) {
    this.#options = options;
    this.#server = createServer((socket) => this.#take(socket));
    // Beyond it Node ends connections without a word; those in between are told.
    this.#server.maxConnections = 2 * LIMITS.attachConnections;
    this.#server.on("error", (error) => options.report("the attach socket", error));
  }

  async listen(): Promise<void> {
    const { path, uid, groupId } = this.#options;
    await prepareSocket(path, { uid, groupId });
    this.#server.listen({ path });
    try {
      await once(this.#server, "listening");
    } catch (cause) {
      throw new VramError("INVALID_ARGUMENT", `${path}: cannot listen there: ${systemReason(cause) ?? "unknown"}`, {
        cause,
        fix: "choose another place with the key `socket`: the attach socket lies beside it",
        details: { argument: "socket" },
      });
    }
    await openSocket(path, { uid, groupId });
  }

  #take(socket: Socket): void {
    socket.on("error", () => socket.destroy());
    const correlationId = randomUUID();
    const serving = withCorrelation(correlationId, () => this.#serve(socket, correlationId)).catch(
      (thrown: unknown) => {
        this.#options.report("a connection to the attach socket", thrown);
        socket.destroy();
      },
    );
    this.#open.set(socket, serving);
    void serving.finally(() => this.#open.delete(socket));
  }

  async #serve(socket: Socket, correlationId: string): Promise<void> {
    const { service } = this.#options;
    let caller: Caller | undefined;
    try {
      const peer = peerAt(socket, this.#options.peerOf);
      caller = callerOf(peer, this.#options);
      const known = caller;
      await this.#hold(async () => this.#keep(socket, await this.#attach(socket, known, peer)));
    } catch (thrown) {
      const error = toVramError(thrown);
      noteRefusal(service.note, error, { transport: "socket", caller });
      if (REFUSED.has(error.code)) {
        const { code } = error;
        const who = caller === undefined ? {} : { caller: caller.name };
        service.note.requestRefused({ status: statusOf(error), code, transport: "socket", ...who });
      }
      await refusePeer(socket, { v: PROTOCOL_VERSION, ok: false, problem: problemOf(error, correlationId) });
    }
  }

  /** Does `task` if there is a place for one more. Those that are being refused take none. */
  async #hold(task: () => Promise<void>): Promise<void> {
    if (this.#held >= LIMITS.attachConnections) {
      throw new VramError("SERVICE_BUSY", `${LIMITS.attachConnections} processes are attached, and no more may be`);
    }
    this.#held += 1;
    try {
      await task();
    } finally {
      this.#held -= 1;
    }
  }

  /** Reads the request, and does what it asks for while the peer is there. */
  async #attach(socket: Socket, caller: Caller, peer: Peer | undefined): Promise<Attached> {
    const { service, queue } = this.#options;
    const request = await readRequest(socket);
    if (this.#draining) throw new VramError("SERVICE_STOPPING", "the service begins nothing any more");
    const gone = new AbortController();
    const leave = (): void => gone.abort();
    // It has nothing more to say: whatever comes ends it.
    const endPeer = (): void => void socket.destroy();
    socket.once("close", leave).once("end", leave).on("data", endPeer).resume();
    try {
      const attach = () => service.attach(request, caller, processOf(peer?.pid ?? 0), gone.signal);
      return await queue.run(attach, gone.signal);
    } finally {
      socket.off("close", leave).off("end", leave).off("data", endPeer).pause();
    }
  }

  /** Hands it over; resolves when the connection has ended, and what was exported with it. */
  async #keep(socket: Socket, attached: Attached): Promise<void> {
    try {
      sendGranted(socket, attached);
    } catch (error) {
      await attached.end("failed");
      throw error;
    }
    endWhenStalled(socket, this.#options.stallMs);
    await new Promise<void>((resolve) => watchPeer(socket, attached, resolve));
    await attached.end("closed");
  }

  drain(): void {
    this.#draining = true;
  }

  async close(): Promise<void> {
    this.#draining = true;
    this.#server.close();
    const serving = [...this.#open.values()];
    for (const socket of this.#open.keys()) socket.destroy();
    await Promise.all(serving);
  }
}

/** Opens the attach socket. `INVALID_ARGUMENT`, `STATE_INVALID` or `STATE_BUSY` if it cannot be opened. */
export async function openAttachServer(options: AttachServerOptions): Promise<AttachServer> {
  const server = new OpenAttachServer(options);
  const undo = new UndoStack(options.report);
  undo.defer("the attach socket", () => server.close());
  try {
    await server.listen();
    undo.disarm();
    return server;
  } catch (error) {
    await undo.unwind();
    throw error;
  }
}
