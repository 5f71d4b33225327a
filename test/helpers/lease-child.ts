/** A lease on a stub of a service, and a child that runs under it. */
import * as replies from "../../src/service/replies.ts";
import * as is from "./stub-replies.ts";
import { checked, problemOf, type StubAnswer, type StubRoutes } from "./stub-service.ts";

export const ID = "lease-aaaaaaaaaaaaaaaaaaaaaaaaaa";
export const RELEASE = `DELETE /v1/leases/${ID}`;
export const RENEWALS = `POST /v1/leases/${ID}/renewals`;
export const NODE = process.execPath;

export const grants = (remainingMs = 60_000): StubRoutes => ({
  "POST /v1/leases": { status: 201, ...checked(replies.grantedLease, is.granted({ remainingMs })) },
  [RELEASE]: checked(replies.lease, is.lease({ remainingMs: 0 })),
  "GET /v1/feed": problemOf("FORBIDDEN", { status: 403 }),
});

/** A child that says that it is there, and does `then` with what the service answers. */
export const child = (then: string): string[] => [
  ...["--", NODE, "-e"],
  `require("http").get({ socketPath: process.env.VRAM_SOCKET, path: "/child?" + process.env.VRAM_LEASE + "," + process.env.VRAM_NAME + "," + process.env.OURS },
    (answer) => { answer.resume(); answer.on("end", () => { ${then} }); }); setInterval(() => {}, 1000);`,
];
export const UP: StubAnswer = { text: "go" };

/** Resolves when a route has been asked. */
export function gate(answer: StubAnswer = UP): { readonly route: () => StubAnswer; readonly asked: Promise<void> } {
  let open: () => void = () => undefined;
  const asked = new Promise<void>((resolve) => {
    open = resolve;
  });
  return {
    asked,
    route: () => {
      open();
      return answer;
    },
  };
}
