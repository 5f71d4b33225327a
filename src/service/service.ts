/**
 * What a service can do, whoever asks: the routes are its only callers, and know nothing else of it. Everything that is
 * handed out is plain data. `open-service.ts` makes one.
 */
import type { Entry } from "../journal/entry.ts";
import type { Peer, Transport } from "../journal/service-body.ts";
import type { Attached } from "./attach/attaching.ts";
import type { AttachRequest } from "./attach/protocol.ts";
import type {
  DeviceState,
  Eviction,
  GrantedLease,
  LeaseReply,
  Listing,
  OperationReply,
  Plan,
  Readiness,
  RenewedLease,
  StatementKeysReply,
  StatementReply,
  Verification,
} from "./replies.ts";
import type {
  LeaseRequest,
  PlanRequest,
  RenewRequest,
  ResumeRequest,
  RotateRequest,
  SealRequestBody,
  StatementRequest,
  VerifyRequestBody,
} from "./requests.ts";
import type { Scope } from "./tokens.ts";

/** Who asks. */
export interface Caller {
  readonly transport: Transport;
  readonly scope: Scope;
  /** For the record: `uid 1000`, or `token 3fa2b1`. */
  readonly name: string;
}

/** The live view of the journal. */
export interface Feed {
  /** The number of the newest entry: who begins there sees what comes. */
  newest(): number;
  /**
   * Entries behind `after` as far as they are kept, then those that follow; `gap` in place of what is no longer kept.
   * Ends with `signal`, or when the reader is too slow.
   */
  read(after: number, signal: AbortSignal): AsyncIterable<FeedItem>;
}

export type FeedItem =
  | { readonly kind: "entry"; readonly entry: Entry }
  | { readonly kind: "gap"; readonly entries: number };

export interface Service {
  /** Also what an id of the feed begins with: entries of another start are no continuation. */
  readonly instanceId: string;
  readonly feed: Feed;
  plan(request: PlanRequest, caller: Caller): Promise<Plan>;
  /** Begins to seal. `ended` settles with the operation; it never rejects unheard. */
  seal(
    request: SealRequestBody,
    caller: Caller,
  ): Promise<{ operation: OperationReply; ended: Promise<OperationReply> }>;
  operation(operationId: string): OperationReply;
  /** Stops an operation that runs; what it did is undone. */
  cancel(operationId: string): Promise<OperationReply>;
  list(): Listing;
  /** A shard, or something wanted that is not resident. */
  show(idOrName: string): Pick<Listing, "shards" | "missing">;
  verify(idOrName: string, request: VerifyRequestBody, signal: AbortSignal): Promise<Verification>;
  /** The execute gate: verifies, or settles for a verification fresh enough, then grants. */
  grant(request: LeaseRequest, caller: Caller, signal: AbortSignal): Promise<GrantedLease>;
  lease(leaseId: string): LeaseReply;
  leases(): readonly LeaseReply[];
  /** Only who was granted a lease, or may do everything, renews or releases it. */
  renew(leaseId: string, request: RenewRequest, caller: Caller, signal: AbortSignal): Promise<RenewedLease>;
  release(leaseId: string, caller: Caller): Promise<LeaseReply>;
  /** Hands the memory of a shard to the process at the other end of a connection. */
  attach(request: AttachRequest, caller: Caller, peer: Peer, signal: AbortSignal): Promise<Attached>;
  /** Measures with a nonce, and signs a statement about it that others can check. */
  attest(request: StatementRequest, caller: Caller, signal: AbortSignal): Promise<StatementReply>;
  statementKeys(): StatementKeysReply;
  rotateStatementKey(request: RotateRequest): Promise<StatementKeysReply>;
  evict(idOrName: string, options: { readonly revoke: boolean }): Promise<Eviction>;
  resume(request: ResumeRequest): Promise<readonly DeviceState[]>;
  devices(): Promise<readonly DeviceState[]>;
  ready(): Promise<Readiness>;
  /** Without asking any device. */
  isReady(): boolean;
  /** The newest log checkpoint, a signed note; `AUDIT_UNAVAILABLE` if there is no log. */
  logCheckpoint(): Promise<string>;
  /** The last lines of the audit log, as they stand there. */
  logLines(last: number): Promise<readonly string[]>;
  /** A C2SP tlog-proof that a line is in the log. */
  logProof(seq: number): Promise<string>;
  /** Figures in the Prometheus text format. */
  metrics(): Promise<string>;
  /** Tells the journal of a request that was refused, served, or not let in. */
  note: ServiceRecord;
}

/** What the routes put on record. */
export interface ServiceRecord {
  authFailed(entry: Omit<Extract<Entry, { type: "auth_failed" }>, keyof EntryStamp | "type">): void;
  requestRefused(entry: Omit<Extract<Entry, { type: "request_refused" }>, keyof EntryStamp | "type">): void;
  requestServed(entry: Omit<Extract<Entry, { type: "request_served" }>, keyof EntryStamp | "type">): void;
}

type EntryStamp = Pick<Entry, "seq" | "timeMs" | "durability" | "gates" | "correlationId" | "workerId">;
