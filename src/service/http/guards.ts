/**
 * What a request must be before anything looks at what it asks for. Against: a page in somebody's browser that talks to
 * a loopback port (Host, Origin, Fetch-Metadata: DNS rebinding and cross-site requests), a proxy that reads a request in
 * another way than we do (two of what there is one of, absolute targets), and paths that mean another one.
 *
 * Sources: RFC 9110, RFC 9112; https://fetch.spec.whatwg.org/; https://w3c.github.io/webappsec-fetch-metadata/.
 */
import type { IncomingMessage } from "node:http";
import type { Transport } from "../../journal/service-body.ts";
import { authRefusal, refusal } from "./problem.ts";

/** Of each of these there is one: whoever reads the other one reads another request. */
const SINGLE = new Set([
  ...["authorization", "content-encoding", "content-length", "content-type", "expect", "host", "last-event-id"],
  ...["origin", "sec-fetch-site", "transfer-encoding", "x-correlation-id"],
]);

/** Characters of a path and a query (RFC 3986, section 3.3, 3.4). */
const TARGET = /^\/[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*(?:\?[A-Za-z0-9\-._~!$&'()*+,;=:@%/?]*)?$/;
const HOST = /^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?$/;
const SAME_SITE = new Set(["none", "same-origin"]);

/** The value of a header that there is at most one of. */
export function headerOf(incoming: IncomingMessage, name: string): string | undefined {
  const value = incoming.headers[name];
  return typeof value === "string" ? value : value?.join(", ");
}

function requireSingleHeaders({ rawHeaders }: IncomingMessage): void {
  const seen = new Set<string>();
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]?.toLowerCase() ?? "";
    if (seen.has(name)) throw refusal(400, `there are two headers ${name}, and there may be one`);
    if (SINGLE.has(name)) seen.add(name);
  }
}

/** The text that percent-encoded UTF-8 stands for. */
export function decodePart(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw refusal(400, "the target is not percent-encoded UTF-8");
  }
}

/** Path and query of a request, as they came. A dot segment is refused, however it is written: it means another path. */
export function requireTarget(incoming: IncomingMessage): { readonly path: string; readonly query: string } {
  const target = incoming.url ?? "";
  if (!TARGET.test(target)) throw refusal(400, "the target of a request is a path and a query");
  const mark = target.indexOf("?");
  const path = mark === -1 ? target : target.slice(0, mark);
  for (const segment of path.split("/").map(decodePart)) {
    if (segment === "." || segment === "..") throw refusal(400, "a path has no dot segments");
    if (/\p{Cc}/u.test(segment)) throw refusal(400, "a path has no control characters");
  }
  return { path, query: mark === -1 ? "" : target.slice(mark + 1) };
}

/** Which names a listener goes by. */
export type HostCheck = (host: string) => boolean;

/**
 * Names of a TCP listener: its own address, those of this machine's loopback if it is one, and what the configuration
 * allows. A port is the listener's or the scheme's; a configured name may come with any, as behind a proxy.
 */
export function createHostCheck(
  own: { readonly host: string; readonly port: number; readonly isLoopback: boolean; readonly isTls: boolean },
  allowedHosts: readonly string[],
): HostCheck {
  const literal = own.host.includes(":") ? `[${own.host}]` : own.host;
  const hosts = own.isLoopback ? [literal, "localhost", "127.0.0.1", "[::1]"] : [literal];
  const usual = own.isTls ? 443 : 80;
  return (host) => {
    const [, name = "", digits] = /^(.*?)(?::([0-9]+))?$/.exec(host.toLowerCase()) ?? [];
    if (allowedHosts.includes(name)) return true;
    return hosts.includes(name) && Number(digits ?? usual) === own.port;
  };
}

/** Throws unless the request may be looked at. `isOwnHost` is absent on a socket, which no browser reaches. */
export function requireDecent(incoming: IncomingMessage, transport: Transport, isOwnHost: HostCheck | undefined): void {
  requireSingleHeaders(incoming);
  const host = headerOf(incoming, "host");
  if (host === undefined ? incoming.httpVersion !== "1.0" || transport === "tcp" : !HOST.test(host)) {
    throw refusal(400, "a request has one header Host");
  }
  if (isOwnHost !== undefined && !isOwnHost(host ?? "")) {
    throw authRefusal("wrong-host", "the header Host does not name this service; `allowedHosts` can allow it");
  }
  if (transport === "socket") return;
  const site = headerOf(incoming, "sec-fetch-site");
  if (headerOf(incoming, "origin") !== undefined || (site !== undefined && !SAME_SITE.has(site))) {
    throw authRefusal("cross-site", "requests of web pages are not answered");
  }
}
