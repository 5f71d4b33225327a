/**
 * `npm run proof`: runs the whole suite and writes down what came of it, as a bundle that somebody else can read and check
 * (docs/proof.md). What runs on the emulated device comes first; the GPU suite is part of the same run where there is a GPU.
 *
 *     npm run proof                                          everything
 *     npm run proof -- --tests test/unit --features none     a part, and the page says so
 *
 * VRAM_PROOF_DIR is where runs are put (default .proof_bundle), VRAM_PROOF_RUN_ID what this one is called, VRAM_PROOF_KEY
 * the file of the key that signs it (default beside the runs; made if there is none).
 *
 * Exit 0 if nothing failed and every requirement has a test that passed; 1 if not, with a bundle that says so; 1 without a
 * bundle if it would hold a secret.
 */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { build, install, ROOT, runToTheEnd, StepFailed } from "./quickstart.mjs";

const USAGE = `npm run proof                                        runs everything, and writes a bundle
npm run proof -- --tests PATH --features PATH|none   runs a part, and the bundle says so
docs/proof.md has the variables that say where to, and with which key.`;

/** What was asked for: paths, or nothing for everything. */
function readArguments() {
  try {
    const paths = { type: "string", multiple: true };
    return parseArgs({ options: { tests: paths, features: paths, help: { type: "boolean", short: "h" } } }).values;
  } catch (error) {
    throw new StepFailed(`${error.message}\n\n${USAGE}`, 2);
  }
}

const RUN_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** Where a run goes, and what it is called. */
function readPlace(env, now, commit) {
  const folder = resolve(ROOT, env.VRAM_PROOF_DIR || ".proof_bundle");
  const stamp = now.toISOString().replace(/[-:]/g, "").slice(0, 13);
  const id = env.VRAM_PROOF_RUN_ID || `${stamp}-${commit?.slice(0, 12) ?? "nocommit"}`;
  if (!RUN_ID.test(id)) {
    throw new StepFailed(
      `VRAM_PROOF_RUN_ID: 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit, is not "${id}"`,
      2,
    );
  }
  const target = join(folder, id);
  if (existsSync(target)) throw new StepFailed(`${target} exists: give another VRAM_PROOF_RUN_ID, or remove it`, 1);
  return { folder, id, target, key: resolve(ROOT, env.VRAM_PROOF_KEY || join(folder, "proof-signing-key.pem")) };
}

/** What would make a substituted driver, or a device that is asked for by name, pass for this machine's own. */
const MISLEADING = ["VRAM_LIBCUDA", "VRAM_DEVICE_TESTS", "VRAM_BACKEND"];

/** What can be known to fail before everything was run: a folder, and the key. */
async function prepare({ folder, key }) {
  try {
    mkdirSync(folder, { recursive: true });
    if (process.env.VRAM_TEST_BUILT !== "1") {
      await install((line) => process.stdout.write(`${line}\n`));
      await build();
    }
    const { openSigner } = await import("./proof/sign.mjs");
    const signer = openSigner(key);
    // Beside its target, so that the bundle appears at once and whole.
    return { signer, draft: mkdtempSync(join(folder, ".draft-")) };
  } catch (error) {
    if (error instanceof StepFailed) throw error;
    throw new StepFailed([error.message, ...(error.fix === undefined ? [] : [`  ${error.fix}`])].join("\n"), 1);
  }
}

/** A path as a shell takes it. */
const quoted = (path) => (/^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`);

await runToTheEnd(async () => {
  const asked = readArguments();
  if (asked.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  const set = MISLEADING.filter((name) => (process.env[name] ?? "") !== "");
  if (set.length > 0) throw new StepFailed(`a proof is of this machine as it is: unset ${set.join(", ")}`, 2);
  const startedAt = new Date();
  const { readSource } = await import("./proof/environment.mjs");
  const source = readSource();
  const place = readPlace(process.env, startedAt, source.commit);
  const { signer, draft } = await prepare(place);
  try {
    // What follows reads `dist`, which is built by now.
    const { runSuites } = await import("./proof/suites.mjs");
    const ran = await runSuites(asked);
    const { writeBundle } = await import("./proof/write.mjs");
    const told = await writeBundle(draft, { ...place, signer, startedAt, source, ran });
    chmodSync(draft, 0o755);
    try {
      renameSync(draft, place.target);
    } catch (error) {
      throw new StepFailed(`${place.target}: ${error.message}; was there another run of that name?`, 1);
    }
    process.stdout.write(`\n${told.lines.join("\n")}\n\nproof bundle: ${place.target}\n`);
    process.stdout.write(
      `  read it:   ${place.target}/index.html\n  check it:  npx vram proof verify ${quoted(place.target)}\n` +
        `  its key:   ${place.key} (not to be handed on with the bundle)\n`,
    );
    return told.code;
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
});
