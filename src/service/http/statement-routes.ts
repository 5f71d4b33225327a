/** Routes about statements: what an auditor asks for, and the keys it is checked with. */
import * as replies from "../replies.ts";
import * as requests from "../requests.ts";
import { always, created, DEVICE_ERRORS, json, ok, type Route, route, VERIFY_ERRORS } from "./route.ts";

export const statementRoutes: readonly Route[] = [
  route({
    method: "POST",
    path: "/v1/statements",
    operationId: "issueStatement",
    summary: "Measure a shard with a nonce, and sign a statement about it that others can check",
    scope: "use",
    body: requests.statementRequest,
    outcomes: [created("the statement in its envelope", replies.statement)],
    errors: [...VERIFY_ERRORS, "WORKER_STOPPED", "AUDIT_UNAVAILABLE", ...DEVICE_ERRORS],
    work: always,
    handle: async ({ service, body, caller, signal }) => json(await service.attest(body, caller, signal), 201),
  }),
  route({
    method: "GET",
    path: "/v1/statement-keys",
    operationId: "showStatementKeys",
    summary: "The public keys that a statement is checked with; compare them with what its owner published",
    scope: "use",
    outcomes: [ok("the keys of now", replies.statementKeys)],
    errors: ["AUDIT_UNAVAILABLE"],
    handle: ({ service }) => json(service.statementKeys()),
  }),
  route({
    method: "POST",
    path: "/v1/statement-keys",
    operationId: "rotateStatementKey",
    summary: "Sign statements with a new key from now on; the change is put on record first",
    scope: "operate",
    body: requests.rotateRequest,
    outcomes: [created("the keys of now", replies.statementKeys)],
    errors: ["AUDIT_UNAVAILABLE", "STATE_INVALID"],
    handle: async ({ service, body }) => json(await service.rotateStatementKey(body), 201),
  }),
];
