/** Signals that wait for time, in a process whose collector runs. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { firstOf } from "../../src/clock.ts";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

test("a deadline that nobody else holds fires, whatever the collector does", async () => {
  const stop = new AbortController();
  const first = firstOf(stop.signal, AbortSignal.timeout(20));
  const fired = new Promise<string>((resolve) => {
    first.addEventListener("abort", () => resolve((first.reason as Error).name));
  });
  const sweeping = setInterval(collect, 5);
  try {
    expect(await fired).toBe("TimeoutError");
  } finally {
    clearInterval(sweeping);
  }
  expect(stop.signal.aborted).toBe(false);
});

test("the first of several decides, also one that had fired before", () => {
  const [one, other] = [new AbortController(), new AbortController()];
  const first = firstOf(one.signal, other.signal);
  other.abort("other");
  // Node 24 asks the signals when somebody asks it, if nobody listens.
  expect(first.aborted).toBe(true);
  one.abort("one");
  expect(first.reason).toBe("other");
  expect(firstOf(one.signal).aborted).toBe(true);
});
