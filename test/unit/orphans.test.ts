/** Waiting for what a killed service left behind: who is waited for, how long, and who is not. `/proc` is a stand-in. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, expect, it } from "vitest";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { holderState, openWhenFree, type ReadProc, readProc } from "../../src/process/orphans.ts";
import { failureOf } from "../helpers/remote.ts";
import { codeOf } from "../helpers/vram.ts";

const ENTRY = "/opt/vram/dist/process/device-process.js";

interface Fake {
  readonly argv?: readonly string[];
  readonly ppid?: number;
  readonly state?: string;
  readonly flags?: number;
  readonly threads?: number;
}

/** The fields of proc(5), under a name that tries to look like them. */
const statOf = (pid: number, { state = "S", ppid = 1, flags = 0x404000, threads = 11 }: Fake): string =>
  `${pid} (a) Z 7 (b) ${state} ${ppid} 1 1 0 -1 ${flags} 0 0 0 0 4 1 0 0 20 0 ${threads} 0 3548235 0\n`;

/** Reads a `/proc` that has these. */
const procOf =
  (fakes: Readonly<Record<number, Fake>>): ReadProc =>
  (pid, file) => {
    const fake = fakes[pid];
    if (fake === undefined) return undefined;
    return file === "stat" ? statOf(pid, fake) : (fake.argv ?? []).map((arg) => `${arg}\0`).join("");
  };

const DEVICE = ["/usr/bin/node", ENTRY, "50"];
const SERVICE: Fake = { argv: ["/usr/bin/node", "vram", "serve"] };

describe("the holder of a GPU", () => {
  const CASES: [string, Readonly<Record<number, Fake>>, string][] = [
    ["a device's process whose service lives", { 60: { argv: DEVICE, ppid: 50 }, 50: SERVICE }, "other"],
    ["one whose service is gone", { 60: { argv: DEVICE, ppid: 1 }, 1: {} }, "going"],
    ["one whose service is gone, and its number given anew", { 60: { argv: DEVICE, ppid: 1 }, 50: SERVICE }, "going"],
    ["one whose service ends", { 60: { argv: DEVICE, ppid: 50 }, 50: { ...SERVICE, flags: 0x400004 } }, "going"],
    [
      "one whose service is a zombie",
      { 60: { argv: DEVICE, ppid: 50 }, 50: { state: "Z", threads: 1, flags: 4 } },
      "going",
    ],
    ["one that ends, and does not say any more what it was", { 60: { ppid: 50, flags: 4 }, 50: SERVICE }, "going"],
    ["one whose first thread has ended, and another has not", { 60: { state: "Z", flags: 4, threads: 2 } }, "going"],
    ["one that has ended, and whose parent has not asked", { 60: { state: "Z", flags: 4, threads: 1 } }, "gone"],
    ["none", {}, "gone"],
    ["another program", { 60: { argv: ["/usr/bin/python3", "train.py", "50"], ppid: 1 } }, "other"],
    ["a file that ends alike", { 60: { argv: ["node", "/x/not-device-process.js", "50"], ppid: 1 } }, "other"],
    ["no number of a service", { 60: { argv: ["node", ENTRY, "5x"], ppid: 1 } }, "other"],
    ["no arguments", { 60: { argv: ["node"], ppid: 1 } }, "other"],
  ];
  it.each(CASES)("%s", (_title, fakes, state) => {
    expect(holderState(60, procOf(fakes))).toBe(state);
  });

  it("is read from the machine's own /proc", async () => {
    expect(holderState(process.pid)).toBe("other");
    const child = spawn("/bin/true");
    await once(child, "exit");
    expect(holderState(child.pid ?? 0)).toBe("gone");
    expect(readProc(process.pid, "cmdline")?.split("\0")[0]).toMatch(/node/);
  });
});

const busy = (pid: unknown, more: object = {}): VramError =>
  new VramError("DEVICE_BUSY", `process ${String(pid)} has the device`, { details: { pid, ...more } });

/** `open` fails with these in turn, then opens; `fakes` is what `/proc` has, changed by `onSleep`. */
function setUp(failures: readonly Error[], fakes: Record<number, Fake>, onSleep?: (nth: number) => void) {
  const made = { opens: 0, slept: [] as number[] };
  const clock = {
    now: 0,
    monotonicMs: () => clock.now,
    sleep: async (ms: number) => {
      made.slept.push(ms);
      clock.now += ms;
      onSleep?.(made.slept.length);
    },
  };
  const open = async (): Promise<string> => {
    const failure = failures[made.opens];
    made.opens += 1;
    if (failure !== undefined) throw failure;
    return "open";
  };
  const read: ReadProc = (pid, file) => procOf(fakes)(pid, file);
  return { made, fakes, run: (signal?: AbortSignal) => openWhenFree(open, { clock, read, ...(signal && { signal }) }) };
}

describe("opening a GPU that a killed service had", () => {
  it("[VR-DEV-05] waits until what was left behind is gone, and opens it then", async () => {
    const fakes: Record<number, Fake> = { 60: { argv: DEVICE, ppid: 1 } };
    const { made, run } = setUp([busy(60)], fakes, (nth) => {
      if (nth === 2) fakes[60] = { state: "Z", flags: 4, threads: 2 };
      if (nth === 3) delete fakes[60];
    });
    expect(await run()).toBe("open");
    expect(made).toEqual({ opens: 2, slept: [100, 100, 100] });
  });

  it("waits 30 s for all that was left behind together, and rejects then as before", async () => {
    const fakes: Record<number, Fake> = { 60: { argv: DEVICE }, 61: { argv: DEVICE } };
    const second = busy(61);
    const { made, run } = setUp([busy(60), second, busy(60)], fakes, (nth) => {
      if (nth === 200) delete fakes[60];
    });
    expect(await failureOf(run())).toBe(second);
    expect([made.opens, made.slept.length]).toEqual([2, LIMITS.deviceOrphanMs / 100]);
  });

  it("tries again at once when the holder has vanished meanwhile; one that is not to be seen twice is believed", async () => {
    const once = setUp([busy(60)], {});
    expect(await once.run()).toBe("open");
    expect(once.made).toEqual({ opens: 2, slept: [] });
    const twice = setUp([busy(60), busy(60)], {});
    expect(await codeOf(twice.run())).toBe("DEVICE_BUSY");
    expect(twice.made).toEqual({ opens: 2, slept: [] });
  });

  it("does not wait for another service, nor for anything else that fails", async () => {
    const alive = { 60: { argv: DEVICE, ppid: 50 }, 50: SERVICE };
    const going = { 60: { argv: DEVICE } };
    const failures = [
      ...[busy(undefined), busy(Number.NaN), busy("60"), busy(60, { wedged: true })],
      ...[new VramError("DEVICE_LOST", "gone", { details: { pid: 60 } }), new Error("60")],
    ];
    for (const [failure, fakes] of [[busy(60), alive] as const, ...failures.map((one) => [one, going] as const)]) {
      const { made, run } = setUp([failure], { ...fakes });
      await expect(run()).rejects.toBe(failure);
      expect(made).toEqual({ opens: 1, slept: [] });
    }
  });

  it("ends its waiting when it is told to", async () => {
    const stop = new AbortController();
    const { made, run } = setUp([busy(60)], { 60: { argv: DEVICE } }, (nth) => {
      if (nth === 2) stop.abort();
    });
    expect(await codeOf(run(stop.signal))).toBe("ABORTED");
    expect(made).toEqual({ opens: 1, slept: [100, 100] });
  });
});
