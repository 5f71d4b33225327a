/**
 * The report of the verifier in words: the verdict, what is wrong and where, what was looked at, and what these files
 * and keys cannot tell. The last part is no small print: a log that was put back as a whole looks sound.
 */
import { join } from "node:path";
import type { Doubt, EpochRange, LogReport, Problem } from "../../audit/log-report.ts";
import { CHECKPOINT_FILE } from "../../audit/stored-checkpoints.ts";
import { printable } from "../../bytes.ts";
import { type Colors, colorsFor, type Host } from "../host.ts";
import type { KeySource, Verified } from "./audit-verify.ts";

/** `1 entry`, `17 entries`. */
const count = (figure: number, one: string, many: string): string => `${figure} ${figure === 1 ? one : many}`;
const entries = (figure: number): string => count(figure, "entry", "entries");

/** `3`, `3 to 7`. */
const span = (first: number, last: number): string => (first === last ? `${first}` : `${first} to ${last}`);

/** `epoch 18`, `epochs 1 to 3, 7`. */
function epochs(ranges: readonly EpochRange[]): string {
  const isOne = ranges.length === 1 && ranges[0]?.first === ranges[0]?.last;
  return `${isOne ? "epoch" : "epochs"} ${ranges.map(({ first, last }) => span(first, last)).join(", ")}`;
}

/** Where a problem is: `file` and `checkpoint` are about no entry. */
function placeOf({ reason, seq, lastSeq }: Problem): string {
  return reason === "file" || reason === "checkpoint" ? "no entry" : `seq ${span(seq, lastSeq)}`;
}

const PROBLEMS_SHOWN = 20;

function problemLines({ firstBad, problems, problemsTotal, macs }: LogReport): string[] {
  if (firstBad === undefined) return [];
  const others = problems.filter((problem) => problem !== firstBad).slice(0, PROBLEMS_SHOWN);
  const show = (problem: Problem): string => `${placeOf(problem)}: ${problem.reason}: ${problem.message}`;
  const rest = problemsTotal - 1 - others.length;
  const isForeign = firstBad.reason === "mac" && macs.linesChecked === 0;
  return [
    `    ${show(firstBad)}`,
    ...(isForeign ? ["    no mac held at all: is the epoch key one of this log?"] : []),
    ...(others.length > 0 ? ["  further"] : []),
    ...others.map((problem) => `    ${show(problem)}`),
    ...(rest > 0 ? [`    and ${rest} more`] : []),
  ];
}

/** Whoever gives a key asks for what was signed with it. A log gets its first log checkpoint a second after it begins. */
const isUnsigned = ({ checkpoints: { key, matched }, remembered, entries: size }: LogReport): boolean =>
  key === "given" && matched === 0 && remembered !== "matches" && size > 0;

function verdictLine(report: LogReport, colors: Colors): string {
  const { verdict, firstBad, entries: size } = report;
  if (verdict === "intact" && isUnsigned(report)) {
    const which = size === 1 ? "the one entry" : `any of the ${size} entries`;
    return `${colors.yellow("!")} unsigned: nothing that was signed with the given key covers ${which}`;
  }
  if (verdict === "intact") return `${colors.green("✓")} intact: nothing wrong was found in ${entries(size)}`;
  const first = firstBad === undefined ? "" : `: first at ${placeOf(firstBad)}, ${firstBad.reason}`;
  return `${colors.red("✗")} damaged${first}`;
}

/** Which macs were checked, with which key, and why the others could not be. */
function macLines({ macs: { linesChecked, checked, unchecked } }: LogReport, source: KeySource): [string, string][] {
  const key =
    source.from === "none"
      ? source.because
      : `with the key of epoch ${source.epoch}, ${source.from === "state" ? "the state's own" : "as given"}`;
  const held = checked.length === 0 ? "none" : `${entries(linesChecked)} of ${epochs(checked)}`;
  const lines: [string, string][] = [["macs checked", `${held}; ${key}`]];
  if (unchecked.length === 0) return lines;
  const because =
    source.from === "none"
      ? "needs the key of that epoch or an earlier one"
      : "no later key leads back to them; the escrow file would (--epoch-key)";
  return [...lines, ["not checked", `${epochs(unchecked)}: ${because}`]];
}

const KEY_FROM = {
  given: "as given",
  found: "taken from the log's own folder; --log-key gives one from elsewhere",
  none: "none: no signature was checked",
} as const;

const REMEMBERED = {
  none: "none was given",
  matches: "the log continues it",
  differs: "of another history",
  beyond: "covers more than there is",
  "not-compared": "could not be compared",
} as const;

/** Of a part of a log, those log checkpoints are compared that lie within it. */
function checkpointText({ checkpoints, problems, problemsTotal }: LogReport): string {
  const { key, stored, matched, covered } = checkpoints;
  if (key === "none") return "not looked at without a log key";
  if (stored === 0) return "none that is signed with the log key";
  const hasDiffered = problems.some(({ reason }) => reason === "root" || reason === "truncated");
  const isKnown = !hasDiffered && problems.length === problemsTotal;
  if (matched === stored || !isKnown) return `${matched} of ${stored} match, covering ${entries(covered)}`;
  const beyond = `${stored - matched} beyond what was read`;
  return matched === 0
    ? `none compared; ${beyond}`
    : `${matched} of ${matched} compared match, covering ${entries(covered)}; ${beyond}`;
}

/** What the state's own key says of the log's end. */
function stateKeyText({ stateKey, lastEpoch }: Verified): string | undefined {
  if (stateKey === undefined) return undefined;
  if ("because" in stateKey) {
    return `not read, so that a log that was put back is not found by it: ${stateKey.because}`;
  }
  const end = lastEpoch === undefined ? "where the log ends is not known" : `the log ends in epoch ${lastEpoch}`;
  return `of epoch ${stateKey.epoch}, and ${end}`;
}

/** What was looked at, as pairs of a heading and a text. */
function lookedAt(verified: Verified): [string, string][] {
  const { report, segments, prunedSegments, keySource, isToTheEnd } = verified;
  const { checkpoints, inProgressBytes } = report;
  const stateKey = stateKeyText(verified);
  const lines = count(report.linesRead, "line", "lines");
  const read = isToTheEnd ? `; ${lines} read` : ` up to where reading ended; ${lines} looked at`;
  const kept = report.prunedEntries === 0 ? "" : `, ${report.prunedEntries} pruned and known by their hashes only`;
  const gone = prunedSegments === 0 ? "" : `, ${prunedSegments} of them pruned`;
  const looked: [string, string][] = [
    ["entries", `${report.entries}${read}${kept}`],
    ["segments", `${segments}${gone}`],
    ...macLines(report, keySource),
    ...(stateKey === undefined ? [] : [["state's key", stateKey] satisfies [string, string]]),
    ["log checkpoints", checkpointText(report)],
    ["log key", KEY_FROM[checkpoints.key]],
    ["remembered", REMEMBERED[report.remembered]],
  ];
  if (inProgressBytes > 0)
    looked.push(["in progress", `${inProgressBytes} bytes of a last line that is not whole yet`]);
  return looked;
}

const COLUMNS = 17;

/** A doubt in words; the two that a remembered log checkpoint would end say up to where one did. */
function doubtLine({ what, fromSeq, message }: Doubt): string {
  const behind = fromSeq === 0 ? "" : `, behind the first ${entries(fromSeq)}`;
  if (what === "truncation") return `truncation: that entries were cut off the end${behind}`;
  if (what === "rollback-or-fork") {
    return `rollback, fork: that this is an earlier state, or others are shown another log${behind}`;
  }
  return `${what}: ${message}${fromSeq === 0 ? "" : `, from seq ${fromSeq}`}`;
}

/** What nobody can tell from what was there, and what would help next time. */
function doubtLines({ report, folder }: Verified): string[] {
  const lines = report.notExcluded.map((doubt) => `    ${doubtLine(doubt)}`);
  const path = join(folder, CHECKPOINT_FILE);
  return [
    "  not excluded",
    ...lines,
    `  to find truncation, rollback and forks next time: copy ${path}`,
    "  to a place that this machine cannot change, and give it with --since",
  ];
}

/** Prints the report as text. */
export function printReport(host: Host, verified: Verified): void {
  const colors = colorsFor(host, host.outIsTerminal);
  const looked = lookedAt(verified).map(([what, text]) => `  ${what.padEnd(COLUMNS)}${text}`);
  const lines = [...problemLines(verified.report), ...looked, ...doubtLines(verified)].map(printable);
  host.out(`${[verdictLine(verified.report, colors), ...lines].join("\n")}\n`);
}
