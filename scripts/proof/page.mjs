/** `index.html` of a proof bundle: what was shown, and as loudly what was not. One file, no scripts, nothing loaded. */
import { readFileSync } from "node:fs";
import { counted, duration, html, number, pill, prose, shortCommit, table, verbatim } from "./html.mjs";
import { benches, coverage, environment, strength, timings } from "./page-parts.mjs";

const STYLE = readFileSync(new URL("page.css", import.meta.url), "utf8");

/** A page around its content. */
export const documentOf = (title, content) =>
  html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${title}</title>
<style>
${verbatim(STYLE)}</style>
</head>
<body>
<main>
${content}
</main>
</body>
</html>
`.toString();

const tile = (kind, figure, words) => html`<div class="tile ${kind}"><b>${figure}</b><span>${words}</span></div>`;

const RESULTS = {
  PASSED: ["good", "everything ran, nothing failed"],
  WARNED: ["gap", "nothing failed, but not everything ran"],
  FAILED: ["bad", "something failed"],
};

const count = (items, status) => items.filter((item) => item.status === status).length;

/** How many ended how, in files of tests; a file that failed as a whole counts once. */
const sumsOf = (files) => {
  const all = files.flatMap(({ tests }) => tests);
  const broken = files.filter(({ error }) => error !== undefined).length;
  return { passed: count(all, "passed"), failed: count(all, "failed") + broken, skipped: count(all, "skipped") };
};

function tiles({ result, tests, features, matrix, coverage: covered }) {
  const { passed, failed, skipped } = sumsOf(tests.files);
  const scenarios = features.flatMap((list) => list.features.flatMap((feature) => feature.scenarios));
  const rows = matrix.rows.length;
  const shown = matrix.rows.filter(({ withoutGpu }) => withoutGpu === "passed").length;
  const onGpu = matrix.rows.filter((row) => row.onGpu === "passed").length;
  const lines = covered?.total.lines.pct;
  return html`<div class="tiles">
${tile(RESULTS[result][0], result, RESULTS[result][1])}
${tile(failed > 0 ? "bad" : "good", number(passed), `of the tests passed, ${number(failed)} failed`)}
${tile(skipped > 0 ? "gap" : "good", number(skipped), "of the tests skipped")}
${tile(count(scenarios, "failed") > 0 || scenarios.length === 0 ? "bad" : "good", number(count(scenarios, "passed")), scenarios.length === 0 ? "scenarios: none ran" : `of the scenarios passed, ${number(count(scenarios, "failed"))} failed`)}
${tile(shown < rows ? "bad" : "good", `${shown} of ${rows}`, "requirements shown without a GPU")}
${tile(onGpu < rows ? "gap" : "good", `${onGpu} of ${rows}`, "requirements shown on a GPU")}
${lines === undefined ? "" : tile("good", `${lines} %`, "of the lines of src were run by tests")}
</div>`;
}

const ids = (rows) =>
  html`<ul>${rows.map(({ id, title }) => html`<li><a href="#${id}" title="${title}">${id}</a></li>\n`)}</ul>`;

/** Everything that a reader must not overlook. */
function boxes({ run, tests: { gpus }, environment: { commit, changed }, matrix, failures }) {
  const onGpu = matrix.rows.filter((row) => row.onGpu === "passed");
  const missing = matrix.rows.filter((row) => row.onGpu !== "passed");
  const gaps = matrix.rows.filter(({ withoutGpu }) => withoutGpu === "gap");
  const failed = matrix.rows.filter(({ withoutGpu, onGpu: standing }) => [withoutGpu, standing].includes("failed"));
  return html`
${failed.length === 0 ? "" : html`<section class="box bad"><h2>${counted(failed.length, "requirement")} failed</h2>${ids(failed)}</section>`}
${
  failures.length === 0
    ? ""
    : html`<section class="box bad"><h2>${counted(failures.length, "failure")}</h2>
${failures.slice(0, 50).map(({ name, message }) => html`<details><summary>${name}</summary><pre>${message ?? "no message"}</pre></details>`)}
${failures.length > 50 ? html`<p>And ${number(failures.length - 50)} more: <a href="tests.html">tests.html</a>.</p>` : ""}</section>`
}
${matrix.strays.length === 0 ? "" : html`<section class="box bad"><h2>Tags that name no requirement</h2><ul>${matrix.strays.map((stray) => html`<li>${stray}</li>`)}</ul></section>`}
${run.partial === undefined ? "" : html`<section class="box bad"><h2>Not the whole suite</h2><p>This run was of a part: ${run.partial}. What is missing below was not run.</p></section>`}
${gaps.length === 0 ? "" : html`<section class="box bad"><h2>${counted(gaps.length, "requirement")} that nothing was run for, or nothing passed</h2>${ids(gaps)}</section>`}
${commit === "none" ? html`<section class="box"><h2>No commit</h2><p>The source was not in a repository of its own, so the signed result names no commit.</p></section>` : ""}
${changed.length === 0 ? "" : html`<section class="box"><h2>Not a commit</h2><p>${counted(changed.length, "thing")} differed from commit <code>${commit}</code>, so the signed result names no commit: see <a href="#environment">Environment</a>.</p></section>`}
${
  missing.length === 0
    ? ""
    : html`<section class="box" id="hardware"><h2>${onGpu.length === 0 ? "Nothing here was shown on hardware" : "Not shown on hardware"}</h2>
<p>${gpus.length > 0 ? `Tests ran on ${gpus.join(", ")}. What they did not show:` : "No test ran on a GPU. Everything ran on the EMULATED device, or over a driver library that was substituted for a test; neither says anything about real VRAM."}
${counted(missing.length, "requirement")}, by name:</p>${ids(missing)}</section>`
}`;
}

const STANDINGS = { passed: ["good", "shown"], failed: ["bad", "FAILED"], gap: ["gap", "gap"] };

const STATUSES = { passed: ["good", "passed"], failed: ["bad", "FAILED"], skipped: ["gap", "skipped"] };

function evidenceOf({ evidence }) {
  if (evidence.length === 0) return html`<br><span class="note">Nothing that ran carries its id.</span>`;
  const items = evidence.map(
    ({ name, status, onGpu, fileFailed }) =>
      html`<li>${pill(...STATUSES[status])} ${fileFailed === true && status !== "failed" ? pill("bad", "its file failed") : ""} ${onGpu ? "GPU suite: " : ""}${name}</li>\n`,
  );
  const kinds = (kind) => counted(evidence.filter((item) => item.kind === kind).length, kind);
  return html`<details class="evidence"><summary>${kinds("test")} and ${kinds("scenario")} carry its id</summary><ul>${items}</ul></details>`;
}

const noteOf = (label, text) =>
  text === undefined ? "" : html`<br><span class="note">${label}: ${prose(text)}</span>`;

/** What passed for a requirement without a GPU, and what did not. */
function howMany({ testsPassed, scenariosPassed, evidence }) {
  const failed = evidence.filter(({ onGpu, status }) => !onGpu && status === "failed").length;
  const passed = `${counted(testsPassed, "test")}, ${counted(scenariosPassed, "scenario")} passed`;
  return failed === 0 ? passed : `${passed}; ${number(failed)} failed`;
}

function matrixSection({ matrix }) {
  const rows = matrix.rows.map((row) => [
    html`<span id="${row.id}" class="mono id">${row.id}</span>`,
    html`<b>${row.title}</b><br><span class="soft">${prose(row.must)}</span>${noteOf("Note", row.note)}${noteOf("Scenario", row.scenario)}${evidenceOf(row)}`,
    html`${pill(...STANDINGS[row.withoutGpu])}<br><span class="note">${howMany(row)}</span>`,
    pill(...(row.onGpu === "gap" ? ["gap", row.gpu ? "gap: needs a GPU" : "not shown"] : STANDINGS[row.onGpu])),
  ]);
  return html`<h2 id="matrix">Requirements</h2>
<p>Each requirement with the tests and scenarios that carry its id. “Shown” means that at least one of them passed in this run and none failed. “Gap: needs a GPU” marks what only hardware can show in full.</p>
${table(["id", "requirement", "without a GPU", "on a GPU"], rows)}`;
}

function featureSection({ features }) {
  return html`<h2 id="features">Behaviour</h2>
<p>Scenarios in Gherkin over the public doors of the built package and the shipped service. Damage in them is changed bytes in memory, never an edited report.</p>
${features.length === 0 ? html`<p><b>No scenario ran.</b></p>` : ""}
${features.map(
  ({ backend, features: list }) =>
    html`<h3>Backend ${backend}</h3>${list.map(({ path, name, scenarios }) => {
      const failed = scenarios.filter(({ status }) => status !== "passed").length;
      return html`<details${failed > 0 ? html` open` : ""}><summary>${pill(failed > 0 ? "bad" : "good", failed > 0 ? `${failed} not passed` : "passed")} ${name} <span class="soft">${path}, ${counted(scenarios.length, "scenario")}</span></summary>
<ul>${scenarios.map((one) => html`<li>${one.status === "passed" ? "" : pill("bad", one.status)} ${one.name} <span class="note">${one.requirements.join(" ")} ${duration(one.ms)}</span>${one.message === undefined ? "" : html`<pre>${one.message}</pre>`}</li>\n`)}</ul></details>`;
    })}`,
)}`;
}

function testSection({ tests }) {
  const tiers = [...new Set(tests.files.map(({ tier }) => tier))];
  const rows = tiers.map((tier) => {
    const files = tests.files.filter((file) => file.tier === tier);
    const sums = sumsOf(files);
    const took = duration(files.reduce((sum, { ms }) => sum + ms, 0));
    const counts = [files.length, sums.passed, sums.failed, sums.skipped].map(number);
    return [tier === "run" ? "the run itself" : tier, ...counts, took];
  });
  const ends = ["files", "passed", "failed", "skipped", "time"].map((text) => ({ text, end: true }));
  return html`<h2 id="tests">Tests</h2>
<p>Every test by file: <a href="tests.html">tests.html</a>, and for programs <a href="tests.json">tests.json</a>.</p>
${table(["tier", ...ends], rows)}`;
}

/** The page. */
export function indexPage(data) {
  const { run, environment: at } = data;
  return documentOf(
    `Proof bundle ${run.id}`,
    html`<header>
<h1>Proof bundle ${run.id}</h1>
<p class="lead">vram-residency ${at.version}, commit <code>${shortCommit(at.commit)}</code>${at.changed.length > 0 ? " and changes" : ""}, ${run.startedAt}, backend <b>${at.backends.join(", ")}</b>${at.gpus.length > 0 ? `, GPU ${at.gpus.join(", ")}` : ", no GPU"}. Made by <code>npm run proof</code> from what ran.</p>
<nav><a href="#matrix">Requirements</a><a href="#features">Behaviour</a><a href="#tests">Tests</a><a href="#coverage">Coverage</a><a href="#strength">Strength</a><a href="#timings">Timings and seeds</a><a href="#benches">Benches</a><a href="#environment">Environment</a><a href="#check">Check it yourself</a></nav>
</header>
${tiles(data)}
${boxes(data)}
${matrixSection(data)}
${featureSection(data)}
${testSection(data)}
${coverage(data)}
${strength(data)}
${timings(data)}
${benches(data)}
${environment(data)}
<h2 id="check">Check it yourself</h2>
<p>Every file is listed in <code>SHA256SUMS</code>; its hash is signed, with the result, in <code>statement.dsse.json</code> (in-toto test result in a DSSE envelope). A whole bundle shows what the holder of the key wrote down. That it was run is found out by running it again: <code>npm run proof</code> at that commit.</p>
<pre>sha256sum --check SHA256SUMS
vram proof verify .</pre>
<footer>Run ${run.id}, finished ${run.finishedAt}. Signed by key <span class="mono">${data.keyId}</span>.</footer>`,
  );
}

/** `tests.html`: every test, file by file. */
export function testsPage({ run, tests }) {
  const files = tests.files.map(({ path, ms, error, tests: all }) => {
    const failed = all.filter(({ status }) => status === "failed").length + (error === undefined ? 0 : 1);
    const skipped = all.filter(({ status }) => status === "skipped").length;
    const words = failed > 0 ? `${failed} failed` : skipped === all.length ? "skipped" : "passed";
    const items = all.map(({ title, status, ms: took, message }) => {
      const how = status === "passed" ? "" : pill(status === "failed" ? "bad" : "gap", status);
      return html`<li>${how} ${title} <span class="note">${duration(took)}</span>${message === undefined ? "" : html`<pre>${message}</pre>`}</li>\n`;
    });
    return html`<details${failed > 0 ? html` open` : ""}><summary>${pill(failed > 0 ? "bad" : words === "skipped" ? "gap" : "good", words)} <span class="mono">${path}</span> <span class="soft">${counted(all.length, "test")}, ${duration(ms)}</span></summary>${error === undefined ? "" : html`<pre>${error}</pre>`}<ul>${items}</ul></details>`;
  });
  const sums = sumsOf(tests.files);
  return documentOf(
    `Tests of ${run.id}`,
    html`<h1>Tests of ${run.id}</h1>
<p class="lead">${number(sums.passed)} passed, ${number(sums.failed)} failed, ${number(sums.skipped)} skipped. <a href="index.html">Back to the bundle</a></p>${files}`,
  );
}
