/** The commands of `vram proof`: what they are called, what they take, and which file has them. */
import type { Command } from "commander";
import type { Add } from "./command.ts";
import type { ProofVerifyOptions } from "./commands/proof-verify.ts";

/** Declares the group and its commands. */
export function addProofCommands(program: Command, add: Add): void {
  const group = program
    .command("proof")
    .description("Proof bundles: what ran, as `npm run proof` of this project wrote it down.")
    .addHelpText("before", "Examples:\n  $ vram proof verify docs/proof/RUN\n")
    .helpCommand(false);

  add<ProofVerifyOptions>(
    "verify",
    "Verify a proof bundle: its files, its signature, and that the signed result is what its lists say.",
    ["vram proof verify .proof_bundle/RUN", "vram proof verify docs/proof/RUN --pub signer.pub.pem"],
    async (...args) => (await import("./commands/proof-verify.ts")).runProofVerify(...args),
    { group },
  )
    .argument("<dir>", "folder of one run, the one with SHA256SUMS in it")
    .option("--pub <file>", "public key of the signer, SPKI in PEM, which came another way than the bundle");
}
