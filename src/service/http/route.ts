/**
 * What a route is: what it is asked with, by whom, what it answers, and who does it. Registration, checks, the OpenAPI
 * document, the pages and the metrics follow from rows of this kind.
 */
import { z } from "zod";
import type { ErrorCode } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import type { Caller, Service } from "../service.ts";
import type { Scope } from "../tokens.ts";
import type { Content } from "./exchange.ts";
import type { FeedRequest } from "./feed.ts";

export type Method = "GET" | "POST" | "DELETE";

/** Where a route is answered: on the socket, over TCP, or where metrics and health are answered alone. */
export type Listener = "socket" | "tcp" | "metrics";

/** An id as this program makes it. */
const id = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,255}$/);

/** What may stand between two slashes, by name. */
export const PARAMS = {
  shard: z
    .string()
    .min(1)
    .max(LIMITS.nameBytes)
    .meta({ description: "id or name of a shard or set, percent-encoded: a `/` in a name is `%2F`" }),
  operation: id.meta({ description: "id of an operation" }),
  lease: id.meta({ description: "id of a lease" }),
  seq: z
    .string()
    .regex(/^(?:0|[1-9][0-9]{0,14})$/)
    .meta({ description: "number of a line, from 0" }),
} as const;

export type ParamName = keyof typeof PARAMS;

type ParamsOf<Path extends string> = Path extends `${string}{${infer Name}}${infer Rest}`
  ? { readonly [Key in Name]: string } & ParamsOf<Rest>
  : unknown;

/** A call of a route, checked. */
export interface Call<Params, Query, Body> {
  readonly service: Service;
  readonly caller: Caller;
  readonly params: Params;
  readonly query: Query;
  readonly body: Body;
  /** Fires when the client goes away. */
  readonly signal: AbortSignal;
  /** Of a client that comes back to a feed. */
  readonly lastEventId: string | undefined;
  /** The OpenAPI document. */
  readonly document: string;
  /** Nothing new is begun any more. */
  readonly isDraining: boolean;
}

export type Answer = { readonly kind: "content"; readonly content: Content } | FeedRequest;

/** What a route may answer, when it goes well. */
export interface Outcome {
  readonly status: number;
  readonly means: string;
  readonly type: string;
  readonly schema?: z.ZodType;
  readonly location?: true;
}

interface Row<Path extends string, Query, Body> {
  readonly method: Method;
  /** As OpenAPI writes it: `/v1/shards/{shard}`. */
  readonly path: Path;
  /** What the operation is called in the OpenAPI document. */
  readonly operationId: string;
  readonly summary: string;
  /** `open`: nobody is asked who they are. */
  readonly scope: Scope | "open";
  /** Default: the socket and TCP. */
  readonly listeners?: readonly Listener[];
  readonly query?: z.ZodType<Query>;
  readonly body?: z.ZodType<Body>;
  readonly outcomes: readonly [Outcome, ...Outcome[]];
  /** Errors of its own, besides those that any route may answer with. */
  readonly errors?: readonly ErrorCode[];
  /** Whether a request takes a place among those at work: it touches a device. */
  readonly work?: (body: Body) => boolean;
  readonly handle: (call: Call<ParamsOf<Path>, Query, Body>) => Answer | Promise<Answer>;
}

/** A row with its types forgotten: checked calls are all that reaches `handle`. */
export interface Route extends Omit<Row<string, unknown, unknown>, "handle" | "listeners" | "errors"> {
  readonly listeners: readonly Listener[];
  readonly errors: readonly ErrorCode[];
  readonly handle: (call: Call<unknown, unknown, unknown>) => Answer | Promise<Answer>;
}

export const route = <const Path extends string, Query = undefined, Body = undefined>(
  row: Row<Path, Query, Body>,
): Route => ({ listeners: ["socket", "tcp"], errors: [], ...row }) as unknown as Route;

/** What a route is called everywhere: `GET /v1/shards/{shard}`. */
export const nameOf = ({ method, path }: Pick<Route, "method" | "path">): string => `${method} ${path}`;

/** The parameters in the path of a route. */
export const paramsOf = ({ path }: Pick<Route, "path">): readonly ParamName[] =>
  [...path.matchAll(/\{([a-z]+)\}/g)].map(([, name]) => name as ParamName);

export const JSON_TYPE = "application/json";

export const ok = (means: string, schema: z.ZodType): Outcome => ({ status: 200, means, type: JSON_TYPE, schema });
export const created = (means: string, schema: z.ZodType): Outcome => ({ ...ok(means, schema), status: 201 });
export const textual = (means: string, type: string): Outcome => ({ status: 200, means, type });
export const always = (): boolean => true;

/** What a device may answer, whatever it is asked. */
export const DEVICE_ERRORS = [
  "DEVICE_LOST",
  "DEVICE_STALLED",
  "DEVICE_BUSY",
  "DEVICE_UNUSABLE",
  "CUDA_FAILED",
] as const;
/** What a verification may end with. */
export const VERIFY_ERRORS = [
  ...["SHARD_NOT_FOUND", "SHARD_NOT_RESIDENT", "MEASUREMENT_MISMATCH", "MEASUREMENT_INVALID", "REGISTRY_CORRUPT"],
  ...["VRAM_UNREADABLE", "SEAL_REFUSED", "POLICY_VIOLATION", "ABORTED"],
] as const satisfies readonly ErrorCode[];

/** An answer of JSON. */
export const json = (value: unknown, status = 200, headers: Readonly<Record<string, string>> = {}): Answer => ({
  kind: "content",
  content: { status, type: JSON_TYPE, text: JSON.stringify(value), headers },
});

/** An answer of text. */
export const text = (type: string, value: string): Answer => ({
  kind: "content",
  content: { status: 200, type, text: value },
});
