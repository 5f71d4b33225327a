/**
 * What "tighter" means, for each key that is policy. Whoever may write `/etc/vram-residency/config.toml` sets the policy
 * of the machine; a user's file, variables and flags may add to it and never take away from it.
 *
 * Every relation here is reflexive and transitive, so that a value which is allowed after several others is at least as
 * tight as the first (a property test checks both).
 */
import { sep } from "node:path";

/** How a value may differ from the one that is fixed. */
export interface Tightening<T> {
  /** What later layers may do: `may only …`. */
  readonly rule: string;
  /** Whether `later` allows nothing that `fixed` does not. */
  readonly allows: (fixed: T, later: T) => boolean;
}

/** Once true it stays true, or the other way round. */
export const only = (value: boolean): Tightening<boolean> => ({
  rule: `become ${value}`,
  allows: (fixed, later) => later === fixed || later === value,
});

export const lower: Tightening<number> = { rule: "become lower", allows: (fixed, later) => later <= fixed };
export const higher: Tightening<number> = { rule: "become higher", allows: (fixed, later) => later >= fixed };

/** An age where 0 stands for none: the loosest. */
export const shorterAge: Tightening<number> = {
  rule: "become shorter, where 0 is the longest",
  allows: (fixed, later) => fixed === 0 || (later !== 0 && later <= fixed),
};

/** Words in an order, the tightest last. */
export const ranked = <T extends string>(...words: readonly T[]): Tightening<T> => ({
  rule: `go from left to right: ${words.join(", ")}`,
  allows: (fixed, later) => words.indexOf(later) >= words.indexOf(fixed),
});

/** Stays as it is, unless it was left open by `open`. */
export const sameUnless = <T>(open: T, what: string): Tightening<T> => ({
  rule: `stay as it is, unless it is ${what}`,
  allows: (fixed, later) => fixed === open || later === fixed,
});

/** Stays as it is, or becomes `nothing`, which allows nothing. */
export const sameOr = <T>(nothing: T, what: string): Tightening<T> => ({
  rule: `become ${what}`,
  allows: (fixed, later) => later === nothing || later === fixed,
});

/** Whether one path is another or lies below it. Links have to be resolved before. */
export const liesUnder = (path: string, root: string): boolean =>
  path === root || path.startsWith(root.endsWith(sep) ? root : root + sep);

/** Each path lies under one of those that are fixed. */
export const pathsUnder: Tightening<readonly string[]> = {
  rule: "name folders that exist under those",
  allows: (fixed, later) => later.every((path) => fixed.some((root) => liesUnder(path, root))),
};

/** A part of a list. */
export const subset: Tightening<readonly string[]> = {
  rule: "leave some out",
  allows: (fixed, later) => later.every((item) => fixed.includes(item)),
};

type Devices = "all" | readonly (number | string)[];

/** Some of the devices, named as they were: an ordinal and a UUID cannot be compared without asking the driver. */
export const fewerDevices: Tightening<Devices> = {
  rule: "leave some out, named in the same way",
  allows: (fixed, later) => fixed === "all" || (later !== "all" && later.every((device) => fixed.includes(device))),
};
