/**
 * `vram lease`: runs a command under a lease. The service verifies the bytes, or settles for a verification fresh enough,
 * before the command starts; when the lease is lost, the command is told to end, because what it reads is not what was
 * sealed any more, or nobody vouches for it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { printable } from "../../bytes.ts";
import type { Client, GrantedLease, ServiceAddress } from "../../client.ts";
import { throwIfAborted, toVramError, VramError } from "../../errors.ts";
import { formatAge, parseMs } from "../figures.ts";
import { colorsFor, type Host } from "../host.ts";
import { printJson } from "../json.ts";
import { type ServiceOptions, warnOfBackend, withService } from "../service-address.ts";
import { type Child, type ChildEnd, passSignals, startChild, statusOf, unstartable } from "./lease-child.ts";
import { type Kept, keepLease } from "./lease-keep.ts";

export interface LeaseOptions extends ServiceOptions {
  readonly verify?: true;
  readonly maxAge?: string;
  readonly duration?: string;
  readonly holder?: string;
  readonly onRevoke?: "terminate" | "keep";
}

/** After SIGTERM a command has so long. */
const GRACE_MS = 10_000;
/** A service that does not answer keeps nobody from ending: the lease runs out by itself. */
const RELEASE_MS = 10_000;

interface Leased {
  readonly host: Host;
  readonly client: Client;
  readonly granted: GrantedLease;
  readonly durationMs: number | undefined;
  readonly keepOnRevoke: boolean;
}

function tellLoss({ host, granted, keepOnRevoke }: Leased, why: string): void {
  const { red } = colorsFor(host, host.errIsTerminal);
  const then = keepOnRevoke
    ? "the command goes on (--on-revoke keep): what it reads may not be what was sealed"
    : `the command gets SIGTERM now, and SIGKILL in ${formatAge(GRACE_MS)}`;
  host.err(`${red("LEASE LOST")} ${printable(granted.lease.name)}: ${printable(why)}\n${then}\n`);
}

/** Keeps the lease while the child runs. */
async function runUnder(leased: Leased, child: Child): Promise<{ readonly end: ChildEnd; readonly kept: Kept }> {
  const { host, client, granted, durationMs, keepOnRevoke } = leased;
  const over = new AbortController();
  const stopPassing = passSignals(host, child);
  const keeping = {
    ...{ durationMs, signal: over.signal, nowMs: () => performance.now() },
    pause: (ms: number, signal: AbortSignal) => sleep(ms, undefined, { signal }).catch(() => undefined),
  };
  const keeper = keepLease(client, granted.lease, keeping, (why) => {
    tellLoss(leased, why);
    if (!keepOnRevoke) child.terminate(GRACE_MS);
  });
  try {
    const end = await child.ended;
    over.abort();
    return { end, kept: await keeper };
  } finally {
    stopPassing();
  }
}

/** Gives the lease back; whether that was possible. */
async function release({ host, client, granted }: Leased): Promise<boolean> {
  try {
    await client.release(granted.lease.leaseId, { signal: AbortSignal.timeout(RELEASE_MS) });
    return true;
  } catch (thrown) {
    const error = toVramError(thrown);
    const when = "it ends by itself when its time is over";
    if (error.code !== "LEASE_NOT_FOUND")
      host.err(`the lease could not be released, ${when}: ${printable(error.message)}\n`);
    return false;
  }
}

/** What the child finds in its environment besides ours. */
function environmentOf(host: Host, address: ServiceAddress, { lease }: GrantedLease): NodeJS.ProcessEnv {
  // Whoever came by --url has no socket to pass on; that of another service would be the wrong one.
  const { VRAM_SOCKET: _other, ...env } = host.env;
  return {
    ...env,
    ...("socket" in address ? { VRAM_SOCKET: address.socket } : {}),
    VRAM_LEASE: lease.leaseId,
    VRAM_NAME: lease.name,
  };
}

/** Starts the child; the exit status, if there is none. */
async function start(host: Host, command: readonly string[], env: NodeJS.ProcessEnv): Promise<Child | number> {
  try {
    return await startChild(command, env);
  } catch (cause) {
    const known = unstartable(cause, command[0] ?? "");
    if (known === undefined) throw cause;
    host.err(`${printable(known.message)}\n`);
    return known.status;
  }
}

async function runLeased(
  leased: Leased,
  command: readonly string[],
  env: NodeJS.ProcessEnv,
  json: boolean,
): Promise<number> {
  const { host, granted } = leased;
  let ran: Awaited<ReturnType<typeof runUnder>> | undefined;
  let released = false;
  let status = 0;
  try {
    throwIfAborted(host.signal);
    const child = await start(host, command, env);
    if (typeof child === "number") status = child;
    else ran = await runUnder(leased, child);
  } finally {
    released = await release(leased);
  }
  if (ran !== undefined) status = statusOf(ran.end);
  const { lost, renewals } = ran?.kept ?? { lost: undefined, renewals: 0 };
  if (json) {
    const ok = status === 0 && lost === undefined;
    printJson(host, "lease", {
      ok,
      ...granted,
      renewals,
      ...(lost === undefined ? {} : { lost }),
      released,
      exit: status,
    });
  }
  return status;
}

/** Runs the command. The exit code is the child's, or 128 and the number of the signal that killed it. */
export async function runLease(
  host: Host,
  [name = "", ...command]: readonly string[],
  options: LeaseOptions,
): Promise<number> {
  if (command.length === 0) {
    throw new VramError("INVALID_ARGUMENT", "give a command to run under the lease, behind --", {
      fix: `vram lease ${name} -- my-engine --port 8000`,
      details: { argument: "command" },
    });
  }
  const { duration, holder } = options;
  const maxAge = options.verify === true ? "0" : options.maxAge;
  const durationMs = duration === undefined ? undefined : parseMs(duration, "--duration");
  const request = {
    shard: name,
    ...(maxAge === undefined ? {} : { maxAgeMs: parseMs(maxAge, "--max-age") }),
    ...(durationMs === undefined ? {} : { durationMs }),
    holder: holder ?? `${command[0] ?? ""} (pid ${process.pid})`.slice(-128),
  };
  return withService(host, options, async (client, address) => {
    throwIfAborted(host.signal);
    // Not called off: a lease that was granted has to be given back.
    const granted = await client.grant(request);
    const { lease } = granted;
    warnOfBackend(host, lease.backend);
    const leased: Leased = { host, client, granted, durationMs, keepOnRevoke: options.onRevoke === "keep" };
    return runLeased(leased, command, environmentOf(host, address, granted), options.json === true);
  });
}
