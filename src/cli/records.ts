/**
 * Records on standard output: a table where it fits, or one block for each record where the terminal is too narrow.
 * A pipe gets the table, however wide: programs cut it, or ask for `--json`.
 */
import { printable } from "../bytes.ts";
import { type Colors, colorsFor, type Host } from "./host.ts";

/** A cell; with a tone it is coloured. */
export type Cell = string | { readonly text: string; readonly tone: "good" | "bad" };

export interface Column {
  readonly title: string;
  /** Figures stand at the right. */
  readonly right?: true;
}

/** What stands where there is nothing to say; a block leaves it out. */
export const NONE = "-";
const GAP = "  ";
const textOf = (cell: Cell): string => printable(typeof cell === "string" ? cell : cell.text);
/** Characters as terminals count them, nearly: code points. */
const widthOf = (text: string): number => Array.from(text).length;

function paint(cell: Cell, text: string, colors: Colors): string {
  if (typeof cell === "string") return text;
  return cell.tone === "good" ? colors.green(text) : colors.red(text);
}

/** Text of at most `width` characters; what is left out is marked. */
function cut(text: string, width: number): string {
  const letters = Array.from(text);
  return letters.length <= width ? text : `${letters.slice(0, Math.max(0, width - 1)).join("")}…`;
}

function asBlocks(
  columns: readonly Column[],
  rows: readonly (readonly Cell[])[],
  width: number,
  colors: Colors,
): string {
  const labelWidth = Math.max(...columns.slice(1).map(({ title }) => title.length));
  const blocks = rows.map(([head = "", ...cells]) => {
    const lines = cells.map((cell, index) => {
      if (cell === NONE) return "";
      const label = (columns[index + 1]?.title ?? "").toLowerCase().padEnd(labelWidth);
      return `${GAP}${label}${GAP}${paint(cell, cut(textOf(cell), width - labelWidth - 2 * GAP.length), colors)}\n`;
    });
    return `${paint(head, cut(textOf(head), width), colors)}\n${lines.join("")}`;
  });
  return blocks.join("\n");
}

/** Prints records, one cell for each column. The first column is what a record is called. */
export function printRecords(host: Host, columns: readonly Column[], rows: readonly (readonly Cell[])[]): void {
  const colors = colorsFor(host, host.outIsTerminal);
  const widths = columns.map(({ title }, index) =>
    Math.max(title.length, ...rows.map((row) => widthOf(textOf(row[index] ?? "")))),
  );
  const tableWidth = widths.reduce((sum, width) => sum + width, GAP.length * (columns.length - 1));
  const terminalWidth = host.columns || 80;
  if (host.outIsTerminal && tableWidth > terminalWidth) {
    host.out(asBlocks(columns, rows, terminalWidth, colors));
    return;
  }
  const line = (cells: readonly Cell[]): string =>
    columns
      .map(({ right }, index) => {
        const cell = cells[index] ?? "";
        const text = textOf(cell);
        const space = " ".repeat((widths[index] ?? 0) - widthOf(text));
        const painted = paint(cell, text, colors);
        return right === true ? `${space}${painted}` : `${painted}${space}`;
      })
      .join(GAP)
      .trimEnd();
  host.out([columns.map(({ title }) => title), ...rows].map((cells) => `${line(cells)}\n`).join(""));
}

/** Prints what belongs to one thing: a label and its value on each line. Values that are undefined are left out. */
export function printFields(host: Host, title: string, fields: Readonly<Record<string, string | undefined>>): void {
  const shown = Object.entries(fields).filter((field): field is [string, string] => field[1] !== undefined);
  const width = Math.max(0, ...shown.map(([label]) => label.length));
  const lines = shown.map(([label, value]) => `${GAP}${label.padEnd(width)}${GAP}${printable(value)}\n`);
  host.out(`${printable(title)}\n${lines.join("")}`);
}
