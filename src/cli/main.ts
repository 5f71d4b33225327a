/** The command line: parse, run one command, turn what is thrown into words and an exit code. */
import { Command, CommanderError, Option } from "commander";
import { toVramError, VramError } from "../errors.ts";
import { inOperation } from "../journal/scope.ts";
import { VERSION } from "../version.ts";
import { addAttestCommands } from "./attest-commands.ts";
import { addAuditCommands } from "./audit-commands.ts";
import { addClientCommands } from "./client-commands.ts";
import type { Add, CommonOptions, Run } from "./command.ts";
import { addCompletionCommand } from "./completion.ts";
import { EXIT, exitCodeFor } from "./exit.ts";
import { type Host, printError } from "./host.ts";
import { printJson } from "./json.ts";
import { addNarrationOptions } from "./narration.ts";
import { addProofCommands } from "./proof-commands.ts";
import { addConfigCommands, addServeCommand, addTokenCommands } from "./service-commands.ts";

const backendOption = (): Option =>
  new Option("--backend <backend>", "which device answers").choices(["auto", "cuda", "emulated"]);
const stateOption = (): Option => new Option("--state-dir <dir>", "keep keys, worker states and the audit log there");

/** How commands of `program` are declared; the exit code of the one that runs goes to `done`. */
function createAdd(program: Command, host: Host, done: (code: number) => void): Add {
  return (name, description, examples, run: Run<never>, { group, isDefault, jsonLines } = {}) =>
    (group ?? program)
      .command(name, { isDefault: isDefault === true })
      .description(description)
      .option("--json", jsonLines ?? "print one JSON document")
      .addHelpText("before", `Examples:\n${examples.map((example) => `  $ ${example}\n`).join("")}`)
      .action(async (...args: unknown[]) => {
        // commander passes the declared arguments, then the options, then the command.
        const words = args.slice(0, -2).flatMap((word) => word ?? []);
        const options = args.at(-2) as CommonOptions;
        try {
          done(await inOperation(() => run(host, words as string[], options as never)));
        } catch (thrown) {
          const document = [group?.name(), name].filter((word) => word !== undefined).join("-");
          if (options.json === true && jsonLines === undefined) {
            printJson(host, document, { ok: false, error: toVramError(thrown) });
          } else {
            printError(host, thrown);
          }
          done(exitCodeFor(thrown));
        }
      });
}

function commands(host: Host, done: (code: number) => void): Command {
  const program = new Command("vram")
    .description("Load model weights into GPU memory, seal them, verify them where they lie.")
    .version(VERSION, "-V, --version")
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ writeOut: (text) => host.out(text), writeErr: (text) => host.err(text) });

  const add = createAdd(program, host, done);
  add(
    "digest",
    "Digest files with fs-verity (SHA-256, 4096-byte blocks), as `fsverity digest` does.",
    ["vram digest model.safetensors", "vram digest *.gguf > SUMS", "vram digest --check SUMS"],
    async (...args) => (await import("./commands/digest.ts")).runDigest(...args),
  )
    .argument("[files...]", "files, directories or *.safetensors.index.json")
    .option("--also-sha256", "add a line with the plain SHA-256 of each file")
    .option("--salt <hex>", "salt of 1 to 32 bytes, as fsverity digest --salt takes it")
    .option("--check <sums>", "check the digests listed in this file");

  const tried = add(
    "try",
    "The whole journey in one process: seal, verify, tamper, catch, evict.",
    ["vram try model.safetensors", "vram try --tamper model.gguf", "vram try --expect fsverity:HEX model.safetensors"],
    async (...args) => (await import("./commands/try.ts")).runTry(...args),
  )
    .argument("<files...>", "files, directories or *.safetensors.index.json")
    .option("--tamper", "flip one bit in VRAM and show that the next verification catches it")
    .option("--expect <digest>", "what the file must be: fsverity:HEX, sha256:HEX or 64 hex digits (fsverity)")
    .option("--name <name>", "what to call the shard; default the file's name")
    .addOption(
      new Option("--format <format>", "how to read the header; raw looks for none").choices([
        "auto",
        "safetensors",
        "gguf",
        "raw",
      ]),
    )
    .addOption(stateOption())
    .option("--metrics <file>", "write the figures of this run there, in the Prometheus text format")
    .addOption(backendOption());
  addNarrationOptions(tried);

  add(
    "doctor",
    "Say what this machine has, what is missing, and how to mend it.",
    ["vram doctor", "vram doctor --json"],
    async (...args) => (await import("./commands/doctor.ts")).runDoctor(...args),
  )
    .addOption(stateOption())
    .addOption(backendOption());

  addServeCommand(add);
  addClientCommands(add);
  addAttestCommands(program, add);
  addAuditCommands(program, add);
  addProofCommands(program, add);
  addConfigCommands(program, add);
  addTokenCommands(program, add);
  addCompletionCommand(program, add);
  return program;
}

/** Runs one command line (without `node` and the script). Resolves to the exit code; never throws. */
export async function main(argv: readonly string[], host: Host): Promise<number> {
  let code: number = EXIT.ok;
  try {
    const program = commands(host, (result) => {
      code = result;
    });
    if (argv.length === 0) {
      program.outputHelp();
      return EXIT.usage;
    }
    await program.parseAsync(argv, { from: "user" });
    return code;
  } catch (thrown) {
    if (thrown instanceof CommanderError) return thrown.exitCode === 0 ? EXIT.ok : EXIT.usage;
    printError(host, thrown instanceof VramError ? thrown : toVramError(thrown));
    return exitCodeFor(thrown);
  }
}
