/**
 * Making and judging seals. A seal is evidence only together with the registry that issued it: one of another device,
 * key or instance is at most an expectation. Whoever hands in a seal that does not hold learns only that it was
 * refused; why goes to the journal (VR-VER-04).
 */
import { createHmac } from "node:crypto";
import { constantTimeEqual, fromHex, toHex } from "../bytes.ts";
import { toVramError, VramError } from "../errors.ts";
import { encodeSeal, parseSeal, type Seal, type SealFields } from "./encoding.ts";
import type { WorkerKeys } from "./key.ts";

function macOf(keys: WorkerKeys, fields: SealFields): Uint8Array {
  return createHmac("sha256", keys.seal).update(encodeSeal(fields)).digest();
}

/** Seals `fields` with the worker's key. */
export function createSeal(keys: WorkerKeys, fields: Omit<SealFields, "keyId">): Seal {
  const complete: SealFields = { keyId: toHex(keys.keyId), ...fields };
  // What we make must be what we accept: a seal that could never be verified is not made.
  return parseSeal({ version: 1, ...complete, mac: toHex(macOf(keys, complete)) });
}

/** Why a seal does not hold; never told to whoever handed it in. */
export type RefusalReason = "malformed" | "key" | "mac" | "instance" | "record";

/** Whether `seal` carries the mac of `keys` over its fields, or why not. */
export function checkMac(keys: WorkerKeys, seal: Seal): "valid" | "key" | "mac" {
  const keyMatches = constantTimeEqual(fromHex(seal.keyId, keys.keyId.byteLength, "keyId"), keys.keyId);
  const macMatches = constantTimeEqual(fromHex(seal.mac, 32, "mac"), macOf(keys, seal));
  if (!keyMatches) return "key";
  return macMatches ? "valid" : "mac";
}

/** Judges a seal that was handed in against the registry's current one. */
export function checkPresented(keys: WorkerKeys, presented: unknown, current: Seal): "valid" | RefusalReason {
  let seal: Seal;
  try {
    seal = parseSeal(presented);
  } catch (thrown) {
    if (toVramError(thrown).code === "INVALID_ARGUMENT") return "malformed";
    throw thrown;
  }
  const mac = checkMac(keys, seal);
  if (mac !== "valid") return mac;
  if (seal.instanceId !== current.instanceId) return "instance";
  const same = constantTimeEqual(fromHex(seal.mac, 32, "mac"), fromHex(current.mac, 32, "mac"));
  return same ? "valid" : "record";
}

/** The one error for every refused seal. */
export function sealRefused(): VramError {
  return new VramError("SEAL_REFUSED", "the seal was refused");
}
