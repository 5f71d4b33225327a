/** `npm run bench -- digest|seal|verify|audit|service|attach [--mib 1024] [--runs 5] [--json FILE]`. Needs a build. */
import { parseArgs } from "node:util";
import { benchAttach } from "./attach.mjs";
import { benchAudit } from "./audit.mjs";
import { benchDigest } from "./digest.mjs";
import { benchSeal } from "./seal.mjs";
import { benchService } from "./service.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    mib: { type: "string", default: "1024" },
    runs: { type: "string", default: "5" },
    json: { type: "string" },
  },
});
const [what] = positionals;
const options = { mib: Number(values.mib), runs: Number(values.runs), json: values.json, what };
if (what === "digest") await benchDigest(options);
else if (what === "seal" || what === "verify") await benchSeal(options);
else if (what === "audit") await benchAudit(options);
else if (what === "service") await benchService(options);
else if (what === "attach") await benchAttach(options);
else {
  console.error(
    "usage: npm run bench -- digest|seal|verify|audit|service|attach [--mib 1024] [--runs 5] [--json FILE]",
  );
  process.exitCode = 2;
}
