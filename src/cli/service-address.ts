/**
 * Where the service is that a command talks to (design §5, "HTTP"): `--url`, `--socket`, `VRAM_SOCKET`, or the socket
 * where a service is unless configured. The client is loaded when it is used.
 */
import { lstatSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { printable } from "../bytes.ts";
import type { Client, ServiceAddress } from "../client.ts";
import { defaultSocket, type Place } from "../config/places.ts";
import { VramError } from "../errors.ts";
import { placeOf } from "./config-options.ts";
import type { Host } from "./host.ts";

/** What every command that talks to a service takes. */
export interface ServiceOptions {
  readonly json?: true;
  readonly socket?: string;
  readonly url?: string;
}

/** `sun_path` has 108 bytes, one of them for the NUL at its end (unix(7)). */
const SOCKET_PATH_BYTES = 107;

/**
 * In a folder for everybody's files, somebody else may have made this one first: what answers there would be his.
 * `SERVICE_UNREACHABLE` if it is not `uid`'s, or others may write to it.
 */
export function requireOwnFolder(folder: string, uid: number): void {
  const stats = lstatSync(folder, { throwIfNoEntry: false });
  if (stats === undefined || (stats.isDirectory() && stats.uid === uid && (stats.mode & 0o022) === 0)) return;
  throw new VramError(
    "SERVICE_UNREACHABLE",
    `${folder}: is another user's, or others may write to it: anybody may answer there`,
    {
      fix: "have it removed and start `vram serve` again, or name the socket with --socket or VRAM_SOCKET",
    },
  );
}

/** The socket of the service at this place. */
function usualSocket(place: Place): string {
  const socket = defaultSocket(place);
  const folder = dirname(socket);
  if (basename(folder) === `vram-residency-${place.uid}`) requireOwnFolder(folder, place.uid);
  return socket;
}

/** The service that is meant. Relative paths are relative to the working directory; an empty variable counts as unset. */
export function addressOf(host: Host, { socket, url }: ServiceOptions): ServiceAddress {
  const { VRAM_SOCKET: variable = "", VRAM_TOKEN: token = "" } = host.env;
  if (url !== undefined) return token === "" ? { url } : { url, token };
  const place = placeOf(host);
  const named = socket ?? variable;
  if (socket === "") throw new VramError("INVALID_ARGUMENT", "--socket must name a socket");
  if (named === "") return { socket: usualSocket(place) };
  const path = resolve(place.cwd, named);
  if (Buffer.byteLength(path) <= SOCKET_PATH_BYTES) return { socket: path };
  throw new VramError("INVALID_ARGUMENT", `a socket's path has at most ${SOCKET_PATH_BYTES} bytes`, {
    fix: "name a shorter one",
    details: { argument: "socket" },
  });
}

/** Runs `task` with a client of the service that is meant. */
export async function withService<T>(
  host: Host,
  options: ServiceOptions,
  task: (client: Client, address: ServiceAddress) => Promise<T>,
): Promise<T> {
  const address = addressOf(host, options);
  const { openClient } = await import("../client.ts");
  const client = openClient(address);
  try {
    return await task(client, address);
  } finally {
    client.close();
  }
}

/** Says on the talk output what a backend that is no GPU is worth. */
export function warnOfBackend(host: Host, backend: string, evidence?: string): void {
  if (backend === "cuda") return;
  const means = evidence ?? "nothing measured on it is evidence about a GPU";
  host.err(`backend ${backend}: ${printable(means)}\n`);
}
