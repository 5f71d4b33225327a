/**
 * The OpenAPI 3.1 document, made of the table of routes and the schemas that requests are checked by: it cannot say
 * anything else than the service does. `docs/openapi.json` is this text; a test compares the two.
 */
import { z } from "zod";
import type { ErrorCode } from "../../errors.ts";
import * as replies from "../replies.ts";
import * as requests from "../requests.ts";
import { PROBLEM_TYPE } from "./exchange.ts";
import { statusOfCode } from "./problem.ts";
import { type Outcome, PARAMS, paramsOf, type Route } from "./route.ts";
import { ROUTES } from "./routes.ts";

type Json = Readonly<Record<string, unknown>>;

const reference = (id: string): string => `#/components/schemas/${id}`;

/** What zod says of every number and every record, and nobody needs to read. */
function withoutNoise({ jsonSchema }: { readonly jsonSchema: z.core.JSONSchema.BaseSchema }): void {
  if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
  if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
  delete jsonSchema.propertyNames;
}

const SETTINGS = { io: "input", override: withoutNoise } as const;

/** Where zod puts a schema that has a name and is part of others only. */
const SHARED = "__shared";

/** Every schema that has a name. */
function components(): Json {
  const named = z.registry<{ id?: string }>();
  for (const schema of [...Object.values(replies), ...Object.values(requests), ...routeSchemas()]) {
    const id = z.globalRegistry.get(schema)?.id;
    if (id !== undefined) named.add(schema, { id });
  }
  const { schemas } = z.toJSONSchema(named, { ...SETTINGS, uri: reference });
  const { [SHARED]: shared, ...own } = schemas;
  const all = Object.entries({ ...own, ...(shared?.$defs as typeof own | undefined) })
    .map(([id, schema]): [string, Json] => [id, withoutKeys(schema, ["$schema", "$id"])])
    .sort(([one], [other]) => (one < other ? -1 : 1));
  const text = JSON.stringify(Object.fromEntries(all)).replaceAll(`${reference(SHARED)}#/$defs/`, reference(""));
  return JSON.parse(text) as Json;
}

const routeSchemas = (): z.ZodType[] =>
  ROUTES.flatMap(({ outcomes }) => outcomes.flatMap(({ schema }) => (schema === undefined ? [] : [schema])));

const withoutKeys = (value: object, keys: readonly string[]): Json =>
  Object.fromEntries(Object.entries(value).filter(([key]) => !keys.includes(key)));

/** A schema where it is used: by name if it has one. */
function schemaOf(schema: z.ZodType): Json {
  const id = z.globalRegistry.get(schema)?.id;
  return id === undefined ? withoutKeys(z.toJSONSchema(schema, SETTINGS), ["$schema"]) : { $ref: reference(id) };
}

const parameter = (place: string, name: string, schema: Json, required: boolean): Json => {
  const { description, ...rest } = schema;
  return { name, in: place, required, ...(description === undefined ? {} : { description }), schema: rest };
};

function parametersOf(route: Route): Json[] {
  const shape = route.query === undefined ? {} : (schemaOf(route.query)["properties"] as Record<string, Json>);
  const ofFeed =
    route.operationId === "readFeed" ? [parameter("header", "Last-Event-ID", { type: "string" }, false)] : [];
  return [
    ...paramsOf(route).map((name) => parameter("path", name, schemaOf(PARAMS[name]), true)),
    ...Object.entries(shape).map(([name, schema]) => parameter("query", name, schema, false)),
    ...ofFeed,
  ];
}

const LOCATION = { Location: { description: "path of the operation", schema: { type: "string" } } };

const outcomeOf = ({ means, type, schema, location }: Outcome): Json => ({
  description: means,
  ...(location === true ? { headers: LOCATION } : {}),
  content: {
    [type]: {
      schema: schema === undefined ? { type: type === "application/json" ? "object" : "string" } : schemaOf(schema),
    },
  },
});

/** Errors that a route may answer with besides its own. */
function commonErrors(route: Route): readonly ErrorCode[] {
  const { scope, body, work, query } = route;
  const isAsked = body !== undefined || query !== undefined || paramsOf(route).length > 0;
  return [
    "REQUEST_REFUSED",
    ...(scope === "open" ? [] : (["UNAUTHENTICATED", "FORBIDDEN"] as const)),
    ...(isAsked ? (["INVALID_ARGUMENT"] as const) : []),
    ...(body === undefined ? [] : (["SERVICE_STOPPING"] as const)),
    ...(work === undefined ? [] : (["SERVICE_BUSY"] as const)),
  ];
}

/** All errors of a route, by status. */
export function problemsOf(route: Route): ReadonlyMap<number, readonly ErrorCode[]> {
  const codes = [...new Set([...commonErrors(route), ...route.errors])];
  const statuses = [...new Set(codes.map(statusOfCode))].sort((one, other) => one - other);
  return new Map(statuses.map((status) => [status, codes.filter((code) => statusOfCode(code) === status)]));
}

const problemResponse = (description: string): Json => ({
  description,
  content: { [PROBLEM_TYPE]: { schema: { $ref: reference("Problem") } } },
});

function responsesOf(route: Route): Json {
  const problems = [...problemsOf(route)].map(([status, codes]): [string, Json] => [
    String(status),
    problemResponse(codes.join(", ")),
  ]);
  const outcomes = route.outcomes.map((outcome): [string, Json] => [String(outcome.status), outcomeOf(outcome)]);
  const known = [...problems, ...outcomes].sort(([one], [other]) => Number(one) - Number(other));
  return { ...Object.fromEntries(known), default: problemResponse("any other problem; docs/api.md") };
}

/** A body without which a request is refused is required. */
const bodyOf = (schema: z.ZodType): Json => ({
  required: !schema.safeParse({}).success,
  content: { "application/json": { schema: schemaOf(schema) } },
});

function operationOf(route: Route): Json {
  const { operationId, summary, scope, body } = route;
  const parameters = parametersOf(route);
  return {
    operationId,
    summary,
    description: scope === "open" ? "Open to everyone." : `Takes the scope \`${scope}\`.`,
    ...(scope === "open" ? { security: [] } : {}),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(body === undefined ? {} : { requestBody: bodyOf(body) }),
    responses: responsesOf(route),
  };
}

function pathsOf(): Json {
  const paths: Record<string, Record<string, Json>> = {};
  for (const route of ROUTES) {
    paths[route.path] = { ...paths[route.path], [route.method.toLowerCase()]: operationOf(route) };
  }
  return paths;
}

/** The document of a version. */
export function openApi(version: string): Json {
  return {
    openapi: "3.1.0",
    info: {
      title: "vram-residency",
      version,
      summary: "Models sealed in VRAM: plan, seal, verify, lease.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    servers: [{ url: "http://localhost", description: "the service's Unix socket; docs/api.md" }],
    security: [{ token: [] }],
    paths: pathsOf(),
    components: {
      schemas: components(),
      securitySchemes: {
        token: { type: "http", scheme: "bearer", description: "over TCP; on the socket the kernel says who asks" },
      },
    },
  };
}

/** The document as text, as it is answered and checked in. */
export const openApiText = (version: string): string => `${JSON.stringify(openApi(version), null, 2)}\n`;
