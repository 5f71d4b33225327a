/**
 * Random bodies, queries and names, made from the OpenAPI document, to every route ("Shown by" 4 of the service): what
 * the schemas allow gets the reply that they promise, everything else a problem, and nothing ends in an error of the
 * service.
 */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openApi } from "../../src/service/http/openapi.ts";
import { nameOf, type Route } from "../../src/service/http/route.ts";
import { ROUTES } from "../../src/service/http/routes.ts";
import { problem } from "../../src/service/replies.ts";
import { KNOWN } from "../helpers/fake-service.ts";
import { type Ask, ask, bearer, keepTestServer, OPERATE, type Reply, type TestServer } from "../helpers/http.ts";

const RUNS = { numRuns: 60 };

/** As much of JSON Schema as the document has. */
interface Schema {
  readonly $ref?: string;
  readonly type?: string;
  readonly enum?: readonly string[];
  readonly anyOf?: readonly Schema[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly pattern?: string;
}
type Parameter = { readonly name: string; readonly in: string; readonly schema: Schema };
type Operation = {
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: Schema }>> };
};
const document = openApi("0.0.0") as unknown as {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> };
};
const operationOf = ({ path, method }: Route): Operation => document.paths[path]?.[method.toLowerCase()] ?? {};

/** What the schema cannot say: a path is absolute. */
const PATHS = fc.string({ maxLength: 20 }).map((text) => `/${text.replaceAll("\0", "")}`);

function stringOf({ pattern, minLength = 0, maxLength = 40 }: Schema): fc.Arbitrary<string> {
  if (pattern !== undefined) return fc.stringMatching(new RegExp(pattern));
  const text = fc.string({ unit: "grapheme", minLength, maxLength: Math.min(maxLength, 40) });
  return text.map((one) => one.replaceAll("\0", "x")).filter((one) => one.length <= maxLength);
}

/** Values that a schema allows. */
function valid(schema: Schema): fc.Arbitrary<unknown> {
  const { $ref, type, anyOf, properties, required = [], minimum = 0, maximum = 2 ** 40 } = schema;
  if ($ref !== undefined) return valid(document.components.schemas[$ref.split("/").at(-1) ?? ""] ?? {});
  if (anyOf !== undefined) return fc.oneof(...anyOf.map(valid));
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
  if (type === "integer") return fc.integer({ min: minimum, max: Math.min(maximum, 2 ** 40) });
  if (type === "boolean") return fc.boolean();
  if (type === "string") return stringOf(schema);
  if (properties === undefined)
    return fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), fc.string({ unit: "grapheme" }));
  const fields = Object.entries(properties).map(([name, one]) => [name, name === "path" ? PATHS : valid(one)] as const);
  return fc.record(Object.fromEntries(fields), { requiredKeys: [...required] });
}

/** Values of which something may be wrong: anything, or a valid one with a field changed, left out or added. */
function doubtful(schema: Schema): fc.Arbitrary<unknown> {
  const changed = fc
    .tuple(valid(schema), fc.string(), fc.jsonValue(), fc.nat())
    .map(([value, name, other, at]): unknown => {
      if (typeof value !== "object" || value === null) return other;
      const entries = Object.entries(value);
      const [key] = entries[at % (entries.length + 1)] ?? [name];
      return { ...value, [key]: other };
    });
  return fc.oneof(fc.jsonValue(), changed);
}

/** Names and ids, some of them known to the fake service. */
const PARAM = fc.oneof(
  fc.constantFrom(...KNOWN, "lease-1", "op-aaaaaaaaaaaaaaaaaaaaaaaaaa", "7"),
  fc.string({ unit: "grapheme", minLength: 1, maxLength: 30 }).filter((text) => text !== "." && text !== ".."),
);

let test: TestServer;
let close: () => Promise<void>;
beforeAll(async () => {
  [test, close] = await keepTestServer();
});
afterAll(() => close());

const send = (path: string, options: Ask): Promise<Reply> =>
  ask({ port: test.port }, path, { ...options, headers: { ...bearer(OPERATE), ...options.headers } });

/** An answer is what the route promises, or a problem that is well-formed and no error of the service. */
function expectAnswer(route: Route, reply: Reply): void {
  expect(reply.status).toBeLessThan(500);
  const outcome = route.outcomes.find(({ status }) => status === reply.status);
  if (outcome === undefined) {
    expect(problem.strict().parse(reply.json())).toMatchObject({ status: reply.status });
    expect(reply.headers["content-type"]).toBe("application/problem+json");
    expect(reply.text).not.toMatch(/node_modules|\\n\s+at |ZodError/);
  } else outcome.schema?.parse(reply.json());
}

/** A path of the route with these parameters. */
const pathOf = ({ path }: Route, params: readonly string[]): string => {
  const given = [...params];
  return path.replaceAll(/\{[a-z]+\}/g, () => encodeURIComponent(given.shift() ?? ""));
};
const schemaOf = (route: Route): Schema => operationOf(route).requestBody?.content["application/json"]?.schema ?? {};

const named = (routes: readonly Route[]) => routes.map((route) => [nameOf(route), route] as const);
const withBody = ROUTES.filter(({ body }) => body !== undefined);
const known: Readonly<Record<string, string>> = { shard: "model", lease: "lease-1" };

describe("[VR-IN-01] random requests", () => {
  it.each(named(withBody))("%s answers every body that its schema allows", async (_, route) => {
    const path = route.path.replaceAll(/\{([a-z]+)\}/g, (_whole, name: string) => known[name] ?? "");
    await fc.assert(
      fc.asyncProperty(valid(schemaOf(route)), async (body) => {
        const reply = await send(path, { method: route.method, body: JSON.stringify(body) });
        expectAnswer(route, reply);
        // The fake knows few shards; anything else it takes.
        if (reply.status >= 300) expect(reply.problem().code).toBe("SHARD_NOT_FOUND");
      }),
      RUNS,
    );
  });

  it.each(named(withBody))("%s answers every other body, too", async (_, route) => {
    await fc.assert(
      fc.asyncProperty(
        doubtful(schemaOf(route)),
        fc.array(PARAM, { minLength: 1, maxLength: 1 }),
        async (body, params) => {
          expectAnswer(route, await send(pathOf(route, params), { method: route.method, body: JSON.stringify(body) }));
        },
      ),
      RUNS,
    );
  });

  it.each(named(withBody))("%s answers bytes", async (_, route) => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: "binary" }), fc.string({ minLength: 1 }), async (body, type) => {
        const headers = { "content-type": /^[\x21-\x7e]+$/.test(type) ? type : "application/json" };
        expectAnswer(
          route,
          await send(pathOf(route, ["model"]), { method: route.method, body: body.toWellFormed(), headers }),
        );
      }),
      RUNS,
    );
  });

  it.each(named(ROUTES.filter(({ operationId }) => operationId !== "readFeed")))(
    "%s answers every name and query",
    async (_, route) => {
      const part = fc.oneof(fc.constantFrom("revoke", "true", "last", "1", "types"), fc.string({ unit: "grapheme" }));
      const query = fc.array(fc.tuple(part, part), { maxLength: 2 });
      await fc.assert(
        fc.asyncProperty(PARAM, query, async (param, pairs) => {
          const text = pairs.map(([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(value)}`).join("&");
          const path = `${pathOf(route, [param])}${text === "" ? "" : `?${text}`}`;
          const body = route.body === undefined ? {} : { body: "{}" };
          expectAnswer(route, await send(path, { method: route.method, ...body }));
        }),
        RUNS,
      );
    },
  );
});
