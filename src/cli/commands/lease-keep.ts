/**
 * Keeping a lease: it is renewed at half of what remains, and the feed tells of its revocation at once. A lease that
 * cannot be renewed is lost when the service says so, or when it runs out, whatever the reason.
 */

import type { Client, LeaseReply } from "../../client.ts";
import { firstOf } from "../../clock.ts";
import { toVramError } from "../../errors.ts";

/** How a lease is kept. Tests hand in their own time. */
export interface Keeping {
  readonly durationMs: number | undefined;
  /** Fires when it is needed no more. */
  readonly signal: AbortSignal;
  readonly nowMs: () => number;
  /** Waits; ends early when the signal fires. */
  readonly pause: (ms: number, signal: AbortSignal) => Promise<void>;
}

export interface Kept {
  /** Why it was lost; undefined if it was held to the end. */
  readonly lost: string | undefined;
  readonly renewals: number;
}

/** Renewals are no closer than this, so that a service in trouble is not asked without end. */
const RENEW_MIN_MS = 250;
/** Where no feed tells of a revocation, the service is asked this often. */
const LOOK_MS = 5000;

/** Renews until the signal fires, or the lease is lost. */
async function renewOn(client: Client, granted: LeaseReply, keeping: Keeping, isDeaf: () => boolean): Promise<Kept> {
  const { durationMs, signal, nowMs, pause } = keeping;
  let endsMs = nowMs() + granted.remainingMs;
  // Half of what remains from now.
  const halfMs = (): number => Math.max((endsMs - nowMs()) / 2, RENEW_MIN_MS);
  let dueMs = nowMs() + halfMs();
  let renewals = 0;
  let trouble = "";
  const isOver = (): boolean => signal.aborted;
  for (;;) {
    const leftMs = endsMs - nowMs();
    if (isOver()) return { lost: undefined, renewals };
    if (leftMs <= 0) return { lost: `it ran out and could not be renewed${trouble}`, renewals };
    const restMs = Math.min(leftMs, Math.max(dueMs - nowMs(), 0));
    if (isDeaf() && restMs > LOOK_MS) {
      await pause(LOOK_MS, signal);
      const gone = isOver() ? undefined : await lookFor(client, granted, signal);
      if (gone !== undefined) return { lost: gone, renewals };
      continue;
    }
    await pause(restMs, signal);
    if (isOver()) continue;
    const [sentMs, waitMs] = [nowMs(), Math.max(1, Math.ceil(endsMs - nowMs()))];
    try {
      // What is answered after its end is too late.
      const inTime = firstOf(signal, AbortSignal.timeout(waitMs));
      const { lease } = await client.renew(granted.leaseId, durationMs === undefined ? {} : { durationMs }, {
        signal: inTime,
      });
      // What the service says remains, remained when it was asked, or a little later.
      endsMs = sentMs + lease.remainingMs;
      renewals += 1;
    } catch (thrown) {
      const { code, message, retriable } = toVramError(thrown);
      if (!retriable && !isOver()) return { lost: message, renewals };
      if (code !== "ABORTED") trouble = `: ${message}`;
    }
    dueMs = nowMs() + halfMs();
  }
}

/** Why the lease is no more; undefined if it stands, or nobody can say. */
async function lookFor(client: Client, { leaseId }: LeaseReply, signal: AbortSignal): Promise<string | undefined> {
  try {
    await client.lease(leaseId, { signal });
    return undefined;
  } catch (thrown) {
    const { code, message } = toVramError(thrown);
    return code === "LEASE_NOT_FOUND" ? message : undefined;
  }
}

/** Resolves to why the lease was lost, as the feed tells it; to undefined if the feed ends before that. */
async function hearOfLoss(
  client: Client,
  { leaseId }: LeaseReply,
  signal: AbortSignal,
  onDeaf: () => void,
): Promise<string | undefined> {
  try {
    for await (const item of client.feed({ types: ["lease_revoked", "lease_expired"], signal })) {
      // After a gap nobody knows what was said in it.
      if (item.kind === "gap") await client.lease(leaseId, { signal });
      else if (item.entry["leaseId"] === leaseId) {
        const because = item.entry["because"];
        return item.entry.type === "lease_expired" ? "it ran out" : `it was revoked (${String(because)})`;
      }
    }
  } catch (thrown) {
    const { code, message, retriable } = toVramError(thrown);
    if (code === "LEASE_NOT_FOUND") return message;
    // There are as many feeds as there may be, or the service is away.
    if (retriable) onDeaf();
  }
  return undefined;
}

/** Keeps a lease until `signal` fires or it is lost; `onLost` is called at once, and at most once. */
export async function keepLease(
  client: Client,
  granted: LeaseReply,
  keeping: Keeping,
  onLost: (why: string) => void,
): Promise<Kept> {
  const stop = new AbortController();
  const signal = firstOf(keeping.signal, stop.signal);
  let lost: string | undefined;
  const lose = (why: string | undefined): void => {
    if (why === undefined || lost !== undefined || keeping.signal.aborted) return;
    lost = why;
    stop.abort();
    onLost(why);
  };
  let deaf = false;
  const onDeaf = (): void => {
    deaf = true;
  };
  const hearing = hearOfLoss(client, granted, signal, onDeaf).then(lose);
  const { lost: why, renewals } = await renewOn(client, granted, { ...keeping, signal }, () => deaf);
  lose(why);
  stop.abort();
  await hearing;
  return { lost, renewals };
}
