/** Routes about leases: the execute gate, and what becomes of what it granted. */
import * as replies from "../replies.ts";
import * as requests from "../requests.ts";
import { always, created, DEVICE_ERRORS, json, ok, type Route, route, VERIFY_ERRORS } from "./route.ts";

export const leaseRoutes: readonly Route[] = [
  route({
    method: "POST",
    path: "/v1/leases",
    operationId: "grantLease",
    summary: "The execute gate: verify a shard, then grant a lease on it",
    scope: "use",
    body: requests.leaseRequest,
    outcomes: [created("the lease, and the verification it was granted on", replies.grantedLease)],
    errors: [...VERIFY_ERRORS, "WORKER_STOPPED", "SERVICE_BUSY", "AUDIT_UNAVAILABLE", ...DEVICE_ERRORS],
    work: always,
    handle: async ({ service, body, caller, signal }) => json(await service.grant(body, caller, signal), 201),
  }),
  route({
    method: "GET",
    path: "/v1/leases",
    operationId: "listLeases",
    summary: "The leases that are held",
    scope: "operate",
    outcomes: [ok("all of them", replies.leases)],
    handle: ({ service }) => json({ leases: service.leases() }),
  }),
  route({
    method: "GET",
    path: "/v1/leases/{lease}",
    operationId: "showLease",
    summary: "One lease",
    scope: "use",
    outcomes: [ok("the lease", replies.lease)],
    errors: ["LEASE_NOT_FOUND"],
    handle: ({ service, params }) => json(service.lease(params.lease)),
  }),
  route({
    method: "POST",
    path: "/v1/leases/{lease}/renewals",
    operationId: "renewLease",
    summary: "Give a lease another deadline; with maxAgeMs its shard is verified first",
    scope: "use",
    body: requests.renewRequest,
    outcomes: [ok("the lease", replies.renewedLease)],
    errors: ["LEASE_NOT_FOUND", ...VERIFY_ERRORS, "WORKER_STOPPED", "AUDIT_UNAVAILABLE", ...DEVICE_ERRORS],
    work: ({ maxAgeMs }) => maxAgeMs !== undefined,
    handle: async ({ service, params, body, caller, signal }) =>
      json(await service.renew(params.lease, body, caller, signal)),
  }),
  route({
    method: "DELETE",
    path: "/v1/leases/{lease}",
    operationId: "releaseLease",
    summary: "Give a lease back",
    scope: "use",
    outcomes: [ok("the lease as it was", replies.lease)],
    errors: ["LEASE_NOT_FOUND"],
    handle: async ({ service, params, caller }) => json(await service.release(params.lease, caller)),
  }),
];
