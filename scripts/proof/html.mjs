/** HTML by template: everything that is put in is escaped, unless it was made by this template itself. */
const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

class Markup {
  constructor(text) {
    this.text = text;
  }

  toString() {
    return this.text;
  }
}

function render(value) {
  if (value === undefined || value === false) return "";
  if (value instanceof Markup) return value.text;
  if (Array.isArray(value)) return value.map(render).join("");
  return String(value).replace(/[&<>"']/g, (char) => ESCAPES[char]);
}

/** A piece of a page. Lists are joined, undefined and false leave nothing. */
export const html = (parts, ...values) =>
  new Markup(parts.map((part, index) => (index === 0 ? part : render(values[index - 1]) + part)).join(""));

/** Text that is no HTML but stands in it as it is: a style sheet. */
export const verbatim = (text) => new Markup(text);

/** 4,105 */
export const number = (value) => value.toLocaleString("en-US");

/** 1 test, 2 tests */
export const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** A commit in short; what was changed on top of it stays. */
export const shortCommit = (commit) => commit.replace(/^([0-9a-f]{12})[0-9a-f]+/, "$1");

/** 950 ms, 12.3 s, 14 min 20 s */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** A word in a coloured frame; the word says it, the colour only helps. */
export const pill = (kind, words) => html`<span class="pill ${kind}">${words}</span>`;

/** A table. Cells are text or markup; a header may be `{ text, end: true }` for figures. */
export function table(headers, rows, { caption } = {}) {
  const ends = headers.map((header) => header.end === true);
  const cell = (value, index) => (ends[index] ? html`<td class="end">${value}</td>` : html`<td>${value}</td>`);
  return html`<div class="wide"><table>${caption === undefined ? "" : html`<caption>${caption}</caption>`}
<thead><tr>${headers.map((header, index) => html`<th scope="col"${ends[index] ? html` class="end"` : ""}>${header.text ?? header}</th>`)}</tr></thead>
<tbody>${rows.map((row) => html`<tr>${row.map(cell)}</tr>\n`)}</tbody></table></div>`;
}

/** A share as a bar, with its figure beside it. `kind` is a class of the style sheet. */
export const bar = (percent, kind = "good") =>
  html`<span class="bar" role="img" aria-label="${percent.toFixed(1)} percent"><i class="${kind}" style="width:${Math.min(100, percent).toFixed(1)}%"></i></span>`;

/** Prose in which code stands between backticks. */
export const prose = (text) =>
  text.split("`").map((part, index) => (index % 2 === 1 ? html`<code>${part}</code>` : html`${part}`));
