/** The one table of routes: what the service answers over HTTP (design §5, "HTTP"; VR-API-01). */
import { leaseRoutes } from "./lease-routes.ts";
import { nameOf, type Route } from "./route.ts";
import { shardRoutes } from "./shard-routes.ts";
import { healthRoutes, stateRoutes } from "./state-routes.ts";
import { statementRoutes } from "./statement-routes.ts";

export const ROUTES: readonly Route[] = [
  ...shardRoutes,
  ...leaseRoutes,
  ...statementRoutes,
  ...stateRoutes,
  ...healthRoutes,
];

/** What the routes are called, in the order of the table. */
export const ROUTE_NAMES: readonly string[] = ROUTES.map(nameOf);
