/**
 * From what the two runners report to what a proof bundle lists: `tests.json` from vitest's JSON report, `features.json`
 * from cucumber's messages. Statuses, names and durations are taken as they were reported, but for one thing: what did not
 * run because something broke has failed. Paths become relative, and colours are taken out of messages.
 */
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, relative, sep } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { ROOT } from "../quickstart.mjs";
import { literal, placeForm, secretsIn } from "./secrets.mjs";

/** A message is there to find the cause, not to be the log. */
const MESSAGE_LENGTH = 4000;

const TAG = /^@(VR-[A-Z]+-\d{2})$/;

/** What is left of the places of this machine: the repository is where a reader is, and everybody has a home. */
const PLACES = [
  [new RegExp(`(file://)?(${[ROOT, encodeURI(ROOT)].map(literal).join("|")})`, "g"), ""],
  [placeForm(ROOT), "."],
  ...(homedir() === "/" ? [] : [[placeForm(homedir()), "~"]]),
];

/** A message that says nothing of where the repository and a person's files lie. */
export function cleanMessage(text) {
  let clean = stripVTControlCharacters(text);
  for (const [place, short] of PLACES) clean = clean.replaceAll(place, short);
  // Part of a secret would not be recognised: what holds one stays whole, and is found when the bundle is looked through.
  if (clean.length > MESSAGE_LENGTH && secretsIn("", clean).length === 0) clean = clean.slice(0, MESSAGE_LENGTH);
  // Half a surrogate pair, which a test may have in its title or the cut leave behind, has no place in UTF-8.
  return clean.toWellFormed();
}

/** Whole milliseconds, and never below zero: clocks are set back, too. */
const ms = (value) => Math.max(0, Math.round(value ?? 0));

/** What failed outside of tests, by the path of its file (scripts/outside-reporter.mjs, beside the report). */
function readOutside(report) {
  const path = join(dirname(report), "outside.json");
  const found = new Map();
  for (const { path: file, message } of existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : []) {
    found.set(file, [...(found.get(file) ?? []), cleanMessage(message)]);
  }
  return found;
}

/** GPUs that tests ran on (test/helpers/gpu.ts, beside the report). */
function readHardware(report) {
  const path = join(dirname(report), "hardware.txt");
  const names = existsSync(path) ? readFileSync(path, "utf8").split("\n") : [];
  return [...new Set(names.filter((name) => name !== ""))].sort();
}

/**
 * Whatever is neither passed nor skipped by its author has failed: it did not end, or what it stands on broke. And what
 * passed in the GPU suite without a GPU has not shown what it says.
 */
function readTest({ ancestorTitles, title, status, duration, failureMessages }, { error, isNowhere }) {
  const left = status !== "passed" && status !== "failed";
  const broken = left && (error !== undefined || status === "pending");
  const unfounded = status === "passed" && isNowhere;
  const messages = broken ? ["it did not run to its end"] : unfounded ? ["there was no GPU"] : (failureMessages ?? []);
  const message = messages.join("\n");
  const how = broken || unfounded ? "failed" : left ? "skipped" : status;
  return {
    title: cleanMessage([...ancestorTitles, title].join(" > ")),
    status: how,
    ms: ms(duration),
    ...(how === "failed" ? { message: cleanMessage(message) } : {}),
  };
}

/** `tests.json` from the path of vitest's JSON report. */
export function readTests(path) {
  const { testResults } = JSON.parse(readFileSync(path, "utf8"));
  const outside = readOutside(path);
  const gpus = readHardware(path);
  const files = testResults.map((file) => {
    const name = relative(ROOT, file.name).split(sep).join("/");
    const errors = outside.get(name) ?? (file.message ? [cleanMessage(file.message)] : []);
    outside.delete(name);
    const error = errors.length === 0 ? undefined : errors.join("\n\n");
    const tier = name.split("/")[1] ?? "?";
    return {
      ...{ path: name, tier, ms: ms(file.endTime - file.startTime) },
      ...(error === undefined ? {} : { error }),
      tests: file.assertionResults.map((test) =>
        readTest(test, { error, isNowhere: tier === "device" && gpus.length === 0 }),
      ),
    };
  });
  for (const [name, errors] of outside) {
    files.push({ path: name, tier: name.split("/")[1] ?? "run", ms: 0, error: errors.join("\n\n"), tests: [] });
  }
  files.sort((a, b) => (a.path < b.path ? -1 : 1));
  return { schema: "vram-residency/proof-tests/v1", gpus, files };
}

const millis = ({ seconds, nanos }) => seconds * 1000 + nanos / 1e6;

/**
 * What cucumber calls it, in three words. Undefined, ambiguous and pending steps are failures, as in its strict mode, and
 * so is a scenario without steps: hooks that pass show nothing.
 */
function outcomeOf(results, own) {
  const statuses = results.map(({ testStepResult }) => testStepResult.status);
  if (!results.some(({ testStepId }) => own.has(testStepId))) return "failed";
  if (statuses.every((status) => status === "PASSED")) return "passed";
  return statuses.every((status) => status === "PASSED" || status === "SKIPPED") ? "skipped" : "failed";
}

/** Names of scenarios; rows of an outline share one, and are told apart by their line. */
function namesOf(pickles) {
  const seen = new Map();
  for (const { uri, name } of pickles) seen.set(`${uri}\n${name}`, (seen.get(`${uri}\n${name}`) ?? 0) + 1);
  return ({ uri, name, location }) => (seen.get(`${uri}\n${name}`) > 1 ? `${name} (line ${location.line})` : name);
}

/** What a line says; nothing if it was cut off, as the last one of a run that was killed. */
function readLine(line) {
  try {
    return [JSON.parse(line)];
  } catch {
    return [];
  }
}

/** The messages of a run by kind, each kind by the id that its readers look for. */
function readMessages(path, code) {
  const all = readFileSync(path, "utf8").split("\n").flatMap(readLine);
  const pick = (kind) => all.flatMap((message) => (message[kind] === undefined ? [] : [message[kind]]));
  return {
    documents: new Map(pick("gherkinDocument").map((document) => [document.uri, document.feature?.name ?? ""])),
    pickles: pick("pickle"),
    cases: pick("testCase"),
    started: pick("testCaseStarted"),
    finished: pick("testCaseFinished"),
    steps: pick("testStepFinished"),
    /** What failed outside every scenario: files that are no Gherkin, hooks of the run, and the run itself. */
    outside: [
      ...pick("parseError").map(({ message }) => message),
      ...pick("testRunHookFinished").map(({ result }) => result?.message),
      ...pick("testRunFinished").map(({ message }) => message),
      ...(pick("testRunFinished").length === 1
        ? []
        : [`the run ended with exit ${code} before its end; what it reported until then may be less than what was`]),
    ].filter((message) => message !== undefined),
    success: code === 0 && pick("testRunFinished").every(({ success }) => success),
  };
}

/** The scenarios of a run that were selected: by pickle, what came of the last attempt. */
function attemptsOf({ cases, started, finished, steps }) {
  const attempts = new Map(
    cases.map(({ pickleId }) => [pickleId, { status: "failed", ms: 0, message: "it did not run" }]),
  );
  for (const { id, testCaseId, timestamp } of started) {
    const { pickleId, testSteps = [] } = cases.find((one) => one.id === testCaseId) ?? {};
    // Steps of the scenario; hooks have no pickle step.
    const own = new Set(testSteps.filter((step) => step.pickleStepId !== undefined).map((step) => step.id));
    const results = steps.filter(({ testCaseStartedId }) => testCaseStartedId === id);
    const end = finished.find(({ testCaseStartedId }) => testCaseStartedId === id);
    attempts.set(pickleId, {
      // A scenario that began and did not end did not pass.
      status: end === undefined ? "failed" : outcomeOf(results, own),
      ms: ms(end === undefined ? 0 : millis(end.timestamp) - millis(timestamp)),
      message: results
        .map(({ testStepResult }) => testStepResult.message ?? "")
        .join("\n")
        .trim(),
    });
  }
  return attempts;
}

/** `features.json` from the path of cucumber's messages and the exit code of its run. */
export function readFeatures(path, backend, code = 0) {
  const run = readMessages(path, code);
  const nameOf = namesOf(run.pickles);
  const attempts = attemptsOf(run);
  const features = [...run.documents].map(([uri, name]) => ({
    path: cleanMessage(uri),
    name: cleanMessage(name),
    scenarios: run.pickles
      .filter((pickle) => pickle.uri === uri && attempts.has(pickle.id))
      .map((pickle) => {
        const { status, ms: took, message } = attempts.get(pickle.id);
        const requirements = pickle.tags.flatMap((tag) => TAG.exec(tag.name)?.[1] ?? []);
        const failed = status === "failed" ? { message: cleanMessage(message) } : {};
        return { name: cleanMessage(nameOf(pickle)), requirements, status, ms: took, ...failed };
      }),
  }));
  const shown = features.filter(({ scenarios }) => scenarios.length > 0).sort((a, b) => (a.path < b.path ? -1 : 1));
  const anyFailed = shown.some(({ scenarios }) => scenarios.some(({ status }) => status === "failed"));
  if (run.outside.length > 0 || (!run.success && !anyFailed)) {
    const message = cleanMessage(run.outside.join("\n") || `the run ended with exit ${code}, and nothing says why`);
    const outside = { name: "outside every scenario", requirements: [], status: "failed", ms: 0, message };
    shown.push({ path: "features", name: "the run itself", scenarios: [outside] });
  }
  return { schema: "vram-residency/proof-features/v1", backend, features: shown };
}
