/**
 * Epoch keys of the audit log (design §5): why yesterday's lines cannot be forged with today's key. K(0) is 32 random
 * bytes; `macKey = HKDF-SHA256(K(e), "audit/mac/v1")` makes the macs of an epoch, `K(e+1) = HKDF-SHA256(K(e),
 * "audit/evolve/v1")` follows, and K(e) is overwritten. Who takes the machine over finds K(now), from which no earlier
 * key can be computed. K(0) macs nothing: the first start leaves it at once. Written down elsewhere (escrow), it lets
 * its holder check every mac of the log's life, and forge them; nobody else can check the macs of closed epochs.
 *
 * K lives in a buffer, not in a `KeyObject`, which cannot be overwritten. The `KeyObject` of a mac key is overwritten by
 * Node.js when it is collected, at a time nobody can name; at most one epoch is in the memory of a process that long.
 */
import { createHmac, createSecretKey, type KeyObject, randomFillSync } from "node:crypto";
import { assert, requireInteger } from "../assert.ts";
import { secretBytes } from "../bytes.ts";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";

/** Bytes of K and of a mac key. */
export const EPOCH_KEY_BYTES = 32;

/** K of one epoch. `key` is 32 bytes, and zeros once it was given up. */
export interface EpochKey {
  /** 0 is the key that the log began with. */
  readonly epoch: number;
  /** A secret: who has it can forge macs of this epoch and all later ones. */
  readonly key: Uint8Array;
}

/**
 * HKDF-SHA256 of K with an empty salt, one block of it (RFC 5869 §2). Not `hkdfSync`: it makes a `KeyObject` of K, and
 * of a key that was given up nothing may stay.
 */
function derive(key: Uint8Array, info: string): Uint8Array {
  const extracted = createHmac("sha256", new Uint8Array(EPOCH_KEY_BYTES)).update(key).digest();
  try {
    const expanded = createHmac("sha256", extracted).update(info).update(Uint8Array.of(1)).digest();
    return new Uint8Array(expanded.buffer, expanded.byteOffset, expanded.byteLength);
  } finally {
    extracted.fill(0);
  }
}

/** K(0). */
export function createEpochKey(): EpochKey {
  return { epoch: 0, key: randomFillSync(secretBytes(EPOCH_KEY_BYTES)) };
}

/** `epoch` and a copy of `key` as an epoch key; `INVALID_ARGUMENT` for anything but 32 bytes. */
export function epochKeyFrom(epoch: number, key: Uint8Array): EpochKey {
  requireInteger(epoch, "epoch", 0, Number.MAX_SAFE_INTEGER);
  if (key.byteLength !== EPOCH_KEY_BYTES) {
    throw new VramError("INVALID_ARGUMENT", `an epoch key must be ${EPOCH_KEY_BYTES} bytes`, {
      details: { argument: "key" },
    });
  }
  const copy = secretBytes(EPOCH_KEY_BYTES);
  copy.set(key);
  return { epoch, key: copy };
}

/** Overwrites K with zeros. It must not be used after. */
export function wipeEpochKey({ key }: EpochKey): void {
  key.fill(0);
}

function requireLive({ key }: EpochKey): void {
  assert(
    key.some((byte) => byte !== 0),
    "an epoch key is not used after it was wiped",
  );
}

/** The HMAC key of the epoch. */
export function macKeyOf(epochKey: EpochKey): KeyObject {
  requireLive(epochKey);
  const bytes = derive(epochKey.key, "audit/mac/v1");
  try {
    return createSecretKey(bytes);
  } finally {
    bytes.fill(0);
  }
}

/** K of the next epoch. `current` stays as it is: the caller wipes it once the next one is kept. */
export function nextEpochKey(current: EpochKey): EpochKey {
  requireLive(current);
  return { epoch: current.epoch + 1, key: derive(current.key, "audit/evolve/v1") };
}

/** What the rule for advancing looks at. */
export interface EpochAge {
  /** Whether this start has advanced yet. */
  readonly isFirstOfStart: boolean;
  /** Whether the next line begins a segment. */
  readonly beginsSegment: boolean;
  /** Milliseconds since the epoch began, by a monotonic clock. */
  readonly ageMs: number;
  /** Lines of the epoch so far. */
  readonly entries: number;
}

/** What `epoch_started` says of its epoch. */
export type EpochCause = "start" | "segment" | "time" | "entries";

/** Why the next line must begin a new epoch; undefined if it need not. */
export function whyAdvance(age: EpochAge): EpochCause | undefined {
  if (age.isFirstOfStart) return "start";
  if (age.beginsSegment) return "segment";
  if (age.ageMs >= LIMITS.auditEpochMs) return "time";
  return age.entries >= LIMITS.auditEpochEntries ? "entries" : undefined;
}

/** The mac keys of one known epoch and all after it. */
export interface MacKeys {
  /**
   * The mac key of `epoch`; undefined if it lies before the one that was last confirmed, or so far behind it that more
   * than `auditEpochsDerived` would have to be derived, all calls together.
   */
  of(epoch: number): KeyObject | undefined;
  /** The last answer was the right key: those before it are given up. */
  confirm(): void;
  /** Overwrites what is left of the keys. */
  close(): void;
}

interface Derived extends EpochKey {
  macKey?: KeyObject;
}

/**
 * Recomputes mac keys from K of `known` on, which is copied. A log is read forwards: only the key last confirmed and the
 * one last asked for are held, so that a line with a wrong epoch does not cost the keys of the lines behind it.
 */
export function macKeysFrom(known: EpochKey): MacKeys {
  let confirmed: Derived = epochKeyFrom(known.epoch, known.key);
  let ahead: Derived = confirmed;

  const leaveAhead = (): void => {
    if (ahead !== confirmed) wipeEpochKey(ahead);
    ahead = confirmed;
  };
  /** A forged line may name any epoch, so there is an end to it. */
  let budget: number = LIMITS.auditEpochsDerived;
  const goTo = (epoch: number): boolean => {
    const steps = epoch - (epoch < ahead.epoch ? confirmed.epoch : ahead.epoch);
    if (epoch < confirmed.epoch || steps > budget) return false;
    if (epoch < ahead.epoch) leaveAhead();
    budget -= steps;
    while (ahead.epoch < epoch) {
      const next = nextEpochKey(ahead);
      leaveAhead();
      ahead = next;
    }
    return true;
  };

  return {
    of: (epoch) => {
      if (!goTo(epoch)) return undefined;
      ahead.macKey ??= macKeyOf(ahead);
      return ahead.macKey;
    },
    confirm: () => {
      if (ahead !== confirmed) wipeEpochKey(confirmed);
      confirmed = ahead;
    },
    close: () => {
      leaveAhead();
      wipeEpochKey(confirmed);
    },
  };
}
