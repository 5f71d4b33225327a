/** Sections of the page about figures: coverage, mutation, versions of Node.js, timings, benches, and where it ran. */
import { bar, counted, duration, html, number, shortCommit, table } from "./html.mjs";

const end = (text) => ({ text, end: true });

/** Coverage by folder of `src`. */
export function coverage({ coverage: summary }) {
  if (summary === undefined) return html`<h2 id="coverage">Coverage</h2><p>Not measured in this run.</p>`;
  const rows = summary.folders.map(({ folder, lines, branches }) => [
    html`<code>${folder}</code>`,
    html`${bar(lines.pct)} ${lines.pct} %`,
    html`${bar(branches.pct)} ${branches.pct} %`,
    number(lines.total),
  ]);
  const { lines, branches } = summary.total;
  return html`<h2 id="coverage">Coverage</h2>
<p>${lines.pct} % of ${number(lines.total)} lines and ${branches.pct} % of ${number(branches.total)} branches of <code>src</code> were run by tests (V8).</p>
${table(["folder", "lines", "branches", end("lines in all")], rows)}`;
}

function mutation(found) {
  if (found === undefined) return html`<p>Mutation testing: <b>no result</b>.</p>`;
  const row = ({ folder, mutants, killed, timeout, survived, noCoverage, ignored, errors, score }) => [
    html`<code>${folder ?? "all"}</code>`,
    html`${bar(score, score >= 80 ? "good" : "gap")} ${score.toFixed(1)} %`,
    ...[mutants, killed + timeout, survived + noCoverage, ignored + errors].map(number),
  ];
  return html`<h3>Mutation testing</h3>
<p>Stryker changed the code in small ways, one at a time; a change is found if a test fails. Run by hand, the newest on ${found.at.slice(0, 10)} at commit <code>${shortCommit(found.commit)}</code>; each folder with its own in <a href="results/mutation.json">results/mutation.json</a>.</p>
${table(["folder", "found", end("changes"), end("found"), end("not found"), end("not judged")], [...found.folders, found.total].map(row))}
${found.folders.filter(({ note }) => note !== undefined).map(({ folder, note }) => html`<p class="note"><code>${folder}</code>: ${note}</p>`)}`;
}

/** The suite on other versions of Node.js, and in this run. */
function nodeVersions(found, { tests, environment: { node, commit, changed } }) {
  const all = tests.files.flatMap((file) => file.tests);
  const count = (wanted) => all.filter(({ status }) => status === wanted).length;
  const own = {
    ...{ node: `${node} (this run)`, commit: `${commit}${changed.length > 0 ? "+changes" : ""}` },
    ...{ passed: count("passed"), failed: count("failed"), skipped: count("skipped") },
  };
  const rows = [own, ...(found?.runs ?? [])].map(({ node: version, commit: at, passed, failed, skipped, seconds }) => [
    ...[version, html`<code>${shortCommit(at)}</code>`],
    ...[number(passed), number(failed), number(skipped), seconds === undefined ? "" : duration(seconds * 1000)],
  ]);
  return html`<h3>Versions of Node.js</h3>
<p>${found === undefined ? html`Other versions: <b>no result</b>.` : html`The whole suite on other versions, run by hand; details in <a href="results/node-versions.json">results/node-versions.json</a>.`}</p>
${table(["Node.js", "commit", end("passed"), end("failed"), end("skipped"), end("time")], rows)}`;
}

/** What was run by hand, at other times, and recorded. */
export const strength = (data) =>
  html`<h2 id="strength">Strength of the tests</h2>${mutation(data.mutation)}${nodeVersions(data.nodeVersions, data)}`;

/** Steps of the run, the slowest tests, and the seeds to run it with again. */
export function timings({ timings: { steps, slowest }, seeds }) {
  return html`<h2 id="timings">Timings and seeds</h2>
${table(
  ["step", end("time")],
  steps.map(({ step, ms }) => [step, duration(ms)]),
)}
<h3>The slowest tests</h3>
${table(
  ["test", end("time")],
  slowest.map(({ name, ms }) => [name, duration(ms)]),
)}
<h3>Seeds</h3>
<p>Tests with random inputs start from these; with them in the environment they try the same again.</p>
<pre>${Object.entries(seeds.environment)
    .map(([name, value]) => `${name}=${value}`)
    .join("\n")}</pre>
${seeds.counts.length === 0 ? "" : html`<p>What such tests counted:</p><pre>${seeds.counts.join("\n")}</pre>`}`;
}

/** Benches that were committed before this run. */
export function benches({ benches: all }) {
  const parts = all.map(({ file, document }) => {
    const rows = (document.results ?? []).map(({ name, medianSeconds, gigabytesPerSecond, spread }) => [
      name,
      `${(medianSeconds * 1000).toFixed(1)} ms`,
      gigabytesPerSecond === undefined ? "" : `${gigabytesPerSecond} GB/s`,
      `${Math.round(spread * 100)} %`,
    ]);
    const figures = Object.entries(document.figures ?? {});
    const where = [document.backend, document.cpu, document.cores && counted(document.cores, "core"), document.node];
    return html`<details><summary><b>${document.bench ?? file}</b> <span class="soft">${where.filter(Boolean).join(", ")}: <a href="results/${file}">${file}</a></span></summary>
${rows.length === 0 ? "" : table(["what", end("median"), end("throughput"), end("spread")], rows)}
${figures.length === 0 ? "" : html`<dl>${figures.map(([name, value]) => html`<dt>${name}</dt><dd>${String(value)}</dd>`)}</dl>`}</details>`;
  });
  return html`<h2 id="benches">Benches</h2>
<p>Measured at other times than this run, on the machines they name, and committed with the source. Figures of one bench may be compared with each other and with nothing else.</p>${parts}`;
}

/** Where it ran, and the packages it ships with. */
export function environment({ environment: at, sbom, hardware }) {
  const facts = [
    ["commit", at.commit],
    ["changed on top of it", at.changed.length === 0 ? "nothing" : at.changed.join(", ")],
    ["backends", at.backends.join(", ")],
    ["GPU", at.gpus.length === 0 ? "none" : at.gpus.join(", ")],
    ["driver", at.driver],
    ["Node.js", `${at.node}, npm ${at.npm}`],
    ["system", `${at.os}, kernel ${at.kernel}, ${at.architecture}`],
    ["processor", `${at.cpu}, ${counted(at.cores, "core")}, ${at.memoryGiB} GiB`],
    ...Object.entries(at.tools),
  ];
  const packages = sbom.components ?? [];
  return html`<h2 id="environment">Environment</h2>
<dl>${facts.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>
<details><summary>${counted(packages.length, "package")} at run time: <a href="sbom.cdx.json">sbom.cdx.json</a> (CycloneDX)</summary><ul>${packages.map(({ name, version }) => html`<li>${name} ${version}</li>`)}</ul></details>
${hardware.length === 0 ? "" : html`<h3>Results on GPUs, from other visits</h3><ul>${hardware.map((file) => html`<li><a href="hardware/${file}">${file}</a></li>`)}</ul>`}`;
}
