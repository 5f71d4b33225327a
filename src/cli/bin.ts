#!/usr/bin/env node
/** Entry of the command line: nothing but the wiring. The logic is `main` in `main.ts`. */
import { processHost, settledCode } from "./host.ts";
import { main } from "./main.ts";

const host = processHost();
const code = await main(process.argv.slice(2), host);
process.exitCode = code;
// Whoever signals twice waits for nothing that is still under way.
if (host.urgent?.aborted === true) process.exit();
// A stream tells later that it could not write; when the process ends, it has.
process.once("exit", () => {
  process.exitCode = settledCode(host, code);
});
