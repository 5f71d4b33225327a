#!/usr/bin/env node
/** Entry of the command line: nothing but the wiring. The logic is `main` in `main.ts`. */
import { processHost } from "./host.ts";
import { main } from "./main.ts";

const host = processHost();
const code = await main(process.argv.slice(2), host);
process.stdout.write("", () => {
  process.exitCode = code === 0 && host.outFailed?.() === true ? 1 : code;
});
