/**
 * What must not be in a proof bundle. It is refused, not blacked out: a secret in a report is a mistake to be found, and a
 * report with a hole in it proves nothing. What was found is never said, only where and of which kind.
 */
import { homedir } from "node:os";
import { ROOT } from "../quickstart.mjs";

/** Kinds of secrets that have a form of their own; runners cut long values, so the beginning of a token is enough. */
const FORMS = [
  ["a private key in PEM", /-----BEGIN [A-Z ]*PRIVATE KEY-----/],
  ["a private key of a signed note", /PRIVATE\+KEY\+[^+\s]+\+[0-9a-f]{8}\+/],
  ["an API token", /\bvram_(use|operate)_[A-Za-z0-9_-]{12,}/],
  ["a token of a code host", /\b(gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|npm_[A-Za-z0-9]{16,})/],
  ["a cloud key", /\b(AKIA|ASIA)[A-Z0-9]{16}\b/],
  ["a password in an address", /\b[a-z][a-z0-9+.-]*:\/\/[^\s/:@]+:[^\s/:@]+@/],
];

/** Variables whose value is a secret by its name. */
const SECRET_NAME =
  /TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(API|PRIVATE|SIGNING|ACCESS|ENCRYPTION|DEPLOY|SSH)_?KEY|_(PASS|PAT|PWD|AUTH)$/i;

/** A shorter value would be found in every text. */
const VALUE_LENGTH = 8;
/** Runners cut long values: their beginning is enough. */
const STEM_LENGTH = 16;

/** Text as a regular expression that finds it. */
export const literal = (text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");

/** Finds a folder and what is below it: "/app" is one, and no part of "docs/app" or "/apple". */
export const placeForm = (folder) => new RegExp(`(?<![\\w.~-])${literal(folder.replace(/\/$/, ""))}(?![\\w.-])`, "g");

/** What gives a value away: each of its lines, and where that is long, how it begins. */
const stemsOf = (value) =>
  value
    .split("\n")
    .map((line) => line.trim().slice(0, STEM_LENGTH))
    .filter((stem) => stem.length >= VALUE_LENGTH);

/** A line without what JSON, HTML and printing put into it, as often as one was put into another. */
function plain(line) {
  const entities = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'" };
  let text = line;
  for (let depth = 0; depth < 4; depth += 1) {
    text = text
      .replace(/&(amp|lt|gt|quot|#39);/g, (entity) => entities[entity])
      .replace(/\\([nrt"'`\\/])/g, (_, char) => ({ n: "\n", r: "\r", t: "\t" })[char] ?? char);
  }
  return text;
}

/** Kinds of what must not be there, each with how to find it. */
function formsIn(env) {
  const values = Object.entries(env)
    .filter(([name, value]) => SECRET_NAME.test(name) && (value ?? "").trim().length >= VALUE_LENGTH)
    .flatMap(([name, value]) =>
      stemsOf(plain(value)).map((stem) => [`the value of ${name}`, new RegExp(literal(stem))]),
    );
  const places = [ROOT, homedir()]
    .filter((place) => place.length > 1)
    .map((place) => ["a path of this machine", new RegExp(placeForm(place), "")]);
  return [...FORMS, ...values, ...places];
}

/**
 * Finds secrets in the text of a file: keys and tokens by their form, values of this process's environment that are secret
 * by their name, and where this person's files lie.
 * @param {string} path
 * @param {string} text
 * @param {NodeJS.ProcessEnv} env
 * @returns {string[]} `PATH, line N: KIND`, each once
 */
export function secretsIn(path, text, env = process.env) {
  const forms = formsIn(env);
  const found = text.split("\n").flatMap((line, index) => {
    const read = plain(line);
    return forms
      .filter(([, form]) => form.test(line) || form.test(read))
      .map(([kind]) => `${path}, line ${index + 1}: ${kind}`);
  });
  return [...new Set(found)];
}
