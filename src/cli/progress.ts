/** A progress line on a terminal: done, total, rate, time left. Silent anywhere else. */
import { formatBytes, printable } from "../bytes.ts";
import type { Host } from "./host.ts";

export interface Progress {
  /** Shows how far it is; redrawn at most ten times a second. */
  update(label: string, bytesDone: number, bytesTotal: number): void;
  /** Removes the line. */
  clear(): void;
}

const REDRAW_MS = 100;
const BAR_COLUMNS = 24;

/** `12 s`, `3 min`. */
function formatSeconds(seconds: number): string {
  return seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`;
}

/** The line for one moment, at most `columns` wide. */
export function progressLine(
  label: string,
  bytesDone: number,
  bytesTotal: number,
  elapsedMs: number,
  columns: number,
): string {
  const fraction = bytesTotal === 0 ? 1 : Math.min(1, bytesDone / bytesTotal);
  const filled = Math.round(fraction * BAR_COLUMNS);
  const rate = elapsedMs > 0 ? bytesDone / (elapsedMs / 1000) : 0;
  const left = rate > 0 ? `, ${formatSeconds((bytesTotal - bytesDone) / rate)} left` : "";
  const bar = `${"█".repeat(filled)}${"░".repeat(BAR_COLUMNS - filled)}`;
  const figures = `${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)}, ${formatBytes(rate)}/s${left}`;
  return Array.from(`${bar} ${figures}  ${printable(label)}`)
    .slice(0, Math.max(0, columns - 1))
    .join("");
}

/** A progress line on the host's talk output; does nothing unless that is a terminal. */
export function createProgress(host: Host, now: () => number = () => performance.now()): Progress {
  if (!host.errIsTerminal) return { update: () => undefined, clear: () => undefined };
  let start: { readonly label: string; readonly at: number } | undefined;
  let drawnAt = Number.NEGATIVE_INFINITY;
  let visible = false;
  return {
    update: (label, bytesDone, bytesTotal) => {
      const at = now();
      if (start?.label !== label) start = { label, at };
      if (at - drawnAt < REDRAW_MS) return;
      drawnAt = at;
      visible = true;
      host.err(`\r\u001b[2K${progressLine(label, bytesDone, bytesTotal, at - start.at, host.columns || 80)}`);
    },
    clear: () => {
      if (visible) host.err("\r\u001b[2K");
      visible = false;
    },
  };
}
