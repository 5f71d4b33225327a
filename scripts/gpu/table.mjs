/**
 * Tables of a results.json: `node scripts/gpu/table.mjs FILE` prints Markdown for the README. Figures that are not there
 * are left out, and what did not come from a GPU says so in the first line.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const row = (cells) => `| ${cells.join(" | ")} |`;
const table = (head, rows) => (rows.length === 0 ? [] : [row(head), row(head.map(() => "---")), ...rows.map(row), ""]);

/** The data of one question, or an empty object. */
function dataOf(results, step, question) {
  const found = results.steps.find(({ name }) => name === step);
  return found?.data[question]?.data ?? {};
}

/** Whose figures these are, and under which conditions. */
function heading(results) {
  const { device, facts, host } = dataOf(results, "machine", "gpu");
  const { driver, limits, now } = dataOf(results, "machine", "smi");
  const { commit, isDirty, tree } = results.code;
  const version = device?.driverVersion ?? 0;
  const warnings = [
    ...(results.backend === "cuda" ? [] : [`**Backend ${results.backend}: nothing here was shown on hardware.**`, ""]),
    ...(results.quick ? ["**A quick run: sizes are tiny, and times mean nothing.**", ""] : []),
  ];
  const lines = [
    ["GPU", device === undefined ? "none" : `${device.name}, ${Math.round(device.bytesTotal / 2 ** 30)} GiB`],
    ["UUID", device?.uuid],
    [
      "driver",
      [driver?.driver_version, `CUDA ${Math.floor(version / 1000)}.${(version % 1000) / 10}`]
        .filter(Boolean)
        .join(", "),
    ],
    ["ECC", facts === undefined ? undefined : facts.eccEnabled ? "on" : "off"],
    [
      "clocks",
      limits && `SM at most ${limits["clocks.max.sm"]} MHz, now ${now?.["clocks.sm"]}; ${limits["power.limit"]} W`,
    ],
    ["host", host && `${host.cores} × ${host.cpu}, Linux ${host.kernel}, Node.js ${host.node}`],
    ["code", `commit ${commit.slice(0, 12)}${isDirty ? " with changes" : ""}, tree ${tree.slice(0, 12)}`],
    ["when", `${results.begun}${results.ended === null ? " (cut short)" : ""}`],
    ["command", `\`${results.command}\``],
  ];
  return [
    ...warnings,
    ...table(
      ["", ""],
      lines.filter(([, value]) => value),
    ),
  ];
}

function steps(results) {
  const rows = results.steps.map(({ number, name, ok, seconds, data }) => {
    const answers = Object.entries(data);
    const failed = answers.filter(([, answer]) => !answer.ok).map(([question]) => question);
    const unsupported = answers.filter(([, answer]) => answer.unsupported !== undefined).map(([question]) => question);
    const notes = [
      ...(failed.length > 0 ? [`failed: ${failed.join(", ")}`] : []),
      ...(unsupported.length > 0 ? [`unsupported: ${unsupported.join(", ")}`] : []),
    ];
    return [number, name, ok ? "ok" : "**failed**", `${answers.length}`, seconds, notes.join("; ")];
  });
  return table(["step", "name", "", "questions", "s", ""], rows);
}

/** `{ "plain × 64": { gigabytesPerSecond } }` of several questions as a table of variants and block sizes. */
function variants(results) {
  const columns = ["ceiling", "hash-1", "hash-8", "hash-64", "hash-128"].filter((question) =>
    Object.keys(dataOf(results, "throughput", question)).some((key) => key.includes(" × ")),
  );
  const keys = new Set(
    columns.flatMap((question) =>
      Object.keys(dataOf(results, "throughput", question)).filter((key) => key.includes(" × ")),
    ),
  );
  const cell = (key) => (question) => dataOf(results, "throughput", question)[key]?.gigabytesPerSecond ?? "";
  const names = { ceiling: "no memory" };
  const sizes = (question) => {
    const { byteLength } = dataOf(results, "throughput", question);
    return names[question] ?? (byteLength >= 2 ** 30 ? `${byteLength / 2 ** 30} GiB` : `${byteLength / 2 ** 10} KiB`);
  };
  const head = ["SHA-256, GB/s", ...columns.map(sizes)];
  return table(
    head,
    [...keys].map((key) => [key, ...columns.map(cell(key))]),
  );
}

/** Everything with a rate in it. */
function rates(results) {
  const read = dataOf(results, "throughput", "read").read;
  const copies = (question) =>
    Object.entries(dataOf(results, "transfers", question)).map(([size, { toDevice, toHost }]) => [
      `${question === "registered" ? "registered memory" : "cuMemHostAlloc"}, ${size}: to / from the device`,
      `${toDevice} / ${toHost}`,
      "",
    ]);
  const timed = (question) =>
    Object.entries(dataOf(results, "transfers", question))
      .filter(([, figures]) => figures?.gigabytesPerSecond !== undefined)
      .map(([name, { gigabytesPerSecond, loop }]) => [
        question === "upload" ? `upload, ${name}` : name,
        gigabytesPerSecond,
        loop === undefined ? "" : `${loop.p99} / ${loop.max}`,
      ]);
  const rows = [
    ...(read === undefined ? [] : [["memory read by a kernel", read.gigabytesPerSecond, ""]]),
    ...copies("registered"),
    ...copies("host-alloc"),
    ...timed("upload"),
    ...timed("seal"),
  ];
  return table(["what", "GB/s", "event loop late by, ms: p99 / max"], rows);
}

function tenants(results) {
  const answers = Object.entries(dataOf(results, "tenant", "co-tenant"));
  const rows = answers.map(([name, answer]) => {
    const { p50, p99, max } = answer.tenant ?? answer;
    return [name, p50, p99, max, answer.gigabytesPerSecond ?? ""];
  });
  return table(["another process reads 1 GiB, µs", "p50", "p99", "max", "we measure, GB/s"], rows);
}

function faults(results) {
  const found = results.steps.find(({ name }) => name === "faults");
  const rows = Object.entries(found?.data ?? {})
    .filter(([, { data }]) => data.seen !== undefined)
    .map(([name, { data }]) => [
      name,
      data.seen.atEnqueue,
      data.seen.whenSettled,
      data.isUnchanged ? "unchanged" : "**changed**",
    ]);
  return table(["stray access", "at the call", "when settled", "sealed bytes"], rows);
}

/** Everything, as Markdown. */
export function summaryOf(results) {
  const parts = [heading, steps, variants, rates, tenants, faults];
  return parts.flatMap((part) => part(results)).join("\n");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [, , file] = process.argv;
  if (file === undefined) {
    process.stderr.write("usage: node scripts/gpu/table.mjs FILE\n");
    process.exitCode = 2;
  } else process.stdout.write(`${summaryOf(JSON.parse(readFileSync(file, "utf8")))}\n`);
}
