#!/usr/bin/env node
/** Entry of the command line: nothing but the wiring. The logic is `main` in `main.ts`. */
import { processHost } from "./host.ts";
import { main } from "./main.ts";

process.exitCode = await main(process.argv.slice(2), processHost());
