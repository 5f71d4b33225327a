/**
 * Who else holds memory of an emulated device: processes that map it or have a descriptor of it, as `/proc` shows them.
 * They hold what a process that is gone had allocated, or what this one freed while they were reading it. A driver gives
 * such memory to nobody, so the emulated device does not either. What this process has allocated is in its own account.
 *
 * Memory is told by its name, which is a claim: anybody may make a memfd of any name, and so take room on an emulated
 * device. Not seen is what another user has, what a process keeps from being looked at, and a descriptor on its way from
 * one process to another.
 */
import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename } from "node:path";
import { assert } from "../../assert.ts";
import type { Tenant } from "../monitor.ts";
import type { EmulatedDeviceSpec } from "./options.ts";

/** The kernel takes 249 bytes (memfd_create(2)). */
const NAME_LENGTH_MAX = 200;
const NAME = /^vram-residency:[^:]+:[0-9a-f]{16}:\d+:(\d+)$/;
/** What the kernel puts before and behind the name of a memfd. */
const PATH = /\/memfd:(.*) \(deleted\)$/;
const PROGRAM_CHARACTERS = 200;

/** Names of what this process has allocated. */
const allocated = new Set<string>();
/** UUIDs of devices of which this process freed memory that it had handed out. */
const outlived = new Set<string>();
/** Tells processes apart; the number of one is given again to another. */
let processTag: string | undefined;
let lastSerial = 0;

/** How the names of all memory of a device begin. */
const beginningOf = (uuid: string): string => `vram-residency:${uuid}:`;

/** Bytes of the memory of that name; 0 if it is none of ours. Whoever maps part of it holds all of it. */
const bytesNamed = (name: string): number => Number(NAME.exec(name)?.[1] ?? 0);

/** A name for memory of `byteLength` bytes on the device, which no other ever had. */
export function nameMemory(uuid: string, byteLength: number) {
  processTag ??= randomBytes(8).toString("hex");
  lastSerial += 1;
  const name = `${beginningOf(uuid)}${processTag}:${lastSerial}:${byteLength}`;
  assert(name.length <= NAME_LENGTH_MAX && bytesNamed(name) === byteLength, "the name of memory can be read again");
  return {
    name,
    /** It is in this process's account from now on, until the function returned is called. */
    noteAllocated: () => {
      allocated.add(name);
      return (isExported: boolean): void => {
        allocated.delete(name);
        if (isExported) outlived.add(uuid);
      };
    },
  };
}

/** Undefined if the process is gone, or not ours to look at. */
function attempt<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch {
    return undefined;
  }
}

/** What a process maps and has open, each as a text that ends with a path. */
function* pathsOf(pid: number): Generator<string> {
  yield* (attempt(() => readFileSync(`/proc/${pid}/maps`, "utf8")) ?? "").split("\n");
  for (const fd of attempt(() => readdirSync(`/proc/${pid}/fd`)) ?? []) {
    const path = attempt(() => readlinkSync(`/proc/${pid}/fd/${fd}`));
    if (path !== undefined) yield path;
  }
}

/** Names of the device's memory that a process holds. */
function namesHeldBy(pid: number, uuid: string): ReadonlySet<string> {
  const beginning = beginningOf(uuid);
  const names = new Set<string>();
  for (const path of pathsOf(pid)) {
    // Most are told by this alone.
    if (!path.includes(beginning)) continue;
    const name = PATH.exec(path)?.[1];
    if (name !== undefined) names.add(name);
  }
  return names;
}

/** Of its program, without the folder, as NVML's monitor has it. */
function programOf(pid: number): string {
  const path = attempt(() => readlinkSync(`/proc/${pid}/exe`)) ?? "";
  const name = basename(path)
    .replaceAll(/\p{Cc}/gu, " ")
    .trim();
  return name === "" ? "unknown" : name.slice(0, PROGRAM_CHARACTERS);
}

/**
 * The other processes that hold memory of the device which this process has not allocated. Memory that several hold counts
 * once, for the one with the lowest number; who holds nothing else is not listed.
 */
export function findHolders(uuid: string): readonly Tenant[] {
  const pids = (attempt(() => readdirSync("/proc")) ?? []).filter((entry) => /^\d+$/.test(entry)).map(Number);
  const counted = new Set<string>();
  const holders: Tenant[] = [];
  for (const pid of pids.sort((a, b) => a - b)) {
    if (pid === process.pid) continue;
    const names = [...namesHeldBy(pid, uuid)].filter((name) => !allocated.has(name) && !counted.has(name));
    for (const name of names) counted.add(name);
    const byteLength = names.reduce((sum, name) => sum + bytesNamed(name), 0);
    if (byteLength > 0) holders.push({ pid, name: programOf(pid), byteLength });
  }
  return holders;
}

/** Devices that were looked at, and whether anything was found then. */
const looked = new WeakMap<EmulatedDeviceSpec, boolean>();

/**
 * Who else has memory on the device: those that its specification names, and those who hold what can be shared. Looking
 * for them takes time, so it is done at first, ever after if that found any, and once memory was freed that had been
 * handed out: before that, what others hold is in this process's account. (Measured, Linux 6.18: 8 ms for 81 processes.)
 */
export function othersOn(spec: EmulatedDeviceSpec): readonly Tenant[] {
  const { uuid, tenants = [], shareable } = spec;
  if (shareable === undefined || (looked.get(spec) === false && !outlived.has(uuid))) return tenants;
  const holders = findHolders(uuid);
  looked.set(spec, looked.get(spec) === true || holders.length > 0);
  return [...tenants, ...holders];
}
