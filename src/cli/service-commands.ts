/** The service itself, and the commands around it that need none: its configuration and its tokens. */
import { type Command, Option } from "commander";
import type { Add } from "./command.ts";
import type { ConfigShowOptions } from "./commands/config-show.ts";
import type { ServeOptions } from "./commands/serve.ts";
import type { TokenAddOptions } from "./commands/token.ts";
import { addConfigOptions, configFileOption } from "./config-options.ts";
import { addNarrationOptions } from "./narration.ts";

/** Declares `vram serve`. */
export function addServeCommand(add: Add): void {
  const serve = add<ServeOptions>(
    "serve",
    "Keep models sealed in VRAM, and answer for them: the service that the other commands talk to.",
    ["vram serve", "vram serve --set lease.maxMs=10min --state-dir ./state", "vram serve --listen 127.0.0.1:7790"],
    async (...args) => (await import("./commands/serve.ts")).runServe(...args),
    { jsonLines: "print one line of JSON when it can be reached" },
  );
  addConfigOptions(serve);
  addNarrationOptions(serve);
}

/** Declares `vram config` and its command. */
export function addConfigCommands(program: Command, add: Add): void {
  const group = program
    .command("config")
    .description("Show the configuration of the service.")
    .addHelpText("before", "Examples:\n  $ vram config show\n")
    .helpCommand(false);
  const shown = add<ConfigShowOptions>(
    "show",
    "Show every key with its value, where it comes from, and what /etc fixed. Takes what the service takes.",
    ["vram config show", "vram config show --json", 'vram config show --set lease.maxMs="15 min"'],
    async (...args) => (await import("./commands/config-show.ts")).runConfigShow(...args),
    { group },
  );
  addConfigOptions(shown);
}

const stateOption = (): Option => new Option("--state-dir <dir>", "state directory; default that of the configuration");

/** Declares `vram token` and its commands. */
export function addTokenCommands(program: Command, add: Add): void {
  const group = program
    .command("token")
    .description("Tokens for the API of the service over TCP.")
    .addHelpText("before", "Examples:\n  $ vram token add engine-1 --scope use\n  $ vram token list\n")
    .helpCommand(false);
  add<TokenAddOptions>(
    "add",
    "Make a token and print it, once. Only its SHA-256 is kept.",
    ["vram token add engine-1 --scope use", "vram token add deploy --scope operate"],
    async (...args) => (await import("./commands/token.ts")).runTokenAdd(...args),
    { group },
  )
    .argument("<name>", "what to call it: 1 to 64 letters, digits and . _ -")
    .addOption(
      new Option("--scope <scope>", "use: lease, verify, read, attest; operate: also seal, evict, resume, audit")
        .choices(["use", "operate"])
        .makeOptionMandatory(),
    )
    .addOption(configFileOption())
    .addOption(stateOption());

  add(
    "list",
    "List names, scopes and fingerprints. No token can be shown again.",
    ["vram token list", "vram token list --json"],
    async (...args) => (await import("./commands/token.ts")).runTokenList(...args),
    { group },
  )
    .addOption(configFileOption())
    .addOption(stateOption());

  add(
    "revoke",
    "Revoke a token. A running service refuses it from the next request on.",
    ["vram token revoke engine-1"],
    async (...args) => (await import("./commands/token.ts")).runTokenRevoke(...args),
    { group },
  )
    .argument("<name>", "what it is called")
    .addOption(configFileOption())
    .addOption(stateOption());
}
