/** Routes about what is sealed: plan, seal, list, verify, evict, and the operations behind them. */
import type { ErrorCode } from "../../errors.ts";
import * as replies from "../replies.ts";
import * as requests from "../requests.ts";
import { seal } from "./handlers.ts";
import { always, created, DEVICE_ERRORS, json, ok, type Route, route, VERIFY_ERRORS } from "./route.ts";

const SOURCE = ["SOURCE_NOT_FOUND", "SOURCE_REFUSED", "SOURCE_EMPTY", "SOURCE_TOO_LARGE", "MODEL_MALFORMED"] as const;
const SEAL = [
  ...["NAME_CONFLICT", "SEAL_IN_PROGRESS", "DIGEST_MISMATCH", "OUT_OF_VRAM", "WORKER_STOPPED", "SOURCE_CHANGED"],
  ...["SOURCE_READ_FAILED", "POLICY_VIOLATION", "AUDIT_UNAVAILABLE"],
] as const satisfies readonly ErrorCode[];

/** What there is of one name or id. */
export const shownShards = replies.listing.pick({ shards: true, missing: true }).meta({ id: "ShownShards" });

export const shardRoutes: readonly Route[] = [
  route({
    method: "POST",
    path: "/v1/plan",
    operationId: "plan",
    summary: "Whether a file would fit, without sealing it",
    scope: "use",
    body: requests.planRequest,
    outcomes: [ok("what it takes, and what there is", replies.plan)],
    errors: [...SOURCE, "DEVICE_NOT_FOUND", ...DEVICE_ERRORS],
    work: always,
    handle: async ({ service, body, caller }) => json(await service.plan(body, caller)),
  }),
  route({
    method: "POST",
    path: "/v1/shards",
    operationId: "seal",
    summary: "Seal a file, or the set of files of a model",
    scope: "operate",
    body: requests.sealRequest,
    outcomes: [
      { ...ok("it has begun; the operation says how far it is", replies.operation), status: 202, location: true },
      { ...created("it is sealed; with `wait`", replies.operation), location: true },
    ],
    errors: [...SOURCE, ...SEAL, "DEVICE_NOT_FOUND", ...DEVICE_ERRORS, "ABORTED"],
    work: ({ wait }) => wait === true,
    handle: seal,
  }),
  route({
    method: "GET",
    path: "/v1/shards",
    operationId: "listShards",
    summary: "What is resident, what is wanted and missing, what is being sealed",
    scope: "use",
    outcomes: [ok("all of it", replies.listing)],
    handle: ({ service }) => json(service.list()),
  }),
  route({
    method: "GET",
    path: "/v1/shards/{shard}",
    operationId: "showShard",
    summary: "One shard or set, by id or name",
    scope: "use",
    outcomes: [ok("what is resident of it, and what is missing", shownShards)],
    errors: ["SHARD_NOT_FOUND"],
    handle: ({ service, params }) => json(service.show(params.shard)),
  }),
  route({
    method: "DELETE",
    path: "/v1/shards/{shard}",
    operationId: "evictShard",
    summary: "Evict a shard or set: zeroed and freed, and not wanted any more",
    scope: "operate",
    query: requests.evictQuery,
    outcomes: [ok("what was evicted", replies.eviction)],
    errors: ["SHARD_NOT_FOUND", "SHARD_BUSY", ...DEVICE_ERRORS],
    work: always,
    handle: async ({ service, params, query }) =>
      json(await service.evict(params.shard, { revoke: query.revoke === "true" })),
  }),
  route({
    method: "POST",
    path: "/v1/shards/{shard}/verifications",
    operationId: "verifyShard",
    summary: "Measure a shard in VRAM, or settle for a measurement that is fresh enough",
    scope: "use",
    body: requests.verifyRequest,
    outcomes: [ok("the bytes in VRAM are the sealed ones", replies.verification)],
    errors: [...VERIFY_ERRORS, ...DEVICE_ERRORS],
    work: always,
    handle: async ({ service, params, body, signal }) => json(await service.verify(params.shard, body, signal)),
  }),
  route({
    method: "GET",
    path: "/v1/operations/{operation}",
    operationId: "showOperation",
    summary: "How far an operation is, or how it ended",
    scope: "use",
    outcomes: [ok("the operation", replies.operation)],
    errors: ["OPERATION_NOT_FOUND"],
    handle: ({ service, params }) => json(service.operation(params.operation)),
  }),
  route({
    method: "DELETE",
    path: "/v1/operations/{operation}",
    operationId: "cancelOperation",
    summary: "Stop an operation; what it did is undone",
    scope: "operate",
    outcomes: [ok("how it ended", replies.operation)],
    errors: ["OPERATION_NOT_FOUND"],
    handle: async ({ service, params }) => json(await service.cancel(params.operation)),
  }),
];
