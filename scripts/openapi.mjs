// Writes docs/openapi.json from dist: `npm run build && node scripts/openapi.mjs`. A test compares the two.
import { writeFileSync } from "node:fs";
import { openApiText } from "../dist/service/http/openapi.js";
import { VERSION } from "../dist/version.js";

writeFileSync(new URL("../docs/openapi.json", import.meta.url), openApiText(VERSION));
