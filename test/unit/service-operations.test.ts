/** Operations: progress, end, cancelling, and how long one that ended is remembered. */
import { expect, it } from "vitest";
import { VramError } from "../../src/errors.ts";
import type { Entry } from "../../src/journal/entry.ts";
import { withCorrelation } from "../../src/journal/scope.ts";
import { LIMITS } from "../../src/limits.ts";
import { createOperations } from "../../src/service/operations.ts";

const progress = (name: string, bytesDone: number, correlationId: string): Entry => ({
  ...{ type: "upload_progressed", name, bytesDone, bytesTotal: 100, correlationId },
  ...{ seq: 1, timeMs: 0, durability: "transient", gates: false },
});

it("tells the progress of its own shards only", async () => {
  const operations = createOperations(() => 0);
  let finish: (() => void) | undefined;
  const task = (): Promise<{ shards: [] }> =>
    new Promise((resolve) => {
      finish = () => resolve({ shards: [] });
    });
  const { operation, ended } = withCorrelation("mine", () => operations.begin("seal", "model", task));
  for (const one of [
    progress("model/a", 10, "mine"),
    progress("model/a", 30, "mine"),
    progress("model/b", 5, "mine"),
    progress("model/b", 99, "other"),
    progress("modelx", 99, "mine"),
  ]) {
    void operations.reader.accept(one);
  }
  expect(operations.find(operation.operationId)).toMatchObject({ state: "running", bytesDone: 35, bytesTotal: 200 });
  expect(operations.listed()).toHaveLength(1);
  finish?.();
  expect((await ended).operation).toMatchObject({ state: "succeeded", correlationId: "mine" });
  expect(operations.listed()).toEqual([]);
});

it("keeps why one failed, and stops one that is cancelled", async () => {
  const operations = createOperations(() => 0);
  const failing = operations.begin("seal", "a", () => Promise.reject(new VramError("SOURCE_EMPTY", "nothing in it")));
  const { operation, error } = await failing.ended;
  expect(operation).toMatchObject({ state: "failed", error: { code: "SOURCE_EMPTY", message: "nothing in it" } });
  expect(error?.code).toBe("SOURCE_EMPTY");

  const untilAborted = (signal: AbortSignal): Promise<never> =>
    new Promise((_, reject) => {
      signal.addEventListener("abort", () => reject(new VramError("ABORTED", "stopped")));
    });
  const begun = operations.begin("seal", "b", untilAborted);
  expect(await operations.cancel(begun.operation.operationId)).toMatchObject({ error: { code: "ABORTED" } });
});

it("forgets the oldest of those that ended", async () => {
  const operations = createOperations(() => 0);
  const ids: string[] = [];
  for (let index = 0; index <= LIMITS.serviceOperations; index += 1) {
    const { operation, ended } = operations.begin("seal", `m${index}`, async () => ({ shards: [] }));
    ids.push(operation.operationId);
    await ended;
  }
  expect(() => operations.find(ids[0] ?? "")).toThrow("there is no operation");
  expect(operations.find(ids.at(-1) ?? "").state).toBe("succeeded");
});
