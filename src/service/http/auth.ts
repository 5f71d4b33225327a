/**
 * Who asks, and how far that goes (VR-API-02). On the socket the kernel says who it is (`SO_PEERCRED`): the service's own
 * user and root may do everything; others are there only if a group may use the socket, and may use what is sealed. Over
 * TCP a token says it. A token is never echoed, nor told apart from another bad one.
 */
import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import type { Caller } from "../service.ts";
import type { Scope, TokenStore } from "../tokens.ts";
import type { Exchange } from "./exchange.ts";
import { headerOf } from "./guards.ts";
import { authRefusal } from "./problem.ts";

/** Who is at the other end of a connected Unix socket, as the kernel saw it then. */
export interface Peer {
  readonly uid: number;
  /** 0, or absent, for a process that has no number here. */
  readonly pid?: number;
}

export type PeerOf = (fd: number) => Peer;

export interface Authority {
  readonly tokens: Pick<TokenStore, "check">;
  readonly peerOf: PeerOf;
  /** The user that the service runs as. */
  readonly uid: number;
  /** Whether a group may use the socket; the kernel has let nobody else in. */
  readonly hasGroup: boolean;
}

const ROOT = 0;
const BEARER = /^Bearer +([A-Za-z0-9._~+/-]+=*) *$/i;

const peers = new WeakMap<Socket, Peer>();

/** Remembers who connected. To be called at once: a socket that is gone has no descriptor to ask about. */
export function rememberPeer(socket: Socket, peerOf: PeerOf): void {
  const { fd = -1 } = (socket as { readonly _handle?: { readonly fd?: number } | null })._handle ?? {};
  try {
    peers.set(socket, peerOf(fd));
  } catch {
    // Nobody knows who it is: not let in.
  }
}

function socketCaller(incoming: IncomingMessage, authority: Authority, exchange: Exchange): Caller {
  const peer = peers.get(incoming.socket);
  const isOwner = peer?.uid === authority.uid || peer?.uid === ROOT;
  const name = peer === undefined ? "unknown" : `uid ${peer.uid}`;
  const caller: Caller = { transport: "socket", scope: isOwner ? "operate" : "use", name };
  exchange.caller = caller;
  if (peer !== undefined && (isOwner || authority.hasGroup)) return caller;
  throw authRefusal("wrong-peer", "this user may not use the service");
}

async function tokenCaller(incoming: IncomingMessage, authority: Authority): Promise<Caller> {
  const header = headerOf(incoming, "authorization");
  if (header === undefined) throw authRefusal("no-token", "a request over TCP carries a token");
  const [, presented = ""] = BEARER.exec(header) ?? [];
  const info = await authority.tokens.check(presented);
  if (info === undefined) throw authRefusal("bad-token", "the token is not one of this service");
  return { transport: "tcp", scope: info.scope, name: `token ${info.fingerprint}` };
}

/** The caller of a request, which is put into the exchange. Throws unless it may do what takes this scope. */
export async function authorize(exchange: Exchange, authority: Authority, scope: Scope): Promise<Caller> {
  const { incoming, transport } = exchange;
  const caller =
    transport === "socket" ? socketCaller(incoming, authority, exchange) : await tokenCaller(incoming, authority);
  exchange.caller = caller;
  if (scope === "use" || caller.scope === "operate") return caller;
  throw authRefusal("wrong-scope", `${exchange.route} takes the scope operate`);
}

/** The caller of what is open to everyone. */
export const anyone = ({ transport }: Exchange): Caller => ({ transport, scope: "use", name: "anyone" });
