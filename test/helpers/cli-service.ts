/** The command line against a stub of a service, at a time that does not pass. */
import type { Host } from "../../src/cli/host.ts";
import { main } from "../../src/cli/main.ts";
import { type CliResult, type CliSetting, vram } from "./cli.ts";
import { openStub, type Stub, type StubRoutes } from "./stub-service.ts";

/** `vram` with these arguments, and a service with these routes. */
export async function vramAt(
  routes: StubRoutes,
  argv: readonly string[],
  setting: CliSetting = {},
): Promise<CliResult & { readonly stub: Stub }> {
  const stub = await openStub(routes);
  const result = await vram(argv, { ...setting, env: { VRAM_SOCKET: stub.socket, ...setting.env } });
  return { ...result, stub };
}

/** A command that runs, and may be sent signals. */
export interface Running {
  readonly result: Promise<CliResult>;
  signal(name: NodeJS.Signals): void;
  /** How many listen for signals. */
  listeners(): number;
}

/** `vram` with these arguments as a process of its own would run it: it hears of signals. */
export function start(argv: readonly string[], env: Readonly<Record<string, string>>): Running {
  const texts = { out: "", err: "" };
  const listeners = new Set<(signal: NodeJS.Signals) => void>();
  const host: Host = {
    out: (text) => {
      texts.out += text;
    },
    err: (text) => {
      texts.err += text;
    },
    ...{ env, outIsTerminal: false, errIsTerminal: false, columns: 80 },
    signal: new AbortController().signal,
    onSignal: (listener) => {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  };
  return {
    result: main(argv, host).then((code) => ({ code, ...texts })),
    signal: (name) => {
      for (const listener of listeners) listener(name);
    },
    listeners: () => listeners.size,
  };
}
