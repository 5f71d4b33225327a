/** `vram token add`, `list` and `revoke`: the tokens of a state directory. Need no service, and work beside one. */
import { existsSync } from "node:fs";
import { printable } from "../../bytes.ts";
import { VramError } from "../../errors.ts";
import { openTokens, type Scope, type TokenInfo, type TokenStore } from "../../service/tokens.ts";
import { loadHostConfig } from "../config-options.ts";
import { EXIT } from "../exit.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";

export interface TokenOptions {
  readonly json?: true;
  readonly config?: string;
  readonly stateDir?: string;
}

export interface TokenAddOptions extends TokenOptions {
  readonly scope: Scope;
}

/** The state directory that the service with this configuration has. */
async function stateDirOf(host: Host, { config, stateDir }: TokenOptions): Promise<string> {
  const given = {
    ...(config === undefined ? {} : { config }),
    ...(stateDir === undefined ? {} : { stateDir }),
  };
  const { values } = await loadHostConfig(host, given);
  if (values.stateDir !== undefined) return values.stateDir;
  throw new VramError("INVALID_ARGUMENT", "neither XDG_STATE_HOME nor HOME says where the state is", {
    fix: "name it with --state-dir",
  });
}

/** The tokens of a state directory that has to be there already. */
async function existingTokens(host: Host, options: TokenOptions): Promise<{ stateDir: string; tokens: TokenStore }> {
  const stateDir = await stateDirOf(host, options);
  if (existsSync(stateDir)) return { stateDir, tokens: openTokens(stateDir) };
  throw new VramError("STATE_INVALID", `${stateDir}: there is no state directory`, {
    fix: "name another one with --state-dir; `vram token add` makes one",
  });
}

const shown = ({ createdAtMs, ...info }: TokenInfo): object => ({
  ...info,
  createdAt: new Date(createdAtMs).toISOString(),
});

/** Runs `vram token add`. The token is the only thing on standard output. */
export async function runTokenAdd(
  host: Host,
  [name = ""]: readonly string[],
  options: TokenAddOptions,
): Promise<number> {
  const stateDir = await stateDirOf(host, options);
  // Loaded here: the other commands of this file make nothing.
  const { requirePrivateDirectory } = await import("../../residency/state.ts");
  await requirePrivateDirectory(stateDir);
  const { token, ...info } = await openTokens(stateDir).add(name, options.scope);
  if (options.json === true) {
    printJson(host, "token-add", { ok: true, stateDir, ...shown(info), token });
    return EXIT.ok;
  }
  host.out(`${token}\n`);
  host.err(`${info.name}: scope ${info.scope}, fingerprint ${info.fingerprint}. It is not shown again.\n`);
  return EXIT.ok;
}

/** Runs `vram token list`. */
export async function runTokenList(host: Host, _words: readonly string[], options: TokenOptions): Promise<number> {
  const { stateDir, tokens } = await existingTokens(host, options);
  const list = (await tokens.list()).toSorted((a, b) => (a.name < b.name ? -1 : 1));
  if (options.json === true) {
    printJson(host, "token-list", { ok: true, stateDir, tokens: list.map(shown) });
    return EXIT.ok;
  }
  if (list.length === 0) host.err(`${printable(stateDir)}: there are no tokens\n`);
  const width = Math.max(...list.map(({ name }) => name.length));
  for (const { name, scope, fingerprint, createdAtMs } of list) {
    const made = new Date(createdAtMs).toISOString();
    host.out(`${name.padEnd(width)}  ${scope.padEnd("operate".length)}  ${fingerprint}  ${made}\n`);
  }
  return EXIT.ok;
}

/** Runs `vram token revoke`. */
export async function runTokenRevoke(
  host: Host,
  [name = ""]: readonly string[],
  options: TokenOptions,
): Promise<number> {
  const { stateDir, tokens } = await existingTokens(host, options);
  const info = await tokens.revoke(name);
  if (options.json === true) printJson(host, "token-revoke", { ok: true, stateDir, ...shown(info) });
  else host.out(`${info.name}: revoked\n`);
  return EXIT.ok;
}
