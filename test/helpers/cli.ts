/** Runs the command line in this process: coverage follows it, and a test may play the terminal. */
import type { Host } from "../../src/cli/host.ts";
import { main } from "../../src/cli/main.ts";

export interface CliResult {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export interface CliSetting {
  readonly env?: Record<string, string>;
  readonly terminal?: boolean;
  readonly columns?: number;
  readonly signal?: AbortSignal;
  /** The second signal. */
  readonly urgent?: AbortSignal;
  readonly service?: Host["service"];
  /** Told of all data so far, whenever there is more. */
  readonly onOut?: (text: string) => void;
  /** What stands for `/etc/vram-residency/config.toml`; default a file that does not exist. */
  readonly systemConfig?: string;
}

/** `vram` with these arguments; no hashing threads, 128 MiB of emulated VRAM. */
export async function vram(argv: readonly string[], setting: CliSetting = {}): Promise<CliResult> {
  const texts = { out: "", err: "" };
  const host: Host = {
    out: (text) => {
      texts.out += text;
      setting.onOut?.(texts.out);
    },
    err: (text) => {
      texts.err += text;
    },
    env: {
      VRAM_HASH_THREADS: "0",
      VRAM_EMULATED_BYTES: String(128 * 1024 * 1024),
      VRAM_BACKEND: "emulated",
      ...setting.env,
    },
    outIsTerminal: setting.terminal ?? false,
    errIsTerminal: setting.terminal ?? false,
    columns: setting.columns ?? 80,
    signal: setting.signal ?? new AbortController().signal,
    systemConfig: setting.systemConfig ?? "/nonexistent/config.toml",
    ...(setting.urgent === undefined ? {} : { urgent: setting.urgent }),
    ...(setting.service === undefined ? {} : { service: setting.service }),
  };
  const code = await main(argv, host);
  return { code, ...texts };
}

/** JSON with everything that differs from run to run replaced by its kind: what golden files hold. */
export function normalised(json: string): unknown {
  const kinds: [RegExp, string][] = [
    [/^EMU-[0-9a-f-]{36}$/, "EMU-…"],
    [/^shard-[a-z2-7]{26}$/, "shard-…"],
    [/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, "a time"],
    [/^\/.*\/([^/]+)$/, "…/$1"],
  ];
  const varying = new Set(["durationMs", "bytesPerSecond", "sealedAtMs", "ageMs"]);
  return JSON.parse(json, (key: string, value: unknown): unknown => {
    if (varying.has(key)) return typeof value;
    if (key === "keyId" || key === "instanceId" || key === "mac") return "hex";
    if (typeof value !== "string") return value;
    return kinds.reduce((text, [pattern, kind]) => text.replace(pattern, kind), value);
  });
}
