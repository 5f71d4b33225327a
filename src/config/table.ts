/**
 * Every key of the configuration, once: what it may be, what it is unless somebody says otherwise, whether it is policy,
 * and what it means. Documentation, `vram config show`, errors, variables and flags all follow from this table.
 */
import { LIMITS } from "../limits.ts";
import { LEVELS } from "../narrate/line.ts";
import * as kinds from "./kinds.ts";
import { defaultSocket, defaultStateDir, type Place } from "./places.ts";
import * as tighter from "./tightening.ts";

/** A key as the table has it. `T` is what may be set, `D` what it is when nobody sets it. */
export interface KeyRow<T, D = T> {
  readonly kind: kinds.Kind<T>;
  readonly means: string;
  readonly fallback: (place: Place) => D;
  /** The default in words, where it is no fixed value. */
  readonly fallbackWords?: string;
  /** Present if the key is policy: once `/etc` sets it, others may only tighten it. */
  readonly policy?: tighter.Tightening<T>;
  /** Whether it has a flag of its own; every key can be set with `--set`. */
  readonly flag?: true;
}

interface More<T> {
  readonly policy?: tighter.Tightening<T>;
  readonly flag?: true;
}

/** A key with a fixed default. */
const key = <T>(kind: kinds.Kind<T>, fallback: NoInfer<T>, means: string, more: More<NoInfer<T>> = {}): KeyRow<T> => ({
  kind,
  means,
  fallback: () => fallback,
  ...more,
});

/** A key whose default depends on the place, or is no value of its kind. */
const open = <T, D extends T | undefined>(
  kind: kinds.Kind<T>,
  [fallbackWords, fallback]: readonly [words: string, fallback: (place: Place) => D],
  means: string,
  more: More<NoInfer<T>> = {},
): KeyRow<T, D> => ({ kind, means, fallback, fallbackWords, ...more });

const nothing = (): undefined => undefined;

const SECOND_MS = 1000;
const HOUR_MS = 3600 * SECOND_MS;
const YEAR_MS = 366 * 24 * HOUR_MS;
const KIB = 1024;
const MIB = 1024 * KIB;
const SIZE_MAX = 2 ** 50;

const age = kinds.duration(0, YEAR_MS);

export const KEYS = {
  backend: key(kinds.choice(["auto", "cuda", "emulated"]), "auto", "which device answers", {
    policy: tighter.sameUnless("auto", '"auto"'),
    flag: true,
  }),
  requireGpu: key(kinds.boolean, false, "refuse anything but a GPU through the loader's own driver library", {
    policy: tighter.only(true),
    flag: true,
  }),
  devices: key(kinds.devices, "all", "devices the service uses", { policy: tighter.fewerDevices }),
  allowMps: key(kinds.boolean, false, "also accept a GPU that is shared through MPS", { policy: tighter.only(false) }),
  libcuda: open(kinds.library, ["the loader's own", nothing], "another driver library: backend `cuda-substituted`"),
  libnvml: open(kinds.library, ["the loader's own", nothing], "another NVML library"),
  "emulated.devices": key(kinds.integer(1, LIMITS.emulatedDevices), 1, "emulated devices"),
  "emulated.bytes": key(
    kinds.size(32 * LIMITS.granuleBytes, SIZE_MAX),
    LIMITS.emulatedBytes,
    "capacity of each emulated device",
  ),

  modelRoots: open(
    kinds.paths,
    ["`/` for the service's user and root on the socket, none for others", nothing],
    "folders that files must lie under",
    { policy: tighter.pathsUnder },
  ),
  maxModelBytes: key(kinds.size(1, SIZE_MAX), LIMITS.maxModelBytes, "the largest file that is sealed", {
    policy: tighter.lower,
  }),
  headroomBytes: open(
    kinds.size(0, SIZE_MAX),
    ["64 MiB, or 1/32 of a small device", nothing],
    "VRAM of each device that is never promised",
  ),
  hashThreads: open(kinds.integer(0, 256), ["one for each core", nothing], "hashing threads; 0 = the main thread"),
  onMismatch: key(kinds.choice(["quarantine", "stop"]), "stop", "what a mismatch stops: the shard, or the worker", {
    policy: tighter.ranked("quarantine", "stop"),
  }),
  "seal.maxAgeMs": key(age, 0, "seals say that older verifications are not relied on; 0 = none", {
    policy: tighter.shorterAge,
  }),
  "verify.maxAgeMs": key(age, 0, "verifying settles for a measurement no older than this; 0 = always measures", {
    policy: tighter.lower,
  }),

  stateDir: open(
    kinds.path,
    ["`$XDG_STATE_HOME/vram-residency`, else `~/.local/state/vram-residency`", ({ env }) => defaultStateDir(env)],
    "keys, tokens, wanted set, stopped workers, audit log",
    { flag: true },
  ),
  "audit.mode": key(
    kinds.choice(["off", "best-effort", "required"]),
    "required",
    "whether anything is sealed that is not on record; see [audit.md](audit.md)",
    { policy: tighter.ranked("off", "best-effort", "required") },
  ),
  "audit.retentionDays": key(kinds.integer(1, 36_500), LIMITS.auditRetentionDays, "days for which lines are kept", {
    policy: tighter.higher,
  }),
  "audit.maxBytes": key(
    kinds.size(LIMITS.auditSegmentBytes, SIZE_MAX),
    LIMITS.auditBytes,
    "size of the log at which nothing new is sealed",
  ),

  socket: open(
    kinds.socketPath,
    [
      "`$XDG_RUNTIME_DIR/vram-residency/vram.sock`, else `/run/…` for root or where that folder exists, else `$TMPDIR/vram-residency-UID/vram.sock`",
      defaultSocket,
    ],
    "socket of the service",
    { flag: true },
  ),
  allowedGroup: key(kinds.group, "", "group whose members get the scope `use` on the socket", {
    policy: tighter.sameOr<string | number>("", "none"),
  }),
  listen: key(kinds.address, "off", "TCP address of the service; loopback, unless TLS is configured", {
    policy: tighter.sameOr("off", '"off"'),
    flag: true,
  }),
  allowedHosts: key(kinds.hosts, [], "names that `Host` may have over TCP, besides the address itself", {
    policy: tighter.subset,
  }),
  "tls.certFile": open(kinds.path, ["none", nothing], "certificate chain of the service, PEM"),
  "tls.keyFile": open(kinds.path, ["none", nothing], "its private key, PEM; only this user may read it"),
  metricsListen: key(
    kinds.address,
    "off",
    "TCP address of metrics and health alone; loopback, unless TLS is configured",
    {
      policy: tighter.sameOr("off", '"off"'),
      flag: true,
    },
  ),

  "lease.defaultMs": key(
    kinds.duration(SECOND_MS, YEAR_MS),
    LIMITS.leaseDefaultMs,
    "deadline of a lease that names none",
  ),
  "lease.maxMs": key(kinds.duration(SECOND_MS, YEAR_MS), LIMITS.leaseMaxMs, "the longest deadline of a lease", {
    policy: tighter.lower,
  }),
  "lease.drainMs": key(
    kinds.duration(0, HOUR_MS),
    LIMITS.leaseDrainMs,
    "a stop waits so long before it revokes leases",
  ),

  "log.format": key(
    kinds.choice(["auto", "text", "json"]),
    "auto",
    "form of the narration; `auto`: text on a terminal",
  ),
  "log.level": key(kinds.choice(LEVELS), "info", "the least level that is told"),

  "limits.connections": key(kinds.integer(1, 65_536), LIMITS.serviceConnections, "open connections", {
    policy: tighter.lower,
  }),
  "limits.requests": key(kinds.integer(1, 4096), LIMITS.serviceRequests, "requests at work", { policy: tighter.lower }),
  "limits.waiting": key(kinds.integer(0, 65_536), LIMITS.serviceWaiting, "requests that wait for their turn", {
    policy: tighter.lower,
  }),
  "limits.bodyBytes": key(kinds.size(KIB, MIB), LIMITS.serviceBodyBytes, "body of a request", {
    policy: tighter.lower,
  }),
  "limits.headerBytes": key(kinds.size(KIB, MIB), LIMITS.serviceHeaderBytes, "headers of a request, together", {
    policy: tighter.lower,
  }),
  "limits.requestMs": key(kinds.duration(SECOND_MS, HOUR_MS), LIMITS.serviceRequestMs, "time to receive a request", {
    policy: tighter.lower,
  }),
  "limits.idleMs": key(kinds.duration(SECOND_MS, HOUR_MS), LIMITS.serviceIdleMs, "time an idle connection is kept", {
    policy: tighter.lower,
  }),
  "limits.leases": key(kinds.integer(1, 1_000_000), LIMITS.serviceLeases, "leases held at once", {
    policy: tighter.lower,
  }),
  "limits.shards": key(kinds.integer(1, LIMITS.wantedShards), LIMITS.wantedShards, "shards resident at once", {
    policy: tighter.lower,
  }),
} as const;

export type ConfigKey = keyof typeof KEYS;

type ValueOf<Row> = Row extends KeyRow<infer T, infer D> ? T | D : never;

/** The value of every key. */
export type ConfigValues = { readonly [Key in ConfigKey]: ValueOf<(typeof KEYS)[Key]> };

export const CONFIG_KEYS = Object.keys(KEYS) as readonly ConfigKey[];

/** A row with its types forgotten: for what treats all keys alike. */
export const rowOf = (name: ConfigKey): KeyRow<unknown> => KEYS[name] as unknown as KeyRow<unknown>;

export const isConfigKey = (name: string): name is ConfigKey => Object.hasOwn(KEYS, name);

/** The variable of the environment that sets a key: `lease.maxMs` is `VRAM_LEASE_MAX_MS`. */
export const variableOf = (name: ConfigKey): string =>
  `VRAM_${name
    .replaceAll(/([a-z])([A-Z])/g, "$1_$2")
    .replaceAll(".", "_")
    .toUpperCase()}`;

/** The flag that sets a key, if it has one of its own: `--state-dir`. */
export const flagOf = (name: ConfigKey): string | undefined =>
  rowOf(name).flag === true ? `--${name.replaceAll(/([A-Z])/g, (letter) => `-${letter.toLowerCase()}`)}` : undefined;
