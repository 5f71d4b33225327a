/** What says where the service is, for every command that talks to one. */
import { type Command, Option } from "commander";

/** Adds it to a command. */
export const addServiceOptions = (command: Command): Command =>
  command
    .addOption(new Option("--socket <path>", "socket of the service; default $VRAM_SOCKET, else the usual place"))
    .addOption(
      new Option(
        "--url <url>",
        "address of the service instead, as http://127.0.0.1:PORT; token in $VRAM_TOKEN",
      ).conflicts("socket"),
    );
