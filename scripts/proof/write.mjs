/** Writes a bundle: lists and pages from what ran, what was recorded before, and the signature over all of it. */
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { checkBundle } from "../../dist/proof/check.js";
import { matrixOf } from "../../dist/proof/matrix.js";
import { outcomeOf, RESULT_FILES } from "../../dist/proof/results.js";
import { verdictOf } from "../../dist/proof/test-result.js";
import { ROOT, StepFailed } from "../quickstart.mjs";
import { readEnvironment, readSbom, readSource } from "./environment.mjs";
import { indexPage, testsPage } from "./page.mjs";
import { secretsIn } from "./secrets.mjs";
import { signBundle } from "./sign.mjs";

const SLOWEST = 20;
const FAILURES_TOLD = 20;

const readJson = (path) => JSON.parse(readFileSync(path, "utf8"));

/** JSON files of a folder of the repository, which are copied into the bundle as they are. */
function copyResults(from, to) {
  const folder = join(ROOT, from);
  const names = existsSync(folder)
    ? readdirSync(folder)
        .filter((name) => name.endsWith(".json"))
        .sort()
    : [];
  if (names.length > 0) mkdirSync(to, { recursive: true });
  for (const name of names) copyFileSync(join(folder, name), join(to, name));
  return names;
}

function slowestOf({ files }) {
  return files
    .flatMap(({ path, tests }) => tests.map(({ title, ms }) => ({ name: `${path} > ${title}`, ms })))
    .sort((a, b) => b.ms - a.ms)
    .slice(0, SLOWEST);
}

const failuresOf = (tests, features) => [
  ...tests.files.flatMap(({ path, error, tests: all }) => [
    ...(error === undefined ? [] : [{ name: path, message: error }]),
    ...all.filter(({ status }) => status === "failed").map((test) => ({ ...test, name: `${path} > ${test.title}` })),
  ]),
  ...features.flatMap((list) =>
    list.features.flatMap(({ path, scenarios }) =>
      scenarios.filter(({ status }) => status === "failed").map((one) => ({ ...one, name: `${path} > ${one.name}` })),
    ),
  ),
];

/** Everything that the pages are made of. */
function gather(draft, { id, startedAt, source, ran, signer }) {
  const { tests, features, steps, coverage, seeds } = ran;
  const results = copyResults("bench/results", join(draft, "results"));
  const result = (name) => (results.includes(name) ? readJson(join(draft, "results", name)) : undefined);
  const [mutation, nodeVersions] = ["mutation.json", "node-versions.json"].map(result);
  const own = ["mutation.json", "node-versions.json"];
  return {
    run: { id, partial: tests.partial, startedAt: startedAt.toISOString(), finishedAt: new Date().toISOString() },
    ...{ tests, features, coverage, seeds, mutation, nodeVersions, keyId: signer.keyId },
    matrix: matrixOf(readJson(join(ROOT, "docs/requirements.json")), tests, features),
    result: verdictOf(outcomeOf(tests, features)).result,
    failures: failuresOf(tests, features),
    timings: { steps, slowest: slowestOf(tests) },
    benches: results.filter((file) => !own.includes(file)).map((file) => ({ file, document: result(file) })),
    environment: readEnvironment(source, ran.backends),
    sbom: readSbom(),
    hardware: copyResults("docs/gpu-results", join(draft, "hardware")),
  };
}

function writeFiles(draft, data) {
  const [emulated, cuda] = data.features;
  const documents = {
    [RESULT_FILES.tests]: data.tests,
    ...(emulated === undefined ? {} : { [RESULT_FILES.features]: emulated }),
    ...(cuda === undefined ? {} : { [RESULT_FILES.gpuFeatures]: cuda }),
    [RESULT_FILES.matrix]: { schema: "vram-residency/proof-matrix/v1", ...data.matrix },
    "environment.json": { schema: "vram-residency/proof-environment/v1", run: data.run, ...data.environment },
    "timings.json": data.timings,
    "seeds.json": data.seeds,
    ...(data.coverage === undefined ? {} : { "coverage.json": data.coverage }),
    "sbom.cdx.json": data.sbom,
  };
  for (const [name, document] of Object.entries(documents)) {
    writeFileSync(join(draft, name), `${JSON.stringify(document, null, 1)}\n`);
  }
  writeFileSync(join(draft, "index.html"), indexPage(data));
  writeFileSync(join(draft, "tests.html"), testsPage(data));
}

/** Throws if any file of the draft holds what must not be in it. */
function refuseSecrets(draft) {
  const paths = readdirSync(draft, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const found = paths.flatMap(({ parentPath, name }) => {
    const path = join(parentPath, name);
    return secretsIn(path.slice(draft.length + 1), readFileSync(path, "utf8"));
  });
  if (found.length === 0) return;
  const lines = [...found.slice(0, 20), ...(found.length > 20 ? [`and ${found.length - 20} more`] : [])];
  throw new StepFailed(
    `no bundle was written, because it would hold secrets:\n  ${lines.join("\n  ")}\n` +
      "They are refused, not blacked out: find the test or the output that tells them.",
    1,
  );
}

function linesOf({ matrix, tests, features, failures }) {
  const all = tests.files.flatMap((file) => file.tests);
  const scenarios = features.flatMap((list) => list.features.flatMap((feature) => feature.scenarios));
  const count = (items, status) => items.filter((item) => item.status === status).length;
  const broken = tests.files.filter(({ error }) => error !== undefined).length;
  const without = (standing) => matrix.rows.filter(({ withoutGpu }) => withoutGpu === standing).map(({ id }) => id);
  const onGpu = matrix.rows.filter((row) => row.onGpu === "passed").length;
  const [failed, gaps] = [without("failed"), without("gap")];
  const list = (ids) => (ids.length === 0 ? "" : `: ${ids.join(" ")}`);
  return [
    `tests: ${count(all, "passed")} passed, ${count(all, "failed") + broken} failed, ${count(all, "skipped")} skipped`,
    `scenarios: ${count(scenarios, "passed")} passed, ${scenarios.length - count(scenarios, "passed")} not passed`,
    `requirements: ${matrix.rows.length} in all, ${without("passed").length} shown without a GPU, ${failed.length} failed${list(failed)}, ${gaps.length} gaps${list(gaps)}`,
    `on a GPU: ${onGpu} of ${matrix.rows.length} requirements shown`,
    ...(matrix.strays.length === 0 ? [] : [`tags that name no requirement: ${matrix.strays.join("; ")}`]),
    ...failures.slice(0, FAILURES_TOLD).map(({ name }) => `FAILED: ${name}`),
    ...(failures.length > FAILURES_TOLD ? [`and ${failures.length - FAILURES_TOLD} more, which the page names`] : []),
  ];
}

/** The source of the run: what was changed while it ran counts as changed. */
function stillSame(before, after) {
  const moved = before.commit === after.commit ? [] : [`HEAD, which is ${after.commit ?? "none"} now`];
  return { commit: before.commit, changed: [...new Set([...before.changed, ...after.changed, ...moved])] };
}

/**
 * Writes a bundle into the folder `draft` and checks it as a reader would.
 * @returns {Promise<{ lines: string[], code: number }>} what to print, and how to end
 */
export async function writeBundle(draft, { id, signer, startedAt, source: before, ran }) {
  const source = stillSame(before, readSource());
  const data = gather(draft, { id, startedAt, source, ran, signer });
  writeFiles(draft, data);
  refuseSecrets(draft);
  const outcome = outcomeOf(data.tests, data.features);
  signBundle(draft, signer, { commit: source.changed.length === 0 ? source.commit : undefined, outcome });
  const checked = await checkBundle(draft, { publicKey: signer.publicPem });
  if (!checked.ok) {
    const words = checked.faults.map(({ path, words: why }) => `${path}: ${why}`);
    throw new StepFailed(`what was written is not a whole bundle: ${words.join("; ")}`, 1);
  }
  const whole = data.matrix.rows.every(({ withoutGpu }) => withoutGpu === "passed") && data.matrix.strays.length === 0;
  return { lines: linesOf(data), code: data.failures.length === 0 && whole ? 0 : 1 };
}
