/** The commands that talk to a service: what they are called, what they take, and which file has them. */
import { type Command, Option } from "commander";
import type { Add } from "./command.ts";
import type { EvictOptions } from "./commands/evict.ts";
import type { LeaseOptions } from "./commands/lease.ts";
import type { PlacedOptions } from "./commands/placed.ts";
import type { ResumeOptions } from "./commands/resume.ts";
import type { SealOptions } from "./commands/seal.ts";
import type { VerifyOptions } from "./commands/verify.ts";
import type { ServiceOptions } from "./service-address.ts";
import { addServiceOptions } from "./service-options.ts";

const formatOption = (): Option =>
  new Option("--format <format>", "how to read the header; raw looks for none").choices([
    "auto",
    "safetensors",
    "gguf",
    "raw",
  ]);
const deviceOption = (): Option => new Option("--device <device>", "ordinal or UUID of a device; default the first");

/** Adds what a plan and a seal have in common. */
const addPlacedOptions = (command: Command): Command =>
  command
    .option("--name <name>", "what to call it; default the file's name")
    .addOption(deviceOption())
    .addOption(formatOption())
    .option("--shards <count>", "cut a single file into so many, at tensor boundaries");

function addSealing(add: Add): void {
  const sealed = add<SealOptions>(
    "seal",
    "Have the service load files into VRAM and seal them. They stay until they are evicted, over restarts.",
    [
      "vram seal --wait model.safetensors",
      "vram seal --name llama --device 1 model.gguf",
      "vram seal --sums SUMS --wait *.safetensors",
    ],
    async (...args) => (await import("./commands/seal.ts")).runSeal(...args),
  ).argument("<files...>", "files, directories or *.safetensors.index.json");
  addPlacedOptions(sealed)
    .option("--expect <digest>", "what the file must be: fsverity:HEX, sha256:HEX or 64 hex digits (fsverity)")
    .addOption(
      new Option("--sums <file>", "a list of `vram digest` that says what each file must be").conflicts("expect"),
    )
    .option("--sha256", "also compute the plain SHA-256")
    .option("--wait", "wait until it is sealed; interrupted, it is cancelled");
  addServiceOptions(sealed);
}

function addLooking(add: Add): void {
  addServiceOptions(
    add<ServiceOptions>(
      "ps",
      "List what is resident, what should be, and what is being sealed.",
      ["vram ps", "vram ps --json | jq '.shards[].name'"],
      async (...args) => (await import("./commands/ps.ts")).runPs(...args),
    ),
  );
  addServiceOptions(
    add<ServiceOptions>(
      "show",
      "Show all that may be said about a shard or a set.",
      ["vram show model.safetensors", "vram show --json shard-ID"],
      async (...args) => (await import("./commands/show.ts")).runShow(...args),
    ).argument("<name>", "name or id"),
  );
  const planned = add<PlacedOptions>(
    "plan",
    "Say whether a model fits, and into what. Nothing is read but headers, nothing is moved.",
    ["vram plan model.safetensors", "vram plan --device 1 ./model-folder"],
    async (...args) => (await import("./commands/plan.ts")).runPlan(...args),
  ).argument("<file>", "a file, a directory or a *.safetensors.index.json");
  addServiceOptions(addPlacedOptions(planned));
}

function addUsing(add: Add): void {
  addServiceOptions(
    add<VerifyOptions>(
      "verify",
      "Measure what lies in VRAM, and say where it is not what was sealed.",
      ["vram verify model.safetensors", "vram verify --all", "vram verify --max-age 5min model.safetensors"],
      async (...args) => (await import("./commands/verify.ts")).runVerify(...args),
    )
      .argument("[names...]", "names or ids")
      .option("--all", "everything that is resident or should be; goes on past failures")
      .option("--max-age <duration>", "settle for a measurement no older than this, in ms or as 5min; 0 = measure now")
      .option("--salt <hex>", "also measure with a salt of 1 to 32 bytes, which nobody knew before"),
  );
  addServiceOptions(
    add<LeaseOptions>(
      "lease",
      "Run a command under a lease: verified before it starts, told to end when the lease is lost.",
      [
        "vram lease model.safetensors -- my-engine --port 8000",
        "vram lease --verify --duration 5min model.safetensors -- my-engine",
      ],
      async (...args) => (await import("./commands/lease.ts")).runLease(...args),
    )
      .argument("<name>", "name or id")
      .argument("[command...]", "the command and its arguments, behind --")
      .addOption(new Option("--verify", "measure now, before the command starts: --max-age 0").conflicts("maxAge"))
      .option("--max-age <duration>", "settle for a measurement no older than this, in ms or as 5min; 0 = measure now")
      .option("--duration <duration>", "how long it lasts without being renewed, in ms or as 5min")
      .option("--holder <text>", "what the record calls the holder; default the command")
      .addOption(
        new Option(
          "--on-revoke <action>",
          "what becomes of the command; default terminate: SIGTERM, then SIGKILL",
        ).choices(["terminate", "keep"]),
      ),
  );
}

function addEnding(add: Add): void {
  addServiceOptions(
    add<EvictOptions>(
      "evict",
      "Zero and free shards and sets. The service does not seal them again.",
      ["vram evict model.safetensors", "vram evict --revoke model.safetensors"],
      async (...args) => (await import("./commands/evict.ts")).runEvict(...args),
    )
      .argument("<names...>", "names or ids")
      .option("--revoke", "revoke its leases; without it a shard that is leased stays"),
  );
  addServiceOptions(
    add<ResumeOptions>(
      "resume",
      "Let workers go on that a failed verification stopped. The reason is put on record.",
      ['vram resume --reason "bad riser replaced, memory test clean"'],
      async (...args) => (await import("./commands/resume.ts")).runResume(...args),
    )
      .requiredOption("--reason <text>", "why it is safe to go on")
      .option("--device <device>", "ordinal or UUID; default all that are stopped"),
  );
}

/** Declares the commands that talk to a service. */
export function addClientCommands(add: Add): void {
  addSealing(add);
  addLooking(add);
  addUsing(add);
  addEnding(add);
}
