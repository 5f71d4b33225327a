/**
 * Secrets of a state directory, computed by another implementation of HKDF, and a search for them in whatever was
 * written or shown. Half of a key is enough to be found: 16 bytes do not come about by chance.
 */
import { createPrivateKey } from "node:crypto";
import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { inspect } from "node:util";
import { hkdf } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";
import type { CudaDriver } from "../../src/cuda/driver.ts";

/** A value that nothing may show. */
export interface Secret {
  readonly name: string;
  /** The first 16 bytes of `seal-id` are the public key id, so only its second half is one. */
  readonly bytes: Uint8Array;
}

const HALF = 16;
const ascii = (text: string): Uint8Array => new TextEncoder().encode(text);

/** A key of the seal from the root key (docs/seal.md). */
export function derivedKey(root: Uint8Array, purpose: string, backend: string, workerId: string): Uint8Array {
  const info = [purpose, backend, workerId].flatMap((part) => [Uint8Array.of(part.length), ascii(part)]);
  return hkdf(sha256, root, ascii("vram-residency/v1"), Buffer.concat(info), 32);
}

/** K of `epoch`, and the mac key of that epoch, from K(0) (docs/audit.md). */
export function epochKeys(k0: Uint8Array, epoch: number): { readonly key: Uint8Array; readonly macKey: Uint8Array } {
  const empty = new Uint8Array(0);
  let key = k0;
  for (let at = 0; at < epoch; at += 1) key = hkdf(sha256, key, empty, ascii("audit/evolve/v1"), 32);
  return { key, macKey: hkdf(sha256, key, empty, ascii("audit/mac/v1"), 32) };
}

/** A state directory with a root key and a K(0) that are known. */
export async function plantState(stateDir: string, root: Uint8Array, k0: Uint8Array): Promise<void> {
  await mkdir(stateDir, { mode: 0o700 });
  await writeFile(join(stateDir, "root.key"), Buffer.from(root).toString("hex"), { mode: 0o600 });
  await writeFile(join(stateDir, "audit-epoch.key"), `0 ${Buffer.from(k0).toString("hex")}\n`, { mode: 0o600 });
}

/** The epoch whose K is kept in a state directory. */
export const epochOf = async (stateDir: string): Promise<number> =>
  Number.parseInt(await readFile(join(stateDir, "audit-epoch.key"), "latin1"), 10);

/** Every secret of a planted state, and of the epochs up to the one after that which runs. */
export async function secretsOf(stateDir: string, root: Uint8Array, k0: Uint8Array): Promise<Secret[]> {
  const { devices } = JSON.parse(await readFile(join(stateDir, "state.json"), "utf8")) as { devices: string[] };
  const derived = devices.flatMap((uuid) => [
    { name: `seal key of ${uuid}`, bytes: derivedKey(root, "seal", "emulated", uuid) },
    { name: `seal-id of ${uuid}, second half`, bytes: derivedKey(root, "seal-id", "emulated", uuid).slice(HALF) },
  ]);
  const shared = ["set", "wanted"].map((purpose) => {
    return { name: `${purpose} key`, bytes: derivedKey(root, purpose, "emulated", "") };
  });
  const epochs = Array.from({ length: (await epochOf(stateDir)) + 2 }, (_, epoch) => {
    const { key, macKey } = epochKeys(k0, epoch);
    return [
      { name: `K(${epoch})`, bytes: key },
      { name: `mac key of epoch ${epoch}`, bytes: macKey },
    ];
  });
  const pem = await readFile(join(stateDir, "audit-log.key"));
  // PKCS#8 of Ed25519 is 16 fixed bytes and the 32 of the seed (RFC 8410 §7).
  const seed = createPrivateKey(pem).export({ format: "der", type: "pkcs8" }).subarray(-32);
  return [
    { name: "root key", bytes: root },
    ...derived,
    ...shared,
    ...epochs.flat(),
    { name: "log's seed", bytes: seed },
  ];
}

/** Base64 of `bytes` wherever they begin within what is encoded, without the digits that their neighbours have part in. */
function base64Forms(bytes: Uint8Array): string[] {
  return [0, 1, 2].map((before) => {
    const text = Buffer.concat([new Uint8Array(before), bytes])
      .toString("base64")
      .replace(/=+$/, "");
    const whole = Math.floor(((before + bytes.byteLength) * 8) / 6);
    return text.slice(Math.ceil((before * 8) / 6), whole);
  });
}

/** The texts by which bytes could be shown, by name; white space does not count. `at` is where they begin in a key. */
export function formsOf(bytes: Uint8Array, at = 0): ReadonlyMap<string, readonly string[]> {
  const buffer = Buffer.from(bytes);
  const base64 = base64Forms(bytes);
  return new Map([
    ["raw", [buffer.toString("latin1")]],
    ["hex", [buffer.toString("hex"), buffer.toString("hex").toUpperCase()]],
    ["base64", [...base64, ...base64.map((text) => text.replaceAll("+", "-").replaceAll("/", "_"))]],
    ["decimal list", [[...bytes].join(",")]],
    ["indexed object", [[...bytes].map((byte, index) => `"${at + index}":${byte}`).join(",")]],
  ]);
}

/** Which secrets stand in a text, and in which form. */
export function findSecrets(text: string, secrets: readonly Secret[]): string[] {
  const squeezed = text.replace(/\s+/g, "");
  const texts = [text, squeezed, squeezed.replaceAll(":", "")];
  return secrets.flatMap(({ name, bytes }) => {
    const forms = [0, bytes.byteLength - HALF].flatMap((at) => [...formsOf(bytes.subarray(at, at + HALF), at)]);
    const found = forms.filter(([, all]) => all.some((form) => texts.some((one) => one.includes(form))));
    return [...new Set(found.map(([form]) => `${name}: ${form}`))];
  });
}

/** Which pointers stand in a text, in hex or decimal. */
export function findPointers(text: string, pointers: ReadonlySet<bigint>): string[] {
  const lower = text.toLowerCase();
  return [...pointers]
    .flatMap((pointer) => [pointer.toString(16), pointer.toString(10)])
    .filter((form) => lower.includes(form));
}

function bigintsIn(value: unknown): bigint[] {
  if (typeof value === "bigint") return [value];
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return [];
  return Object.values(value).flatMap(bigintsIn);
}

/** Smaller ones are sizes, flags and counts. */
const SMALLEST_POINTER = 0x1_0000_0000n;

/** Collects every pointer and handle that is handed to the driver or comes from it, from now on. */
export function watchBorder(driver: CudaDriver, seen: Set<bigint>): void {
  for (const noun of ["memory", "stream", "event", "module", "context"] as const) {
    const calls = driver[noun] as unknown as Record<string, (...args: unknown[]) => unknown>;
    for (const [verb, call] of Object.entries(calls)) {
      calls[verb] = (...args: unknown[]) => {
        const result = call(...args);
        for (const value of bigintsIn([args, result])) if (value >= SMALLEST_POINTER) seen.add(value);
        return result;
      };
    }
  }
}

/** Every form in which a value could be printed or sent, an error with all of its causes. */
export function everyForm(value: unknown): string {
  const jsonable = (_key: string, part: unknown): unknown => (typeof part === "bigint" ? part.toString() : part);
  const forms = [inspect(value, { depth: 12, showHidden: true, getters: true, maxArrayLength: null }), String(value)];
  forms.push(JSON.stringify(value, jsonable));
  for (let error = value; error instanceof Error; error = error.cause) {
    forms.push(error.message, error.stack ?? "", JSON.stringify(Object.entries(error), jsonable));
  }
  return forms.join("\n");
}

/** Everything in the files of a folder, as bytes and as text. */
export async function textOfFolder(folder: string): Promise<string> {
  const texts: string[] = [];
  for (const name of await readdir(folder, { recursive: true })) {
    const path = join(folder, name);
    if (!(await stat(path)).isFile()) continue;
    const bytes = await readFile(path);
    texts.push(name, bytes.toString("latin1"), bytes.toString("utf8"));
  }
  return texts.join("\n");
}
