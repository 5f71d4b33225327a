/**
 * The VRAM-only policy: data over facts. Every entry says which value a fact must have; a device or an allocation whose
 * fact differs breaks the rule of that name. Facts that are ordinary on healthy machines (pageable access on Linux with
 * HMM, a host pointer on coherent machines) are reported elsewhere and never stand here (VR-POL-03).
 */
import { canonicalJson, toHex } from "../bytes.ts";
import type { AllocationFacts, DeviceFacts } from "../device/device.ts";
import { VramError } from "../errors.ts";
import { sha256 } from "../hash/descriptor.ts";

/** Facts a policy may speak of, with the value each must have. */
export interface Policy {
  /** Of this form. */
  readonly version: 1;
  /** What must hold of a device when it is opened; an absent fact is not judged. */
  readonly device: {
    /** No device that shares the host's memory. */
    readonly integrated?: false;
    /** No machine where Windows pages VRAM. */
    readonly wddm?: false;
    /** No device whose clients share one context; absent with `allowMps`. */
    readonly mps?: false;
    /** Memory with mappings of its own access. */
    readonly virtualMemoryManagement?: true;
  };
  /** What must hold of every allocation, whenever it is asked. */
  readonly allocation: {
    /** Physical memory that stays where it is. */
    readonly allocationType: "pinned";
    /** By the properties of the allocation. */
    readonly locationType: "device";
    /** By the attribute of its address. */
    readonly memoryType: "device";
    /** No memory that migrates. */
    readonly managed: false;
    /** On the device that it was allocated on. */
    readonly ordinalMatches: true;
    /** The mapping that is measured cannot be written through. */
    readonly mainAccess: "read";
    /** The range that the driver knows has the size that was allocated. */
    readonly sizeMatches: true;
  };
}

/** The policy in force unless something is explicitly allowed. */
export const VRAM_ONLY_POLICY: Policy = {
  version: 1,
  device: { integrated: false, wddm: false, mps: false, virtualMemoryManagement: true },
  allocation: {
    allocationType: "pinned",
    locationType: "device",
    memoryType: "device",
    managed: false,
    ordinalMatches: true,
    mainAccess: "read",
    sizeMatches: true,
  },
};

/** The policy that also accepts a device shared through MPS, whose clients share one context. */
export const POLICY_WITH_MPS: Policy = {
  ...VRAM_ONLY_POLICY,
  device: { integrated: false, wddm: false, virtualMemoryManagement: true },
};

/** A broken rule. */
export interface Violation {
  /** Stable name of the rule. */
  readonly rule: string;
  /** Which fact, as `DeviceFacts` or `AllocationFacts` calls it. */
  readonly fact: string;
  /** The value that the policy demands, as text. */
  readonly expected: string;
  /** The value that was found, as text. */
  readonly actual: string;
}

const RULES: Record<string, string> = {
  integrated: "integrated-gpu",
  wddm: "wddm",
  mps: "mps",
  virtualMemoryManagement: "no-virtual-memory-management",
  allocationType: "allocation-not-pinned",
  locationType: "location-not-device",
  memoryType: "unknown-memory-type",
  managed: "managed-memory",
  ordinalMatches: "wrong-ordinal",
  mainAccess: "writable-mapping",
  sizeMatches: "wrong-size",
};

/** Rules that depend on the value found: memory known to be the host's is a graver thing than an unknown kind. */
function ruleName(fact: string, actual: unknown): string {
  if (fact === "memoryType" && actual === "host") return "host-resident-memory";
  if (fact === "mainAccess" && actual !== "readWrite") return "wrong-mapping-access";
  return RULES[fact] ?? fact;
}

function violations(required: object, facts: object): Violation[] {
  const actual = new Map<string, unknown>(Object.entries(facts));
  return Object.entries(required)
    .filter(([fact, value]) => actual.get(fact) !== value)
    .map(([fact, value]) => ({
      rule: ruleName(fact, actual.get(fact)),
      fact,
      expected: String(value),
      actual: String(actual.get(fact)),
    }));
}

/** The rules this device breaks. */
export function checkDevice(policy: Policy, facts: DeviceFacts): Violation[] {
  return violations(policy.device, facts);
}

/** The rules this allocation breaks. */
export function checkAllocation(policy: Policy, facts: AllocationFacts): Violation[] {
  return violations(policy.allocation, facts);
}

/** SHA-256 of the policy as RFC 8785 JSON, hex: what a seal says of the policy it was made under. */
export function policyDigest(policy: Policy): string {
  return toHex(sha256(Buffer.from(canonicalJson(policy), "utf8")));
}

/** What can be done about a broken rule; about the others nothing but evicting and sealing again. */
const FIXES: Readonly<Record<string, string>> = {
  "integrated-gpu": "use a GPU with memory of its own: an integrated one has none",
  wddm: "use bare-metal Linux: under WSL Windows moves VRAM to host memory behind the driver's back",
  mps: "stop the MPS daemon (`echo quit | nvidia-cuda-mps-control`), or allow it with `allowMps`",
  "no-virtual-memory-management":
    "use a GPU and a driver with virtual memory management: a real one from Turing on, R470 or newer",
};
const OTHER_FIX =
  "the driver does not keep weights as they were asked for: seal again, and check the driver if it persists";

/** The error for broken rules; names each with what was expected and found. */
export function policyError(found: readonly Violation[]): VramError {
  const list = found.map(({ rule, fact, expected, actual }) => `${rule} (${fact} is ${actual}, must be ${expected})`);
  return new VramError("POLICY_VIOLATION", `the VRAM-only policy is broken: ${list.join("; ")}`, {
    fix: [...new Set(found.map(({ rule }) => FIXES[rule] ?? OTHER_FIX))].join("; "),
    details: { violations: found },
  });
}
