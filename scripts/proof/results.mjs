/**
 * From what the two runners report to what a proof bundle lists: `tests.json` from vitest's JSON report, `features.json`
 * from cucumber's messages. Statuses, names and durations are taken as they were reported; paths become relative, and
 * colours are taken out of messages.
 */
import { readFileSync } from "node:fs";
import { relative, sep } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { ROOT } from "../quickstart.mjs";

/** A message is there to find the cause, not to be the log. */
const MESSAGE_LENGTH = 4000;

const TAG = /^@(VR-[A-Z]+-\d{2})$/;

/** A message that says nothing of where the repository lies. */
export function cleanMessage(text) {
  const relative = stripVTControlCharacters(text).replaceAll(ROOT, "").replaceAll(encodeURI(ROOT), "");
  // Half a surrogate pair, which a test may have in its title or the cut leave behind, has no place in UTF-8.
  return relative.slice(0, MESSAGE_LENGTH).toWellFormed();
}

/** Whole milliseconds, and never below zero: clocks are set back, too. */
const ms = (value) => Math.max(0, Math.round(value ?? 0));

const statusOf = (status) => (status === "passed" || status === "failed" ? status : "skipped");

/** `tests.json` from the path of vitest's JSON report. */
export function readTests(path) {
  const { testResults } = JSON.parse(readFileSync(path, "utf8"));
  const files = testResults.map((file) => {
    const name = relative(ROOT, file.name).split(sep).join("/");
    const tests = file.assertionResults.map(({ ancestorTitles, title, status, duration, failureMessages }) => ({
      title: cleanMessage([...ancestorTitles, title].join(" > ")),
      status: statusOf(status),
      ms: ms(duration),
      ...(status === "failed" ? { message: cleanMessage((failureMessages ?? []).join("\n")) } : {}),
    }));
    const outside = file.status === "failed" && !tests.some(({ status }) => status === "failed");
    return {
      ...{ path: name, tier: name.split("/")[1] ?? "?", ms: ms(file.endTime - file.startTime) },
      ...(outside ? { error: cleanMessage(file.message || "failed outside its tests") } : {}),
      tests,
    };
  });
  files.sort((a, b) => (a.path < b.path ? -1 : 1));
  return { schema: "vram-residency/proof-tests/v1", files };
}

const millis = ({ seconds, nanos }) => seconds * 1000 + nanos / 1e6;

/** What cucumber calls it, in three words. Undefined, ambiguous and pending steps are failures, as in its strict mode. */
const outcomeOf = (statuses) =>
  statuses.length > 0 && statuses.every((status) => status === "PASSED")
    ? "passed"
    : statuses.length > 0 && statuses.every((status) => status === "PASSED" || status === "SKIPPED")
      ? "skipped"
      : "failed";

/** Names of scenarios; rows of an outline share one, and are told apart by their line. */
function namesOf(pickles) {
  const seen = new Map();
  for (const { uri, name } of pickles) seen.set(`${uri}\n${name}`, (seen.get(`${uri}\n${name}`) ?? 0) + 1);
  return ({ uri, name, location }) => (seen.get(`${uri}\n${name}`) > 1 ? `${name} (line ${location.line})` : name);
}

/** The messages of a run by kind, each kind by the id that its readers look for. */
function readMessages(path) {
  const all = readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line));
  const pick = (kind) => all.flatMap((message) => (message[kind] === undefined ? [] : [message[kind]]));
  return {
    documents: new Map(pick("gherkinDocument").map((document) => [document.uri, document.feature?.name ?? ""])),
    pickles: pick("pickle"),
    cases: pick("testCase"),
    started: pick("testCaseStarted"),
    finished: pick("testCaseFinished"),
    steps: pick("testStepFinished"),
    /** A hook that failed outside every scenario leaves only this. */
    success: pick("testRunFinished").every(({ success }) => success) && pick("testRunFinished").length === 1,
  };
}

/** The scenarios of a run that were selected: by pickle, what came of the last attempt. */
function attemptsOf({ cases, started, finished, steps }) {
  const attempts = new Map();
  for (const { id, testCaseId, timestamp } of started) {
    const pickleId = cases.find((one) => one.id === testCaseId)?.pickleId;
    const results = steps.filter(({ testCaseStartedId }) => testCaseStartedId === id);
    const end = finished.find(({ testCaseStartedId }) => testCaseStartedId === id);
    attempts.set(pickleId, {
      // A scenario that began and did not end did not pass.
      status: end === undefined ? "failed" : outcomeOf(results.map(({ testStepResult }) => testStepResult.status)),
      ms: ms(end === undefined ? 0 : millis(end.timestamp) - millis(timestamp)),
      message: results
        .map(({ testStepResult }) => testStepResult.message ?? "")
        .join("\n")
        .trim(),
    });
  }
  return attempts;
}

/** `features.json` from the path of cucumber's messages. */
export function readFeatures(path, backend) {
  const run = readMessages(path);
  const nameOf = namesOf(run.pickles);
  const attempts = attemptsOf(run);
  const features = [...run.documents].map(([uri, name]) => ({
    path: uri,
    name,
    scenarios: run.pickles
      .filter((pickle) => pickle.uri === uri && attempts.has(pickle.id))
      .map((pickle) => {
        const { status, ms: took, message } = attempts.get(pickle.id);
        const requirements = pickle.tags.flatMap((tag) => TAG.exec(tag.name)?.[1] ?? []);
        const failed = status === "failed" ? { message: cleanMessage(message) } : {};
        return { name: nameOf(pickle), requirements, status, ms: took, ...failed };
      }),
  }));
  const shown = features.filter(({ scenarios }) => scenarios.length > 0).sort((a, b) => (a.path < b.path ? -1 : 1));
  const anyFailed = shown.some(({ scenarios }) => scenarios.some(({ status }) => status === "failed"));
  if (!run.success && !anyFailed) {
    const outside = { name: "outside every scenario", requirements: [], status: "failed", ms: 0 };
    shown.push({ path: "features", name: "the run itself", scenarios: [outside] });
  }
  return { schema: "vram-residency/proof-features/v1", backend, features: shown };
}
