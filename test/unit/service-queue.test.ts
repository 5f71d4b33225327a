/** Places for requests that make a device work. */
import { describe, expect, it } from "vitest";
import { createWorkQueue } from "../../src/service/http/queue.ts";
import { codeOf } from "../helpers/vram.ts";

const never = new AbortController().signal;

/** A task that ends when it is told to. */
function held() {
  let end: (error?: Error) => void = () => undefined;
  const ended = new Promise<string>((resolve, reject) => {
    end = (error) => {
      if (error === undefined) resolve("done");
      else reject(error);
    };
  });
  return { task: () => ended, end: (error?: Error) => end(error) };
}

describe("the queue of requests", () => {
  it("has so many at work, lets others wait in their order, and turns the rest away", async () => {
    const queue = createWorkQueue({ requests: 1, waiting: 2 });
    const [one, two] = [held(), held()];
    const order: string[] = [];
    const first = queue.run(one.task, never).then(() => order.push("first"));
    const second = queue.run(two.task, never).then(() => order.push("second"));
    const third = queue.run(async () => "third", never).then(() => order.push("third"));
    expect(await codeOf(queue.run(two.task, never))).toBe("SERVICE_BUSY");
    expect([queue.atWork, queue.waiting]).toEqual([1, 2]);
    one.end();
    await first;
    two.end();
    await Promise.all([second, third]);
    expect(order).toEqual(["first", "second", "third"]);
    expect([queue.atWork, queue.waiting]).toEqual([0, 0]);
  });

  it("gives the place of a task that fails to the next", async () => {
    const queue = createWorkQueue({ requests: 1, waiting: 1 });
    const one = held();
    const first = queue.run(one.task, never);
    const second = queue.run(async () => "second", never);
    one.end(new Error("it failed"));
    await expect(first).rejects.toThrow("it failed");
    expect(await second).toBe("second");
    expect(queue.atWork).toBe(0);
  });

  it("forgets a caller that goes away while it waits, and none that is at work", async () => {
    const queue = createWorkQueue({ requests: 1, waiting: 1 });
    const one = held();
    const [gone, atWork] = [new AbortController(), new AbortController()];
    const first = queue.run(one.task, atWork.signal);
    const second = codeOf(queue.run(async () => "second", gone.signal));
    gone.abort();
    atWork.abort();
    expect(await second).toBe("ABORTED");
    expect([queue.atWork, queue.waiting]).toEqual([1, 0]);
    one.end();
    expect(await first).toBe("done");
    expect(await codeOf(queue.run(async () => "late", gone.signal))).toBe("ABORTED");
    expect(queue.atWork).toBe(0);
  });
});
