/** The commands of `vram audit`: what they are called, what they take, and which file has them. */
import { type Command, Option } from "commander";
import type { Add } from "./command.ts";

const stateOption = (): Option =>
  new Option("--state-dir <dir>", "state directory; default $XDG_STATE_HOME or ~/.local/state, vram-residency in it");
const logOption = (): Option =>
  new Option("--log <dir>", "an audit folder copied from elsewhere, instead of a state directory").conflicts(
    "stateDir",
  );
const keyOption = (): Option =>
  new Option("--log-key <vkey>", "public key of the log, NAME+HASH+KEY; default the one in the log's own folder");

/** Declares the group and its commands. */
export function addAuditCommands(program: Command, add: Add): void {
  const group = program
    .command("audit")
    .description("Verify, read and prove the audit log of a state directory.")
    .addHelpText("before", "Examples:\n  $ vram audit verify\n  $ vram audit tail -f\n")
    .helpCommand(false);

  add(
    "verify",
    "Verify the whole log: chain, macs, tree, log checkpoints. Changes nothing; may run beside the writer.",
    [
      "vram audit verify",
      "vram audit verify --since remembered.checkpoint",
      "vram audit verify --log ./audit --log-key VKEY --epoch-key escrow.key",
    ],
    async (...args) => (await import("./commands/audit-verify.ts")).runAuditVerify(...args),
    { group },
  )
    .option("--from <seq>", "take closed segments before this entry by their kept hashes, unread")
    .option("--to <seq>", "read no further than this entry")
    .addOption(keyOption())
    .option("--since <file>", "a log checkpoint that was remembered: finds truncation, rollback and forks")
    .option("--epoch-key <file>", "escrow file or audit-epoch.key: checks the macs of its epoch and all later ones")
    .addOption(logOption())
    .addOption(stateOption());

  add(
    "tail",
    "Print the last entries, and with -f those that are added.",
    ["vram audit tail", "vram audit tail -f", "vram audit tail -n 100 --json | jq .type"],
    async (...args) => (await import("./commands/audit-tail.ts")).runAuditTail(...args),
    { group, jsonLines: "print the lines as they are in the log (JSON Lines); the default without a terminal" },
  )
    .option("-n, --lines <count>", "how many; default 10")
    .option("-f, --follow", "wait for more, until interrupted")
    .addOption(logOption())
    .addOption(stateOption());

  add(
    "prove",
    "Prove that an entry is in the log, for somebody who has only the log's public key; or check such a proof.",
    [
      "vram audit prove 17 > 17.tlog-proof",
      "vram audit prove 17 --since remembered.checkpoint > 17.tlog-proof",
      "vram audit prove --check 17.tlog-proof --log-key VKEY",
    ],
    async (...args) => (await import("./commands/audit-prove.ts")).runAuditProve(...args),
    { group },
  )
    .argument("[seq]", "the entry to prove")
    .option("--since <file>", "prove as well that the log continues this remembered log checkpoint")
    .option("--check <file>", "check the proof in this file; needs --log-key, and no log")
    .option("--line <file>", "with --check: the line, if the proof does not hold it")
    .addOption(keyOption())
    .addOption(logOption())
    .addOption(stateOption());

  add(
    "keys",
    "Show the log's public key and which key files there are; or make the escrow key of a log that is to come.",
    ["vram audit keys", "vram audit keys --state-dir ./state --escrow /media/usb/escrow.key"],
    async (...args) => (await import("./commands/audit-keys.ts")).runAuditKeys(...args),
    { group },
  )
    .option("--escrow <file>", "make K(0) before there is a log, and write it to this new file")
    .addOption(stateOption());
}
