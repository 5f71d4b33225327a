/** The OpenAPI document, `docs/api.md` and the metrics against the table of routes, all ways. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { KEYS } from "../../src/config/table.ts";
import { ERROR_TABLE, type ErrorCode } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { ROUTES as METRIC_ROUTES, STATUSES } from "../../src/metrics/table.ts";
import { openApi, openApiText, problemsOf } from "../../src/service/http/openapi.ts";
import { refusal, statusOf, statusOfCode } from "../../src/service/http/problem.ts";
import { nameOf, paramsOf } from "../../src/service/http/route.ts";
import { ROUTE_NAMES, ROUTES } from "../../src/service/http/routes.ts";
import { VERSION } from "../../src/version.ts";
import { ask, openTestServer } from "../helpers/http.ts";

const read = (name: string): string => readFileSync(new URL(`../../docs/${name}`, import.meta.url), "utf8");
const PAGE = read("api.md");
const CODES = Object.keys(ERROR_TABLE) as ErrorCode[];

type Operation = Readonly<Record<"operationId" | "summary", string>> & {
  readonly responses: Readonly<Record<string, unknown>>;
  readonly parameters?: readonly { readonly name: string; readonly in: string }[];
};
const document = openApi(VERSION) as {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, unknown>> };
};
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ name: `${method.toUpperCase()} ${path}`, operation })),
);

/** The cells of every row of the table whose header begins like this. */
function rowsUnder(header: string): string[][] {
  const [, rest = ""] = PAGE.split(`\n| ${header} |`);
  const rows = rest.split("\n").slice(2);
  return rows
    .slice(
      0,
      rows.findIndex((line) => !line.startsWith("|")),
    )
    .map((row) => row.slice(2, -2).split(" | "));
}

describe("the OpenAPI document", () => {
  it("[VR-API-01] is docs/openapi.json; `npm run build && node scripts/openapi.mjs` writes it", () => {
    expect(read("openapi.json")).toBe(openApiText(VERSION));
  });

  it("[VR-API-01] has every route, and no other", () => {
    expect(operations.map(({ name }) => name).sort()).toEqual([...ROUTE_NAMES].sort());
    expect(new Set(operations.map(({ operation }) => operation.operationId)).size).toBe(ROUTES.length);
  });

  it.each(ROUTES.map((route) => [nameOf(route), route] as const))(
    "%s has its parameters and statuses",
    (name, route) => {
      const operation = operations.find((one) => one.name === name)?.operation;
      const inPath = operation?.parameters?.filter((parameter) => parameter.in === "path") ?? [];
      expect(inPath.map((parameter) => parameter.name)).toEqual(paramsOf(route));
      const statuses = [...route.outcomes.map(({ status }) => status), ...problemsOf(route).keys()];
      const listed = Object.keys(operation?.responses ?? {}).filter((status) => status !== "default");
      expect(listed.map(Number)).toEqual([...new Set(statuses)].sort((one, other) => one - other));
    },
  );

  it("refers to schemas that it has, and has none that nothing refers to", () => {
    const text = JSON.stringify(document);
    const named = new Set([...text.matchAll(/"#\/components\/schemas\/([^"]+)"/g)].map(([, id]) => id));
    expect([...named].sort()).toEqual(Object.keys(document.components.schemas).sort());
  });

  it("is what the service answers with", async () => {
    const { socketPath } = await openTestServer();
    const reply = await ask({ socketPath }, "/v1/openapi.json");
    expect(reply.text).toBe(read("openapi.json"));
  });
});

describe("the metrics", () => {
  it("[VR-MET-01] know every route and every status", () => {
    expect([...METRIC_ROUTES].sort()).toEqual([...ROUTE_NAMES].sort());
    const statuses = [
      ...CODES.map(statusOfCode),
      ...ROUTES.flatMap(({ outcomes }) => outcomes.map(({ status }) => status)),
      ...([403, 404, 405, 408, 413, 415, 417, 421, 431] as const).map((status) => statusOf(refusal(status, ""))),
    ];
    const known: readonly string[] = STATUSES;
    expect(statuses.map(String).filter((status) => !known.includes(status))).toEqual([]);
  });
});

describe("docs/api.md", () => {
  it("has every route, in the order of the table, with scope, statuses and purpose", () => {
    const rows = ROUTES.map((route) => {
      const statuses = route.outcomes.map(({ status }) => status).join(", ");
      return [`\`${nameOf(route)}\``, route.scope, statuses, route.summary];
    });
    expect(rowsUnder("route | scope")).toEqual(rows);
  });

  it("[VR-IN-04] has the status of every code", () => {
    const statuses = [...new Set(CODES.map(statusOfCode))].sort((one, other) => one - other);
    const rows = statuses.map((status) => {
      const codes = CODES.filter((code) => statusOfCode(code) === status);
      return [String(status), codes.map((code) => `\`${code}\``).join(", ")];
    });
    expect(rowsUnder("status | codes")).toEqual(rows);
  });

  it("has the limits", () => {
    const rows = rowsUnder("limit | default");
    const keys = rows.flatMap(([, value, key = ""]) =>
      key.startsWith("`") ? [[key.slice(1, -1), value] as const] : [],
    );
    const limits = Object.entries(KEYS).filter(([key]) => key.startsWith("limits.") && !/leases|shards/.test(key));
    const place = { env: {}, cwd: "/", uid: 0, exists: () => false, realpath: () => undefined };
    expect(keys).toEqual(limits.map(([key, row]) => [key, String(row.fallback(place))]));
    const others = rows.filter(([, , key = ""]) => !key.startsWith("`")).map(([, value]) => Number(value));
    expect(others).toEqual([
      ...[LIMITS.serviceJsonDepth, LIMITS.serviceFeeds, LIMITS.servicePipelined, LIMITS.serviceStallMs],
    ]);
    expect(PAGE).toContain(`every ${LIMITS.serviceFeedKeepAliveMs / 1000} seconds`);
    expect(PAGE).toContain(`nothing for ${LIMITS.serviceStallMs / 1000} seconds`);
  });

  it("shows a request for every route, and each is answered", async () => {
    const { socketPath, service } = await openTestServer();
    const shown = [
      ...PAGE.matchAll(/^curl (?:-N )?--unix-socket \$S(?: -X ([A-Z]+))? '?http:\/\/vram(\/[^\s']+)'?(.*)$/gm),
    ];
    // What the page takes from the answers before.
    const known = (path: string): string => path.replace("$OP", `op-${"a".repeat(26)}`).replace("$LEASE", "lease-1");
    const routes = new Set<unknown>();
    for (const [, given, path = "", rest = ""] of shown) {
      const body = / -d '(.*)'(?: > \S+)?$/.exec(rest)?.[1]?.replace("'$PWD'", "/models");
      const method = given ?? (body === undefined ? "GET" : "POST");
      if (path.startsWith("/v1/feed")) routes.add("GET /v1/feed");
      else {
        const reply = await ask({ socketPath }, known(path), { method, body });
        expect([path, reply.status, reply.text], path).toEqual([
          path,
          rest.includes("# 404") ? 404 : expect.toSatisfy((status) => status < 300),
          reply.text,
        ]);
        await expect.poll(() => service.notes.length).toBe(1);
        routes.add(service.notes.splice(0)[0]?.["route"]);
      }
    }
    expect([...routes].sort()).toEqual([...ROUTE_NAMES].sort());
  });

  it("shows a problem as it is", () => {
    const [, text = ""] = /```json output\n(.*?)```/s.exec(PAGE) ?? [];
    expect(z.object({ code: z.literal("SHARD_NOT_FOUND") }).parse(JSON.parse(text))).toBeDefined();
  });
});
