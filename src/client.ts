/**
 * `vram-residency/client`: the API of a service as functions. The commands that talk to a service use nothing else.
 *
 * Every function throws `VramError`: what the service refused under the service's own code, `SERVICE_UNREACHABLE` where
 * nobody answers or somebody else does, `ABORTED` when the signal fires. Calls that only ask have a deadline of 60 s.
 * Those that measure or seal have none of their own: the service has one for whatever it asks of a device.
 *
 * ```ts
 * const client = openClient({ socket: "/run/vram-residency/vram.sock" });
 * const { lease } = await client.grant({ shard: "model.safetensors", maxAgeMs: 0 });
 * ```
 *
 * @module vram-residency/client
 */
import type { z } from "zod";
import { anyObject, readState, readValue, requireSuccess } from "./client/answers.ts";
import type { Attachment, AttachTerms } from "./client/attach.ts";
import { type FeedItem, type FeedOptions, type Pause, readFeed } from "./client/feed.ts";
import { type Exchange, openTransport, type ServiceAddress } from "./client/transport.ts";
import { VramError } from "./errors.ts";
import * as replies from "./service/replies.ts";
import type {
  LeaseRequest,
  PlanRequest,
  RenewRequest,
  ResumeRequest,
  RotateRequest,
  SealRequestBody,
  StatementRequest,
  VerifyRequestBody,
} from "./service/requests.ts";

export { errorFromReply } from "./client/answers.ts";
export type {
  AttachedTensor,
  Attachment,
  AttachTerms,
  DeviceAttachment,
  HostAttachment,
} from "./client/attach.ts";
export type { EndedLease } from "./client/attach-checks.ts";
export type { FeedEntry, FeedItem, FeedOptions, Pause } from "./client/feed.ts";
export type { ServiceAddress } from "./client/transport.ts";
export { type ErrorCode, VramError } from "./errors.ts";
export { withCorrelation } from "./journal/scope.ts";
export type {
  DeviceState,
  Eviction,
  GrantedLease,
  LeaseReply,
  Listing,
  MissingShard,
  OperationReply,
  Plan,
  Readiness,
  RenewedLease,
  ShardRecordReply,
  StatementKeysReply,
  StatementReply,
  Verification,
} from "./service/replies.ts";
export type {
  LeaseRequest,
  PlanRequest,
  RenewRequest,
  ResumeRequest,
  RotateRequest,
  SealRequestBody,
  StatementRequest,
  VerifyRequestBody,
};

/** What every call takes. */
export interface CallOptions {
  /** Fires: the request is given up, and the call throws `ABORTED`. What the service has begun may go on. */
  readonly signal?: AbortSignal | undefined;
}

/** A shard, or the members of a set; or something wanted that is not resident. */
export type Shown = Pick<replies.Listing, "shards" | "missing">;

/** A service. Shards go by their id or name. */
export interface Client {
  /** The socket or address, for messages. */
  readonly where: string;
  /** Whether a file would fit, by its header and the account of the device. Reserves nothing. */
  plan(request: PlanRequest, options?: CallOptions): Promise<replies.Plan>;
  /** Begins to seal; with `wait: true` answers when that has ended. A failed operation is an answer, not an error. */
  seal(request: SealRequestBody, options?: CallOptions): Promise<replies.OperationReply>;
  /** How far a seal or restore is, or how it ended. `OPERATION_NOT_FOUND` for an id that the service does not have. */
  operation(operationId: string, options?: CallOptions): Promise<replies.OperationReply>;
  /** Stops an operation; what it did is undone. `OPERATION_NOT_FOUND` for an id that the service does not have. */
  cancel(operationId: string, options?: CallOptions): Promise<replies.OperationReply>;
  /** What is resident, what is wanted and missing, what is being sealed. */
  list(options?: CallOptions): Promise<replies.Listing>;
  /** One shard, or the members of a set. `SHARD_NOT_FOUND` if there is none. */
  show(shard: string, options?: CallOptions): Promise<Shown>;
  /** Measures the shard in VRAM, or settles for a measurement that is fresh enough. Throws, or returns a report. */
  verify(shard: string, request?: VerifyRequestBody, options?: CallOptions): Promise<replies.Verification>;
  /** The execute gate: verifies, or settles for a verification fresh enough, then grants. */
  grant(request: LeaseRequest, options?: CallOptions): Promise<replies.GrantedLease>;
  /**
   * Gives a lease another deadline; with `maxAgeMs` its shard is verified first. `LEASE_NOT_FOUND` once it has ended.
   */
  renew(leaseId: string, request?: RenewRequest, options?: CallOptions): Promise<replies.RenewedLease>;
  /** Gives a lease back. `LEASE_NOT_FOUND` once it has ended. */
  release(leaseId: string, options?: CallOptions): Promise<replies.LeaseReply>;
  /** One lease that is held. `LEASE_NOT_FOUND` once it has ended. */
  lease(leaseId: string, options?: CallOptions): Promise<replies.LeaseReply>;
  /** All leases that are held; scope `operate`. */
  leases(options?: CallOptions): Promise<readonly replies.LeaseReply[]>;
  /**
   * The weights themselves, where they lie, for as long as the connection is there; on a socket only. `expect` says what
   * they must be. `INVALID_ARGUMENT` for a client of a URL.
   */
  attach(shard: string, terms: AttachTerms, options?: CallOptions): Promise<Attachment>;
  /** Has a shard measured with a nonce, and a statement about it signed. */
  attest(request: StatementRequest, options?: CallOptions): Promise<replies.StatementReply>;
  /** What a statement is checked with. It should come to whoever checks another way. */
  statementKeys(options?: CallOptions): Promise<replies.StatementKeysReply>;
  /** Signs statements with a new key from now on; the change is put on record first. */
  rotateStatementKey(request: RotateRequest, options?: CallOptions): Promise<replies.StatementKeysReply>;
  /**
   * Zeroes and frees a shard or set, which is not wanted any more. `SHARD_BUSY` while it is leased, unless `revoke`.
   */
  evict(shard: string, options?: CallOptions & { readonly revoke?: boolean }): Promise<replies.Eviction>;
  /** Lets a stopped worker seal again; the reason goes on record. Returns the devices after it. */
  resume(request: ResumeRequest, options?: CallOptions): Promise<readonly replies.DeviceState[]>;
  /** The devices, with their workers, processes and capacity in bytes. */
  devices(options?: CallOptions): Promise<readonly replies.DeviceState[]>;
  /** What is resident, what is missing, and the devices; also where the service is not ready. */
  ready(options?: CallOptions): Promise<replies.Readiness>;
  /** What `/readyz` says. */
  health(options?: CallOptions): Promise<"ok" | "not-ready">;
  /** The live view of the journal; resumes by itself. Ends with the signal. */
  feed(options?: FeedOptions): AsyncIterable<FeedItem>;
  /** The newest log checkpoint, a signed note. */
  logCheckpoint(options?: CallOptions): Promise<string>;
  /** The last lines of the audit log, as they stand there; as many as the service gives unless told. */
  logLines(last?: number, options?: CallOptions): Promise<readonly string[]>;
  /** A C2SP tlog-proof that a line is in the log. */
  logProof(seq: number, options?: CallOptions): Promise<string>;
  /** Figures in the Prometheus text format. */
  metrics(options?: CallOptions): Promise<string>;
  /** The OpenAPI 3.1 document. */
  openapi(options?: CallOptions): Promise<Readonly<Record<string, unknown>>>;
  /** Ends the connections that are kept. */
  close(): void;
}

/** How a client behaves, beside where its service is. */
export interface ClientOptions {
  /** How the feed waits before it connects again. */
  readonly pause?: Pause;
}

/** Questions are answered from what the service knows; only `ready` and `devices` ask a device, which has 30 s. */
const ASK_MS = 60_000;
const shown = replies.listing.pick({ shards: true, missing: true });

/** An id or name as a part of a path. Those that would lead elsewhere are nobody's. */
function segment(idOrName: string): string {
  if (!/^\.{0,2}$/.test(idOrName)) return encodeURIComponent(idOrName);
  const message = `${JSON.stringify(idOrName)} is no id or name`;
  throw new VramError("INVALID_ARGUMENT", message, { details: { argument: "id" } });
}

/** A descriptor goes over a Unix socket, and nowhere else. */
function requireSocket(address: ServiceAddress): string {
  if ("socket" in address) return address.socket;
  throw new VramError("INVALID_ARGUMENT", `${address.url}: memory is handed over on a socket only`, {
    fix: "attach on the service's own machine: `openClient({ socket })`",
    details: { argument: "url" },
  });
}

/**
 * A client of the service at this address. Connects when something is asked. `INVALID_ARGUMENT` for an address that is
 * none, and for a token that would go to another machine in the clear.
 */
export function openClient(address: ServiceAddress, { pause }: ClientOptions = {}): Client {
  const transport = openTransport(address);
  const { where } = transport;

  const get = (path: string, { signal }: CallOptions = {}, accept = "application/json") =>
    transport.ask({ method: "GET", path, signal, idleMs: ASK_MS, headers: { accept } });
  const getText = async (path: string, options: CallOptions | undefined, accept = "text/plain"): Promise<string> =>
    requireSuccess(await get(path, options, accept), where);
  const getValue = async <T>(schema: z.ZodType<T>, path: string, options?: CallOptions): Promise<T> =>
    readValue(schema, requireSuccess(await get(path, options), where), where);
  const change = async <T>(
    schema: z.ZodType<T>,
    [method, path, body]: readonly [Exchange["method"], path: string, body?: unknown],
    { signal }: CallOptions = {},
  ): Promise<T> => {
    const answer = await transport.ask({ method, path, signal, ...(body === undefined ? {} : { body }) });
    return readValue(schema, requireSuccess(answer, where), where);
  };
  const operationAt = (id: string): string => `/v1/operations/${segment(id)}`;
  const shardAt = (idOrName: string): string => `/v1/shards/${segment(idOrName)}`;
  const leaseAt = (id: string): string => `/v1/leases/${segment(id)}`;

  return {
    where,
    plan: (request, options) => change(replies.plan, ["POST", "/v1/plan", request], options),
    seal: (request, options) => change(replies.operation, ["POST", "/v1/shards", request], options),
    operation: (id, options) => getValue(replies.operation, operationAt(id), options),
    cancel: (id, options) => change(replies.operation, ["DELETE", operationAt(id)], options),
    list: (options) => getValue(replies.listing, "/v1/shards", options),
    show: (shard, options) => getValue(shown, shardAt(shard), options),
    verify: (shard, request = {}, options) =>
      change(replies.verification, ["POST", `${shardAt(shard)}/verifications`, request], options),
    grant: (request, options) => change(replies.grantedLease, ["POST", "/v1/leases", request], options),
    renew: (id, request = {}, options) =>
      change(replies.renewedLease, ["POST", `${leaseAt(id)}/renewals`, request], options),
    release: (id, options) => change(replies.lease, ["DELETE", leaseAt(id)], options),
    lease: (id, options) => getValue(replies.lease, leaseAt(id), options),
    leases: async (options) => (await getValue(replies.leases, "/v1/leases", options)).leases,
    attach: async (shard, terms, options) => {
      const socket = requireSocket(address);
      const { attach } = await import("./client/attach.ts");
      return attach(socket, shard, terms, options);
    },
    attest: (request, options) => change(replies.statement, ["POST", "/v1/statements", request], options),
    statementKeys: (options) => getValue(replies.statementKeys, "/v1/statement-keys", options),
    rotateStatementKey: (request, options) =>
      change(replies.statementKeys, ["POST", "/v1/statement-keys", request], options),
    evict: (shard, { revoke, signal } = {}) =>
      change(replies.eviction, ["DELETE", `${shardAt(shard)}${revoke === true ? "?revoke=true" : ""}`], { signal }),
    resume: async (request, options) =>
      (await change(replies.devices, ["POST", "/v1/resume", request], options)).devices,
    devices: async (options) => (await getValue(replies.devices, "/v1/devices", options)).devices,
    ready: async (options) => readState(replies.readiness, await get("/v1/ready", options), where),
    health: async (options) => readState(replies.health, await get("/readyz", options), where).status,
    feed: (options = {}) => readFeed(transport, options, pause),
    logCheckpoint: (options) => getText("/v1/audit/checkpoint", options),
    logLines: async (last, options) => {
      const query = last === undefined ? "" : `?last=${last}`;
      const text = await getText(`/v1/audit/entries${query}`, options, "application/jsonl");
      return text.split("\n").filter((line) => line !== "");
    },
    logProof: (seq, options) => getText(`/v1/audit/proofs/${seq}`, options),
    metrics: (options) => getText("/metrics", options),
    openapi: (options) => getValue(anyObject, "/v1/openapi.json", options),
    close: () => transport.close(),
  };
}
