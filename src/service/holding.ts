/** Whose a lease is, and how long one may be: what granting, renewing and attaching have in common. */
import { VramError } from "../errors.ts";
import type { Parts } from "./parts.ts";
import type { Caller } from "./service.ts";

/** Ids of leases are on the feed: knowing one is not holding it. */
export function requireHolder({ open }: Parts, leaseId: string, caller: Caller): void {
  if (caller.scope === "operate" || open.leases.callerOf(leaseId) === caller.name) return;
  throw new VramError("FORBIDDEN", `the lease ${leaseId} is another's`, {
    fix: "whoever was granted a lease renews and releases it, or who may do everything",
  });
}

export function durationOf({ values }: Parts, asked: number | undefined): number {
  const durationMs = asked ?? Math.min(values["lease.defaultMs"], values["lease.maxMs"]);
  if (durationMs <= values["lease.maxMs"]) return durationMs;
  throw new VramError("INVALID_ARGUMENT", `durationMs: a lease lasts ${values["lease.maxMs"]} ms at most`, {
    fix: "renew it before it ends",
    details: { argument: "durationMs", limit: values["lease.maxMs"] },
  });
}
