/** Keeping a lease, at a time of the test's own: when it is renewed, and what counts as lost. */
import { describe, expect, it } from "vitest";
import { keepLease } from "../../src/cli/commands/lease-keep.ts";
import { openClient } from "../../src/client.ts";
import * as replies from "../../src/service/replies.ts";
import * as is from "../helpers/stub-replies.ts";
import {
  checked,
  eventOf,
  openStub,
  problemOf,
  type StubAnswer,
  type StubRoutes,
  stubFeed,
} from "../helpers/stub-service.ts";

const ID = "lease-aaaaaaaaaaaaaaaaaaaaaaaaaa";
const RENEWALS = `POST /v1/leases/${ID}/renewals`;
const renewed = (remainingMs: number): StubAnswer =>
  checked(replies.renewedLease, { lease: is.lease({ remainingMs }) });
const NO_FEED: StubRoutes = { "GET /v1/feed": problemOf("FORBIDDEN", { status: 403 }) };

/** Keeps a lease of 60 s that starts at 0; a pause lets its time pass. Ends when `over` waits have passed. */
async function keep(
  routes: StubRoutes,
  { over = Number.POSITIVE_INFINITY, durationMs }: { over?: number; durationMs?: number } = {},
) {
  const stub = await openStub({ ...NO_FEED, ...routes });
  const [stop, told]: [AbortController, string[]] = [new AbortController(), []];
  const waits: number[] = [];
  let nowMs = 0;
  const keeping = {
    ...{ durationMs, signal: stop.signal, nowMs: () => nowMs },
    pause: async (ms: number) => {
      waits.push(ms);
      nowMs += ms;
      if (waits.length > over) stop.abort();
    },
  };
  const kept = await keepLease(openClient({ socket: stub.socket }), is.lease(), keeping, (why) => void told.push(why));
  return { kept, told, waits, stub };
}

describe("keeping a lease", () => {
  it("renews at half of what remains, for as long as it is needed", async () => {
    const { kept, told, waits, stub } = await keep(
      { [RENEWALS]: (_asked, nth) => renewed(nth === 0 ? 40_000 : 10_000) },
      { over: 3 },
    );
    expect(kept).toEqual({ lost: undefined, renewals: 3 });
    expect([told, waits]).toEqual([[], [30_000, 20_000, 5000, 5000]]);
    expect(stub.of(RENEWALS).map(({ body }) => body)).toEqual([{}, {}, {}]);
    const longer = await keep({ [RENEWALS]: renewed(60_000) }, { over: 1, durationMs: 120_000 });
    expect(longer.stub.of(RENEWALS)[0]?.body).toEqual({ durationMs: 120_000 });
  });

  it("loses it at once when the service will never renew it", async () => {
    const { kept, told, waits } = await keep({
      [RENEWALS]: problemOf("WORKER_STOPPED", { detail: "stopped since noon" }),
    });
    expect(kept).toEqual({ lost: "stopped since noon", renewals: 0 });
    expect([told, waits]).toEqual([["stopped since noon"], [30_000]]);
  });

  it("tries again while the service is busy or away, more and more often, until it has run out", async () => {
    const mended = await keep(
      { [RENEWALS]: (_asked, nth) => (nth < 2 ? problemOf("SERVICE_BUSY") : renewed(60_000)) },
      { over: 3 },
    );
    expect(mended).toMatchObject({ kept: { lost: undefined, renewals: 1 }, waits: [30_000, 15_000, 7500, 30_000] });
    const away = await keep({ [RENEWALS]: { raw: (response) => void response.destroy() } });
    expect(away.kept.lost).toMatch(/^it ran out and could not be renewed: no service answers at /);
    expect(away.waits.reduce((sum, ms) => sum + ms)).toBe(60_000);
    expect(away.waits.slice(-3)).toEqual([expect.any(Number), 250, expect.any(Number)]);
    expect(away.told).toEqual([away.kept.lost]);
  });

  it("does not wait for an answer beyond the end", async () => {
    const stub = await openStub({ ...NO_FEED, [RENEWALS]: { raw: () => undefined } });
    let nowMs = 0;
    const told: string[] = [];
    const keeping = {
      ...{ durationMs: undefined, signal: new AbortController().signal, nowMs: () => nowMs },
      pause: async (ms: number) => {
        nowMs += ms;
      },
    };
    const lease = is.lease({ remainingMs: 20 });
    await keepLease(openClient({ socket: stub.socket }), lease, keeping, (why) => void told.push(why));
    expect(told).toEqual(["it ran out and could not be renewed"]);
  });
});

/** A lease that is kept by real time, with a feed that the test writes to. */
async function listen(routes: StubRoutes = {}) {
  const feed = stubFeed();
  const stub = await openStub({ "GET /v1/feed": feed.route, ...routes });
  const stop = new AbortController();
  const told: string[] = [];
  const waiting = (_ms: number, signal: AbortSignal): Promise<void> =>
    new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
  const keeping = { ...{ durationMs: undefined, signal: stop.signal, nowMs: () => 0 }, pause: waiting };
  const kept = keepLease(openClient({ socket: stub.socket }), is.lease(), keeping, (why) => void told.push(why));
  return { feed, stub, stop, told, kept };
}

const revoked = (leaseId: string, more: object = {}): string =>
  eventOf("i-1", { type: "lease_revoked", seq: 1, leaseId, because: "stopped", ...more });
const GAP = 'event: gap\ndata: {"entries":9}\n\n';

describe("hearing of a lease", () => {
  it("loses it as soon as the feed says that it was revoked, and not with another one", async () => {
    const { feed, stub, told, kept } = await listen();
    await feed.send(revoked("lease-other") + revoked(ID));
    expect(await kept).toEqual({ lost: "it was revoked (stopped)", renewals: 0 });
    expect(told).toEqual(["it was revoked (stopped)"]);
    expect(stub.asked.map(({ route }) => route)).toEqual(["GET /v1/feed?types=lease_revoked%2Clease_expired"]);
    const expired = await listen();
    await expired.feed.send(revoked(ID, { type: "lease_expired" }));
    expect((await expired.kept).lost).toBe("it ran out");
  });

  it("asks after a gap whether it is still there", async () => {
    const gone = await listen({ [`GET /v1/leases/${ID}`]: problemOf("LEASE_NOT_FOUND", { detail: "no such lease" }) });
    await gone.feed.send(GAP);
    expect((await gone.kept).lost).toBe("no such lease");
    const here = await listen({ [`GET /v1/leases/${ID}`]: checked(replies.lease, is.lease()) });
    await here.feed.send(GAP + revoked(ID));
    expect((await here.kept).lost).toBe("it was revoked (stopped)");
  });

  it("does not lose what is needed no more", async () => {
    const { stop, told, kept } = await listen();
    stop.abort();
    expect(await kept).toEqual({ lost: undefined, renewals: 0 });
    expect(told).toEqual([]);
  });
});
