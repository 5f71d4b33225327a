/** Routes about the service itself: workers, devices, the feed, the audit log, figures and health. */
import * as replies from "../replies.ts";
import * as requests from "../requests.ts";
import { FEED_TYPE, feedRequest } from "./feed.ts";
import { lines } from "./handlers.ts";
import { always, DEVICE_ERRORS, JSON_TYPE, json, ok, type Route, route, text, textual } from "./route.ts";

const EVERYWHERE = ["socket", "tcp", "metrics"] as const;
const NOTE_TYPE = "text/plain; charset=utf-8";
const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";
const LINES_TYPE = "application/jsonl";

export const stateRoutes: readonly Route[] = [
  route({
    method: "POST",
    path: "/v1/resume",
    operationId: "resume",
    summary: "Let a stopped worker go on, with the reason",
    scope: "operate",
    body: requests.resumeRequest,
    outcomes: [ok("the devices", replies.devices)],
    errors: ["DEVICE_NOT_FOUND", "AUDIT_UNAVAILABLE", ...DEVICE_ERRORS],
    work: always,
    handle: async ({ service, body }) => json({ devices: await service.resume(body) }),
  }),
  route({
    method: "GET",
    path: "/v1/ready",
    operationId: "showReadiness",
    summary: "Whether everything wanted is resident, and everything that stands against it",
    scope: "use",
    outcomes: [ok("the state of the service, ready or not", replies.readiness)],
    handle: async ({ service }) => json(await service.ready()),
  }),
  route({
    method: "GET",
    path: "/v1/devices",
    operationId: "listDevices",
    summary: "The devices, their workers, processes and capacity",
    scope: "use",
    outcomes: [ok("all of them", replies.devices)],
    handle: async ({ service }) => json({ devices: await service.devices() }),
  }),
  route({
    method: "GET",
    path: "/v1/feed",
    operationId: "readFeed",
    summary: "What happens, as it happens: server-sent entries of the journal",
    scope: "use",
    query: requests.feedQuery,
    outcomes: [textual("entries, and `gap` where some are missing; ends when the service does", FEED_TYPE)],
    errors: ["SERVICE_BUSY", "SERVICE_STOPPING"],
    handle: ({ service, lastEventId, query }) => feedRequest(service.instanceId, lastEventId, query),
  }),
  route({
    method: "GET",
    path: "/v1/audit/checkpoint",
    operationId: "showLogCheckpoint",
    summary: "The newest log checkpoint, a signed note",
    scope: "operate",
    outcomes: [textual("the note", NOTE_TYPE)],
    errors: ["AUDIT_UNAVAILABLE"],
    handle: async ({ service }) => text(NOTE_TYPE, await service.logCheckpoint()),
  }),
  route({
    method: "GET",
    path: "/v1/audit/entries",
    operationId: "listLogLines",
    summary: "The newest lines of the audit log, as they stand there",
    scope: "operate",
    query: requests.entriesQuery,
    outcomes: [textual("the lines", LINES_TYPE)],
    errors: ["AUDIT_UNAVAILABLE"],
    handle: lines,
  }),
  route({
    method: "GET",
    path: "/v1/audit/proofs/{seq}",
    operationId: "proveLogLine",
    summary: "A proof that a line is in the audit log (C2SP tlog-proof)",
    scope: "operate",
    outcomes: [textual("the proof", NOTE_TYPE)],
    errors: ["AUDIT_UNAVAILABLE"],
    handle: async ({ service, params }) => text(NOTE_TYPE, await service.logProof(Number(params.seq))),
  }),
];

export const healthRoutes: readonly Route[] = [
  route({
    method: "GET",
    path: "/metrics",
    operationId: "showMetrics",
    summary: "Figures in the Prometheus text format",
    scope: "use",
    listeners: EVERYWHERE,
    outcomes: [textual("the figures", METRICS_TYPE)],
    handle: async ({ service }) => text(METRICS_TYPE, await service.metrics()),
  }),
  route({
    method: "GET",
    path: "/healthz",
    operationId: "showHealth",
    summary: "Whether the service answers",
    scope: "open",
    listeners: EVERYWHERE,
    outcomes: [ok("it does", replies.health)],
    handle: () => json({ status: "ok" }),
  }),
  route({
    method: "GET",
    path: "/readyz",
    operationId: "showReady",
    summary: "Whether everything wanted is resident and verified; asks no device",
    scope: "open",
    listeners: EVERYWHERE,
    outcomes: [ok("it is", replies.health), { ...ok("it is not", replies.health), status: 503 }],
    handle: ({ service, isDraining }) =>
      service.isReady() && !isDraining ? json({ status: "ok" }) : json({ status: "not-ready" }, 503),
  }),
  route({
    method: "GET",
    path: "/v1/openapi.json",
    operationId: "showOpenApi",
    summary: "This document",
    scope: "open",
    outcomes: [textual("the document", JSON_TYPE)],
    handle: ({ document }) => text(JSON_TYPE, document),
  }),
];
