/**
 * What can be made to go wrong, for tests only: calls that fail, work that is dropped, stalls or breaks when it
 * executes, attributes that lie, memory that cannot be read. `EmulatedFaults` is what the driver asks;
 * `createFaultPlan` is one that counts.
 *
 * Polling makes the number of `event.query` calls a matter of timing, so a plan neither logs them nor counts them for
 * "*"; named, they fail like any other call.
 */
import type { AllocationProperties, DeviceAttribute, PointerAttribute } from "../driver.ts";

/** Work that is enqueued on a stream. */
export type OperationKind = "copyToDevice" | "copyToHost" | "fill" | "launch";

/** An operation that is about to execute. */
export interface ExecutionPoint {
  /** What it does. */
  readonly kind: OperationKind;
  /** The device it executes on. */
  readonly ordinal: number;
  /** 1 for the driver's first operation of this kind. */
  readonly nth: number;
}

/** `drop`: reported as done, without effect. `stall`: waits for `onStall`'s function. `status`: fails the context. */
export type ExecutionVerdict =
  | "drop"
  | "stall"
  | {
      /** A `CUresult` other than 0. */
      readonly status: number;
    };

/** Physical memory that fails its reader with 214. `allocation`: 1 is the driver's first. */
export interface UnreadableRange {
  /** Counted from 1, over all devices. */
  readonly allocation: number;
  /** Bytes from the start of the allocation. */
  readonly offset: number;
  /** Bytes, at least 1. */
  readonly byteLength: number;
}

/** What the emulated driver asks before it answers. What is absent, or answers undefined, changes nothing. */
export interface EmulatedFaults {
  /** A status makes the call throw it without effect. `call` is `noun.verb` of the interface: "memory.create". */
  onCall?(call: string): number | undefined;
  /** What becomes of an operation that is about to execute. */
  onExecute?(point: ExecutionPoint): ExecutionVerdict | undefined;
  /** Handed what lets a stalled operation go on. */
  onStall?(resume: () => void): void;
  /** Memory that cannot be read now. */
  uncorrectable?(): readonly UnreadableRange[];
  /** What the driver says instead of `value`. */
  deviceAttribute?(attribute: DeviceAttribute, value: number): number;
  /** What the driver says instead of `value`; undefined: it has no answer. */
  pointerAttribute?(attribute: PointerAttribute, value: bigint | undefined): bigint | undefined;
  /** What `memory.getAccess` says instead of `flags` (cuda.h: 0 none, 1 read, 3 read and write). */
  access?(flags: number): number;
  /** What `memory.properties` says instead. */
  properties?(properties: AllocationProperties): AllocationProperties;
}

/**
 * Faults by the count of calls and operations; for `TestOptions.faults`. `nth` counts from 1, `status` is a `CUresult`.
 */
export interface FaultPlan extends EmulatedFaults {
  /**
   * The `nth` call of this name ("*": of any) fails with `status`; `forGood`: and each one after it. The context does
   * not fail with it, whatever the status: `breakExecution` does that.
   */
  failCall(call: string, nth: number, status: number, options?: { readonly forGood?: boolean }): void;
  /** The `nth` kernel launch is reported as done, without effect. */
  dropLaunch(nth: number): void;
  /** The `nth` copy to the device is reported as done, without effect. */
  dropCopyToDevice(nth: number): void;
  /** The `nth` copy to the host is reported as done, without effect. */
  dropCopyToHost(nth: number): void;
  /** The `nth` fill is reported as done, without effect. */
  dropFill(nth: number): void;
  /** The `nth` operation of this kind waits for `release()`. */
  stall(kind: OperationKind, nth: number): void;
  /** Lets everything that stalls go on. */
  release(): void;
  /**
   * The `nth` operation of this kind fails when it executes, and its context with it: every later call has `status`.
   */
  breakExecution(kind: OperationKind, nth: number, status: number): void;
  /** From now on the driver gives this answer; undefined, for pointers: that it has none. */
  overrideAttribute(attribute: DeviceAttribute, value: number): void;
  /** The same, for pointers. */
  overrideAttribute(attribute: PointerAttribute, value: number | bigint | undefined): void;
  /** What `memory.properties` says. */
  overrideProperties(properties: Partial<AllocationProperties>): void;
  /** What `memory.getAccess` says (the pointer attribute `accessFlags` is another question). */
  overrideAccess(flags: number): void;
  /** Memory that fails its reader with 214 (uncorrectable ECC) from now on. */
  markUncorrectable(range: UnreadableRange): void;
  /** Faults that took effect: calls failed, operations dropped, stalled or broken. */
  fired(): number;
  /** Every call so far, in order, without `event.query`. */
  calls(): readonly string[];
  /** Forgets faults, counts, log; what stalls goes on. */
  reset(): void;
}

const POLL = "event.query";

interface CallFault {
  readonly call: string;
  readonly nth: number;
  readonly status: number;
  readonly forGood: boolean;
}

interface ExecutionFaultRow {
  readonly kind: OperationKind;
  readonly nth: number;
  readonly verdict: ExecutionVerdict;
}

/** A plan without faults yet. Counting starts when it is made or reset: `nth` 1 is the next one. */
export function createFaultPlan(): FaultPlan {
  const state = emptyState();
  const count = (key: string): number => {
    const seen = (state.counts.get(key) ?? 0) + 1;
    state.counts.set(key, seen);
    return seen;
  };
  const onExecution = (kind: OperationKind, nth: number, verdict: ExecutionVerdict): void => {
    state.executionFaults.push({ kind, nth, verdict });
  };
  const release = (): void => {
    for (const resume of state.stalled.splice(0)) resume();
  };

  return {
    ...answers(state),
    onCall: (call) => {
      const nthByName = count(call);
      const nthOfAll = call === POLL ? 0 : count("*");
      if (call !== POLL) state.log.push(call);
      const hit = state.callFaults.find((fault) => {
        const nth = fault.call === "*" ? nthOfAll : fault.call === call ? nthByName : 0;
        return nth > 0 && (fault.forGood ? nth >= fault.nth : nth === fault.nth);
      });
      if (hit !== undefined) state.fired += 1;
      return hit?.status;
    },
    onExecute: ({ kind }) => {
      const nth = count(`execute ${kind}`);
      const hit = state.executionFaults.find((fault) => fault.kind === kind && fault.nth === nth);
      if (hit !== undefined) state.fired += 1;
      return hit?.verdict;
    },
    onStall: (resume) => {
      state.stalled.push(resume);
    },
    failCall: (call, nth, status, options = {}) => {
      state.callFaults.push({ call, nth, status, forGood: options.forGood ?? false });
    },
    dropLaunch: (nth) => onExecution("launch", nth, "drop"),
    dropCopyToDevice: (nth) => onExecution("copyToDevice", nth, "drop"),
    dropCopyToHost: (nth) => onExecution("copyToHost", nth, "drop"),
    dropFill: (nth) => onExecution("fill", nth, "drop"),
    stall: (kind, nth) => onExecution(kind, nth, "stall"),
    breakExecution: (kind, nth, status) => onExecution(kind, nth, { status }),
    release,
    fired: () => state.fired,
    calls: () => state.log,
    reset: () => {
      release();
      Object.assign(state, emptyState());
    },
  };
}

interface PlanState {
  counts: Map<string, number>;
  callFaults: CallFault[];
  executionFaults: ExecutionFaultRow[];
  attributes: Map<string, number | bigint | undefined>;
  properties: Partial<AllocationProperties>;
  access: number | undefined;
  unreadable: UnreadableRange[];
  stalled: (() => void)[];
  log: string[];
  fired: number;
}

function emptyState(): PlanState {
  return {
    counts: new Map(),
    callFaults: [],
    executionFaults: [],
    attributes: new Map(),
    properties: {},
    access: undefined,
    unreadable: [],
    stalled: [],
    log: [],
    fired: 0,
  };
}

type Answers = "deviceAttribute" | "pointerAttribute" | "access" | "properties" | "uncorrectable";
type Overrides = "overrideAttribute" | "overrideProperties" | "overrideAccess" | "markUncorrectable";

/** The part of a plan that changes what the driver says. */
function answers(state: PlanState): Pick<FaultPlan, Answers | Overrides> {
  return {
    deviceAttribute: (attribute, value) => {
      const override = state.attributes.get(attribute);
      return override === undefined ? value : Number(override);
    },
    pointerAttribute: (attribute, value) => {
      if (!state.attributes.has(attribute)) return value;
      const override = state.attributes.get(attribute);
      return override === undefined ? undefined : BigInt(override);
    },
    access: (flags) => state.access ?? flags,
    properties: (properties) => ({ ...properties, ...state.properties }),
    uncorrectable: () => state.unreadable,
    overrideAttribute: (attribute: string, value: number | bigint | undefined) => {
      state.attributes.set(attribute, value);
    },
    overrideProperties: (properties) => {
      state.properties = { ...state.properties, ...properties };
    },
    overrideAccess: (flags) => {
      state.access = flags;
    },
    markUncorrectable: (range) => {
      state.unreadable.push(range);
    },
  };
}
