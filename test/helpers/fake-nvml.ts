/**
 * The stand-in for libnvidia-ml.so.1 (`test/border/fake/libnvidia-ml.cpp`). What it answers is said by the environment,
 * as its first lines list; in this process libc sees what is set in `process.env` on Node's main thread only.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { GpuEvidence } from "../../src/cuda/monitor.ts";
import { type Nvml, openNvml } from "../../src/cuda/nvml.ts";

/** Made up, in NVML's form. */
export const FAKE_UUID = "GPU-5eed5eed-0001-0002-0003-000000000004";

/** Paths of the fake, and of one that has next to no functions. */
export interface FakeNvml {
  readonly library: string;
  readonly bare: string;
  /** For the titles of tests: why it cannot be built here. Empty where it can. */
  readonly whyNot: string;
}

/** Builds both libraries, or finds them built. Throws what the compiler said if it refuses the source. */
export function fakeNvml(): FakeNvml {
  const script = fileURLToPath(new URL("../../scripts/fake-nvml.mjs", import.meta.url));
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, "--json"], { encoding: "utf8" });
  if (status !== 0) throw new Error(`the fake libnvidia-ml cannot be built:\n${stderr}`);
  const built = JSON.parse(stdout) as { library: string; bare: string } | { reason: string };
  return "reason" in built ? { library: "", bare: "", whyNot: ` (${built.reason})` } : { ...built, whyNot: "" };
}

/** What the fake is told: names without `VRAM_FAKE_NVML_`. */
export type FakeNvmlSettings = Readonly<Record<string, string>>;

/** The settings as environment variables, for a process of the fake's own. */
export function fakeNvmlEnv(settings: FakeNvmlSettings): Record<string, string> {
  return Object.fromEntries(Object.entries(settings).map(([name, value]) => [`VRAM_FAKE_NVML_${name}`, value]));
}

/** Opens a fake in this process; it reads the environment when it is initialised, and not later. */
export function openFakeNvml(path: string, settings: FakeNvmlSettings = {}): Nvml {
  const env = fakeNvmlEnv(settings);
  Object.assign(process.env, env);
  try {
    return openNvml(path);
  } finally {
    for (const name of Object.keys(env)) Reflect.deleteProperty(process.env, name);
  }
}

/** A virtual machine (1), the feature on, tools off; a CEC. */
export const CC_ON = { CC: "1,1,0,1" };
/** Every byte differs from every other, and most from zero. */
export const NONCE = new Uint8Array(32).map((_, index) => 251 - 7 * index);

/** A part of the fake's evidence: `head`, the nonce if it goes in, 0, 1, 2, … */
function part(head: string, byteLength: number, nonce?: Uint8Array): Uint8Array {
  const start = Buffer.concat([Buffer.from(head), nonce ?? new Uint8Array()]);
  const rest = Array.from({ length: byteLength }, (_, index) => index & 0xff);
  return new Uint8Array(Buffer.concat([start, Buffer.from(rest)]).subarray(0, byteLength));
}

/** What the fake signs: sizes of report, CEC report, chain and attestation chain in this order. */
export const evidenceOf = (
  nonce: Uint8Array,
  [r, c, g, a]: readonly number[] = [1000, 500, 700, 900],
): Required<GpuEvidence> => ({
  report: part("FAKE-SPDM", r ?? 0, nonce),
  cecReport: part("FAKE-CEC", c ?? 0, nonce),
  certificateChain: part("FAKE-CHAIN", g ?? 0),
  attestationCertificateChain: part("FAKE-ATTESTATION", a ?? 0),
});
