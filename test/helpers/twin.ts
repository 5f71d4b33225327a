/**
 * A system and a small model of it, side by side: each command is run, its end compared with what the model allows, and
 * what is listed, used and running afterwards with what the model holds.
 */
import { join } from "node:path";
import { expect } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { Clock } from "../../src/clock.ts";
import type { Tenant } from "../../src/cuda/monitor.ts";
import { VramError } from "../../src/errors.ts";
import type { Seal } from "../../src/seal/encoding.ts";
import { createFaultPlan, type FaultPlan, liveHandles } from "../../src/testing.ts";
import { CONTENTS, type Command, type Content, FAULTY, type Fault, GRANULE, type Of, ROOM } from "./twin-commands.ts";
import { MIB, openSmall, type Recorded } from "./vram.ts";

/** What the model knows of a shard that is listed. */
interface Known {
  readonly content: Content;
  readonly shardId: string;
  readonly seal: Seal;
  state: "sealed" | "mismatched" | "lost";
  /** Bits that are not as they were sealed. */
  readonly flips: Set<string>;
  measuredAt: number;
}

/** Both of them. `stateDir`: what is stopped stays stopped. `folder` holds the contents as files. */
export class Twin {
  readonly #stateDir: string | undefined;
  readonly #folder: string;
  readonly #shards = new Map<string, Known>();
  readonly #clock: Clock & { now: number };
  #faults: FaultPlan = createFaultPlan();
  #system!: Recorded;
  #stopped = false;
  #lost = false;
  #old: Seal | undefined;
  /** How often each operation ended how. */
  readonly #ends: Map<string, number>;
  /** Called with each entry of the journal. */
  #onEntry: (type: string) => void = () => undefined;

  constructor(stateDir: string | undefined, folder: string, ends: Map<string, number>) {
    this.#ends = ends;
    this.#stateDir = stateDir;
    this.#folder = folder;
    const sleep = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
    this.#clock = { now: 1, wallMs: () => this.#clock.now, monotonicMs: () => this.#clock.now, sleep };
  }

  async open(): Promise<void> {
    const tenants: Tenant[] = [];
    this.#faults = createFaultPlan();
    const reader = { required: true, accept: ({ type }: { type: string }) => this.#onEntry(type) };
    const state = this.#stateDir === undefined ? {} : { stateDir: this.#stateDir };
    const small = { deviceSpec: { tenants }, ringSlots: 2, measureWindowBytes: MIB / 2 };
    this.#system = await openSmall(
      { emulated: { byteLength: 64 * MIB }, readers: [reader], ...state },
      { ...small, clock: this.#clock, faults: this.#faults },
    );
    const { bytesFree } = await this.#system.vram.capacity();
    tenants.push({ pid: 1, name: "others", byteLength: bytesFree - ROOM });
  }

  async close(): Promise<void> {
    await this.#system.vram.close();
    expect(this.#system.vram.list()).toEqual([]);
    expect(this.#system.open.driver.emulation.pendingLint()).toBeUndefined();
    expect(liveHandles()).toEqual({});
    for (const { seal } of this.#shards.values()) this.#old = seal;
    this.#shards.clear();
  }

  /** Closes the system without asking what became of it. */
  async abandon(): Promise<void> {
    await this.#system.vram.close();
  }

  async reopen(): Promise<void> {
    await this.close();
    this.#lost = false;
    this.#stopped &&= this.#stateDir !== undefined;
    await this.open();
  }

  /** How `run` ends with the fault armed: "ok" or a code, and whether the fault took effect. */
  async #end(
    op: string,
    armed: Fault | undefined,
    run: () => Promise<unknown>,
  ): Promise<{ end: string; fired: boolean }> {
    this.#faults.reset();
    if (armed?.kind === "call") this.#faults.failCall("*", armed.nth, armed.status, { forGood: armed.forGood });
    if (armed?.kind === "break") this.#faults.breakExecution(armed.operation, armed.nth, armed.status);
    if (armed?.kind === "drop") {
      const drops = { copyToDevice: "dropCopyToDevice", copyToHost: "dropCopyToHost", fill: "dropFill" } as const;
      if (armed.operation === "launch") this.#faults.dropLaunch(armed.nth);
      else this.#faults[drops[armed.operation]](armed.nth);
    }
    const end = await run().then(
      () => "ok",
      (error: unknown) => {
        if (error instanceof VramError) return error.code;
        throw error;
      },
    );
    const fired = this.#faults.fired() > 0;
    this.#faults.reset();
    const key = `${op} ${end}${fired ? " (fault)" : ""}`;
    this.#ends.set(key, (this.#ends.get(key) ?? 0) + 1);
    const lost = this.#system.vram.devices()[0]?.state === "lost";
    if (lost && !this.#lost) {
      expect(fired, "a device is lost for a reason").toBe(true);
      for (const shard of this.#shards.values()) if (shard.state === "sealed") shard.state = "lost";
    }
    this.#lost = lost;
    return { end, fired };
  }

  #predictSeal({ name, expected, sha256 }: Of<"seal">, content: Content, bytesFree: number): string {
    if (this.#stopped) return "WORKER_STOPPED";
    if (this.#lost) return "DEVICE_LOST";
    const held = this.#shards.get(name);
    if (held === undefined && content.bytes.byteLength > bytesFree) return "OUT_OF_VRAM";
    if (expected === "wrong") return "DIGEST_MISMATCH";
    if (held === undefined) return "ok";
    if (held.content !== content) return "NAME_CONFLICT";
    if (held.state !== "sealed") return "SHARD_NOT_RESIDENT";
    return (sha256 || expected === "sha256") && held.seal.sha256 === "" ? "NAME_CONFLICT" : "ok";
  }

  async seal(call: Of<"seal">): Promise<void> {
    const { vram } = this.#system;
    const content = CONTENTS[call.content] ?? expect.fail();
    const { bytes } = content;
    const bytesFree = this.#lost ? 0 : (await vram.capacity()).bytesFree;
    const predicted = this.#predictSeal(call, content, bytesFree);
    const digests = {
      none: undefined,
      fsverity: content.digest,
      sha256: `sha256:${content.sha256}`,
      wrong: "0".repeat(64),
    };
    const digest = digests[call.expected];
    const expected = digest === undefined || digest === "" ? {} : { expected: digest };
    async function* chunks() {
      for (let at = 0; at < bytes.byteLength; at += 100_000) yield bytes.subarray(at, at + 100_000);
    }
    const path = join(this.#folder, String(call.content));
    const sources = { bytes: { bytes }, path: { path }, chunks: { chunks: chunks(), byteLength: bytes.byteLength } };
    const controller = new AbortController();
    let step = 0;
    let abortedAt: string | undefined;
    this.#onEntry = (type) => {
      step += 1;
      if (step !== call.abortAt) return;
      abortedAt = type;
      controller.abort();
    };
    const options = {
      name: call.name,
      sha256: call.sha256,
      format: "raw",
      signal: controller.signal,
      ...expected,
    } as const;
    let result: Awaited<ReturnType<typeof vram.seal>> | undefined;
    const { end, fired } = await this.#end(call.op, call.fault, async () => {
      result = await vram.seal(sources[call.kind], options);
    });
    this.#onEntry = () => undefined;
    // Behind the record of the seal it is too late.
    const aborted = abortedAt !== undefined && abortedAt !== "vram_sealed" && abortedAt !== "operation_ended";
    const allowed = [predicted, ...(aborted ? ["ABORTED"] : []), ...(fired ? [...FAULTY, "DIGEST_MISMATCH"] : [])];
    expect(allowed).toContain(end);
    if (aborted && !fired) expect(end).not.toBe("ok");
    if (result === undefined) return;
    const { record, seal } = result;
    expect(record.digest).toBe(content.digest);
    const held = this.#shards.get(call.name);
    if (held !== undefined) expect(record.shardId).toBe(held.shardId);
    else {
      const { now: measuredAt } = this.#clock;
      const state = this.#lost ? "lost" : "sealed";
      this.#shards.set(call.name, { content, shardId: record.shardId, seal, state, flips: new Set(), measuredAt });
    }
  }

  async verify({ op, name, how, fault }: Of<"verify">): Promise<void> {
    const held = this.#shards.get(name);
    const forged = held === undefined ? undefined : { ...held.seal, byteLength: held.seal.byteLength + 1 };
    const seals: Partial<Record<typeof how, Seal | undefined>> = { presented: held?.seal, forged, old: this.#old };
    const ages: Partial<Record<typeof how, number>> = { fresh: 5000, stale: 0 };
    const [seal, maxAgeMs] = [seals[how], ages[how]];
    const salted = how === "salt";
    const options = {
      ...(seal === undefined ? {} : { seal }),
      ...(maxAgeMs === undefined ? {} : { maxAgeMs }),
      ...(salted ? { salt: "ab" } : {}),
    };
    const isYoung = held !== undefined && this.#clock.now - held.measuredAt <= 5000;
    const isFresh = how === "fresh" && isYoung && !this.#stopped;
    let predicted = "ok";
    if (held === undefined) predicted = "SHARD_NOT_FOUND";
    else if (seal !== undefined && seal !== held.seal) predicted = "SEAL_REFUSED";
    else if (held.state !== "sealed") predicted = "SHARD_NOT_RESIDENT";
    else if (!isFresh && held.flips.size > 0) predicted = "MEASUREMENT_MISMATCH";
    let report: Awaited<ReturnType<Recorded["vram"]["verify"]>> | undefined;
    const { end, fired } = await this.#end(op, fault, async () => {
      report = await this.#system.vram.verify(name, options);
    });
    expect([predicted, ...(fired ? FAULTY : [])]).toContain(end);
    if (held === undefined) return;
    if (end === "MEASUREMENT_MISMATCH") [held.state, this.#stopped] = ["mismatched", true];
    if (report === undefined) return;
    expect(report.basis).toBe(isFresh ? "fresh-enough" : "measured");
    expect(report.digest).toBe(held.content.digest);
    if (salted) expect(report.salted?.digest).toBe(held.content.salted);
    if (!isFresh) held.measuredAt = this.#clock.now;
  }

  /** Some name that is listed rather than one that is not; "c" stays "c". */
  #listed(name: string): string {
    return name === "c" || this.#shards.has(name) ? name : ([...this.#shards.keys()][0] ?? name);
  }

  async flip({ name, at, bit }: Of<"flip">): Promise<void> {
    const held = this.#shards.get(name);
    if (held === undefined || this.#lost) return;
    const offset = at % held.content.bytes.byteLength;
    await this.#system.flipBit(held.shardId, offset, bit);
    const flipped = `${offset}.${bit}`;
    if (!held.flips.delete(flipped)) held.flips.add(flipped);
  }

  async evict({ op, name, fault }: Of<"evict">): Promise<void> {
    const held = this.#shards.get(name);
    const { end, fired } = await this.#end(op, fault, async () => {
      const lost = this.#lost;
      const { zeroed, record } = await this.#system.vram.evict(name);
      expect(record.state).toBe("evicted");
      if (lost) expect(zeroed).toBe(false);
      else if (this.#faults.fired() === 0) expect(zeroed).toBe(true);
    });
    expect(end, String(fired)).toBe(held === undefined ? "SHARD_NOT_FOUND" : "ok");
    if (held !== undefined) this.#old = held.seal;
    this.#shards.delete(name);
  }

  async resume(): Promise<void> {
    await this.#system.vram.resume("the model says so");
    this.#stopped = false;
  }

  /** What must be true now. */
  async check(all: boolean): Promise<void> {
    const { vram, open, entries } = this.#system;
    this.#clock.now += 1001;
    const listed = vram
      .list()
      .map((record) => [record.name, record.shardId, record.digest, record.state, record.sealed]);
    const wanted = [...this.#shards].map(([name, shard]) => {
      return [name, shard.shardId, shard.content.digest, shard.state, shard.state === "sealed"];
    });
    expect(listed).toEqual(wanted);
    expect(vram.devices()[0]?.state).toBe(this.#lost ? "lost" : this.#stopped ? "stopped" : "running");
    expect(open.driver.emulation.pendingLint()).toBeUndefined();
    const capacity = this.#lost ? open.workers[0]?.ledger.capacity(0) : await vram.capacity();
    const granules = [...this.#shards.values()].map(({ content }) => Math.ceil(content.bytes.byteLength / GRANULE));
    const bytesUsed = granules.reduce((sum, count) => sum + count * GRANULE, 0);
    expect(capacity).toMatchObject({ bytesUsed, bytesReserved: 0 });
    if (this.#lost) return;
    const leaked = entries.some((entry) => entry.type === "release_failed");
    if (!leaked) expect(capacity).toMatchObject({ bytesFree: ROOM - bytesUsed, bytesUnreclaimed: 0 });
    // One of them after each command, all of them at the end: measuring is most of what this costs.
    const turn = this.#clock.now % Math.max(1, this.#shards.size);
    for (const [name, shard] of [...this.#shards].slice(...(all ? [] : [turn, turn + 1]))) {
      await this.#checkBytes(name, shard);
    }
  }

  /** What is listed as sealed is what lies there, unless a bit was flipped. */
  async #checkBytes(name: string, { content, state, flips }: Known): Promise<void> {
    const { open } = this.#system;
    if (state !== "sealed" || content.bytes.byteLength > 70_000) return;
    const { allocationId } = open.system.registry.find(name);
    const measured = toHex((await open.devices[0]?.measure(allocationId))?.digest ?? expect.fail());
    if (flips.size === 0) expect(measured, name).toBe(content.digest);
    else expect(measured, name).not.toBe(content.digest);
  }

  async run(call: Command): Promise<void> {
    if (call.op === "seal") await this.seal(call);
    else if (call.op === "verify") await this.verify({ ...call, name: this.#listed(call.name) });
    else if (call.op === "flip") await this.flip({ ...call, name: this.#listed(call.name) });
    else if (call.op === "evict") await this.evict({ ...call, name: this.#listed(call.name) });
    else if (call.op === "resume") await this.resume();
    else await this.reopen();
  }
}
