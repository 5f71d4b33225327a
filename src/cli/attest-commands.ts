/** The commands of `vram attest`: what they are called, what they take, and which file has them. */
import { type Command, InvalidArgumentError, Option } from "commander";
import type { Add } from "./command.ts";
import type { AttestOptions } from "./commands/attest.ts";
import type { AttestCheckOptions } from "./commands/attest-check.ts";
import type { AttestKeysOptions } from "./commands/attest-keys.ts";
import { addServiceOptions } from "./service-options.ts";

const BACKENDS = ["emulated", "cuda-substituted"];

/** One more backend that will do. */
function addBackend(value: string, before: readonly string[] = []): readonly string[] {
  if (BACKENDS.includes(value)) return [...before, value];
  throw new InvalidArgumentError(`Allowed choices are ${BACKENDS.join(", ")}.`);
}

function addCheck(group: Command, add: Add): void {
  add<AttestCheckOptions>(
    "check",
    "Check a statement offline: with a public key, and the digest or the file that the weights should be.",
    [
      "vram attest check statement.json --pub statement.pub.pem --model model.safetensors --nonce HEX",
      "vram attest check statement.json --pub statement.pub.pem --digest fsverity:HEX --max-age 5min",
      "vram attest check statement.json --pub statement.pub.pem --digest HEX --log-key log.vkey --device GPU-…",
    ],
    async (...args) => (await import("./commands/attest-check.ts")).runAttestCheck(...args),
    { group },
  )
    .argument("<file>", "the statement, as `vram attest` wrote it")
    .requiredOption("--pub <file>", "public key of the signer, SPKI in PEM: statement.pub.pem")
    .option("--digest <digest>", "what the weights should be: fsverity:HEX, sha256:HEX or 64 hex digits (fsverity)")
    .option("--model <file>", "the file that they should be; with --nonce the answer is computed anew")
    .option("--part <index/total>", "the part of the file that it should be about, as 1/4; default all of it")
    .option("--device <uuid>", "the GPU that it should be about")
    .option("--nonce <hex>", "the nonce that you asked with: 16 to 32 bytes")
    .option("--max-age <duration>", "no older than this, in ms or as 5min, by both clocks")
    .option("--log-key <key>", "public key of the audit log, NAME+HASH+KEY or a file with it: log.vkey")
    .option("--evidence <file>", "what the GPU said of itself, as `vram attest` wrote it")
    .addOption(
      new Option("--accept-backend <name>", "accept a statement about another backend than cuda, too; repeatable")
        .choices(BACKENDS)
        .argParser(addBackend),
    );
}

/** Declares the group and its commands. */
export function addAttestCommands(program: Command, add: Add): void {
  const group = program
    .command("attest")
    .description("Statements about what is resident, for people who check them with a public key.")
    .addHelpText(
      "before",
      "Examples:\n  $ vram attest model.safetensors --nonce HEX --out statement.json\n" +
        "  $ vram attest check statement.json --pub statement.pub.pem --model model.safetensors\n",
    )
    .helpCommand(false);

  addServiceOptions(
    add<AttestOptions>(
      "issue",
      "Have the service measure a shard with a nonce and sign what it found; `vram attest NAME` is the same.",
      [
        "vram attest model.safetensors --nonce $(openssl rand -hex 32) --out statement.json",
        "vram attest issue model.safetensors > statement.json",
      ],
      async (...args) => (await import("./commands/attest.ts")).runAttest(...args),
      { group, isDefault: true },
    )
      .argument("<name>", "name or id")
      .option("--nonce <hex>", "what nobody could know before: 16 to 32 bytes, chosen by whoever will check")
      .option("--out <file>", "write it to this new file; default standard output"),
  );
  addCheck(group, add);
  addServiceOptions(
    add<AttestKeysOptions>(
      "keys",
      "Show the public keys that statements are checked with, write them to files, or have a new one made.",
      ["vram attest keys --out ./keys", 'vram attest keys --rotate "yearly"'],
      async (...args) => (await import("./commands/attest-keys.ts")).runAttestKeys(...args),
      { group },
    )
      .option("--out <dir>", "write statement.pub.pem (for --pub, and openssl) and log.vkey (for --log-key) there")
      .option("--rotate <reason>", "sign with a new key from now on; the reason is put on record"),
  );
}
