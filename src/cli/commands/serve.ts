/**
 * `vram serve`: opens the service, then the sockets in front of it, then seals again what is wanted. A signal drains it:
 * leases are waited for, everything is zeroed and freed, the audit log ends with a log checkpoint. A second one stops it
 * at once, which is on record too.
 */

import { readFile } from "node:fs/promises";
import { firstOf } from "../../clock.ts";
import type { ConfigValues } from "../../config/table.ts";
import { evidenceOf } from "../../device/detect.ts";
import { toVramError, VramError } from "../../errors.ts";
import { keepMemoryPrivate } from "../../ffi/process.ts";
import { peerCredentials } from "../../ffi/sockets.ts";
import { line } from "../../narrate/line.ts";
import { openServer } from "../../service/http/server.ts";
import { createNotifier } from "../../service/notify.ts";
import { type OpenService, openService } from "../../service/open-service.ts";
import { openTokens } from "../../service/tokens.ts";
import { type ConfigOptions, loadHostConfig, placeOf } from "../config-options.ts";
import { EXIT } from "../exit.ts";
import type { Host } from "../host.ts";
import { type Narration, type NarrationOptions, openNarration } from "../narration.ts";

export interface ServeOptions extends ConfigOptions, NarrationOptions {
  readonly json?: true;
}

type HttpServer = Awaited<ReturnType<typeof openServer>>;

/** The number of the group that may use the socket; undefined for none. */
async function groupIdOf(group: ConfigValues["allowedGroup"]): Promise<number | undefined> {
  if (group === "") return undefined;
  if (typeof group === "number") return group;
  const rows = (await readFile("/etc/group", "utf8")).split("\n").map((row) => row.split(":"));
  const id = Number(rows.find(([name]) => name === group)?.[2] ?? Number.NaN);
  if (Number.isInteger(id)) return id;
  throw new VramError("INVALID_ARGUMENT", `allowedGroup: /etc/group has no group ${group}`, {
    fix: "make the group, or give its number",
    details: { argument: "allowedGroup" },
  });
}

/** Opens what callers reach. */
async function openFront({ service, open }: OpenService, values: ConfigValues): Promise<HttpServer> {
  return openServer({
    ...{ service, values, peerOf: peerCredentials },
    tokens: openTokens(values.stateDir ?? ""),
    uid: process.getuid?.() ?? 0,
    groupId: await groupIdOf(values.allowedGroup),
    report: open.system.reportRelease,
  });
}

function announce(host: Host, options: ServeOptions, { service, open }: OpenService, server: HttpServer): void {
  const { backend, because } = open.decision;
  const { socket, listen, metrics } = server.addresses;
  const evidence = evidenceOf(backend);
  if (options.json === true) {
    const { instanceId } = service;
    const document = { socket, listen, metrics, pid: process.pid, instanceId, backend, because, evidence };
    host.out(`${JSON.stringify({ schema: "vram-residency/serve/v1", ...document })}\n`);
    return;
  }
  const tcp = listen === undefined ? "" : `, and on ${listen.host}:${listen.port}`;
  const figures = metrics === undefined ? "" : `; metrics on ${metrics.host}:${metrics.port}`;
  host.out(`vram serves on ${socket}${tcp}${figures} (pid ${process.pid}, backend ${backend})\n`);
  if (backend !== "cuda") host.out(`${evidence}\n`);
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });

/** What ends a service: a first signal, and a second one. */
interface Stops {
  readonly stopped: Promise<void>;
  readonly urgent: AbortSignal;
}

/** Signals are heard from here on. */
function hearStops(host: Host): Stops {
  const { urgent = new AbortController().signal, signal } = host;
  return { stopped: aborted(signal), urgent };
}

/** Waits for a signal, then ends in order; at once on the second. */
async function serveUntilStopped(
  { stopped, urgent }: Stops,
  opened: OpenService,
  server: HttpServer,
  narration: Narration,
  drainMs: number,
): Promise<number> {
  await stopped;
  narration.tell(
    line(["vram-residency", "drain", "stopping"], "vram-residency", "stopping: no new work, leases drain"),
  );
  server.drain();
  const inOrder = async (): Promise<void> => {
    await opened.drain(firstOf(urgent, AbortSignal.timeout(drainMs)));
    if (urgent.aborted) return;
    server.stopAccepting();
    await opened.close();
    await server.close();
  };
  await Promise.race([inOrder(), aborted(urgent)]);
  if (!urgent.aborted) return EXIT.ok;
  await opened.abandon();
  await server.close(0);
  return EXIT.interrupted;
}

/** Runs the command. */
export async function runServe(host: Host, _words: readonly string[], options: ServeOptions): Promise<number> {
  // Keys and tokens are in this process: neither a core file nor another process of this user gets to see them.
  keepMemoryPrivate();
  const config = await loadHostConfig(host, options);
  const { values } = config;
  const narration = await openNarration(host, {
    ...options,
    logFormat: options.logFormat ?? values["log.format"],
    ...(options.quiet === true ? {} : { logLevel: options.logLevel ?? values["log.level"] }),
  });
  const notifier = createNotifier({ env: host.env, pid: process.pid });
  const { onOpen, ...hooks } = host.service ?? {};
  const opened = await openService({ config, place: placeOf(host), readers: [narration.reader], ...hooks });
  // Whoever finds the service open may stop it at once.
  const stops = hearStops(host);
  let server: HttpServer;
  try {
    server = await openFront(opened, values);
  } catch (error) {
    await opened.close();
    throw toVramError(error);
  }
  onOpen?.(opened);
  announce(host, options, opened, server);
  opened.restore();
  notifier?.ready(opened.service);
  void stops.stopped.then(() => notifier?.stopping());
  try {
    return await serveUntilStopped(stops, opened, server, narration, values["lease.drainMs"]);
  } finally {
    notifier?.close();
  }
}
