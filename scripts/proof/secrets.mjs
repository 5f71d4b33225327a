/**
 * What must not be in a proof bundle. It is refused, not blacked out: a secret in a report is a mistake to be found, and a
 * report with a hole in it proves nothing. What was found is never said, only where and of which kind.
 */
import { homedir } from "node:os";
import { ROOT } from "../quickstart.mjs";
import { html } from "./html.mjs";

/** Kinds of secrets that have a form of their own. */
const FORMS = [
  ["a private key in PEM", /-----BEGIN [A-Z ]*PRIVATE KEY-----/],
  ["a private key of a signed note", /PRIVATE\+KEY\+[^+\s]+\+[0-9a-f]{8}\+/],
  ["an API token", /\bvram_(use|operate)_[A-Za-z0-9_-]{43}/],
  ["a token of a code host", /\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22,}|glpat-[\w-]{20,}|npm_[A-Za-z0-9]{36})\b/],
  ["a cloud key", /\b(AKIA|ASIA)[A-Z0-9]{16}\b/],
  ["a password in an address", /\b[a-z][a-z0-9+.-]*:\/\/[^\s/:@]+:[^\s/:@]+@/],
];

/** Variables whose value is a secret by its name. */
const SECRET_NAME =
  /TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(API|PRIVATE|SIGNING|ACCESS|ENCRYPTION|DEPLOY|SSH)_?KEY|_(PASS|PAT|PWD|AUTH)$/i;

/** As it is, and as JSON and HTML write it. */
const formsOf = (value) => [...new Set([value, JSON.stringify(value).slice(1, -1), html`${value}`.toString()])];

/** A shorter value would be found in every text. */
const VALUE_LENGTH = 8;

const literal = (text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");

/** Kinds of what must not be there, each with a form to look for. */
function formsIn(env) {
  const values = Object.entries(env)
    .filter(([name, value]) => SECRET_NAME.test(name) && (value ?? "").length >= VALUE_LENGTH)
    .flatMap(([name, value]) => formsOf(value).map((form) => [`the value of ${name}`, new RegExp(literal(form))]));
  const places = [ROOT.replace(/\/$/, ""), homedir()]
    .filter((place) => place.length > 1)
    // "/app/" is a place, and no part of "docs/app/".
    .map((place) => ["a path of this machine", new RegExp(`(?<![\\w.~-])${literal(place)}/`)]);
  return [...FORMS, ...values, ...places];
}

/**
 * Finds secrets in the text of a file: keys and tokens by their form, values of this process's environment that are secret
 * by their name, and where this person's files lie.
 * @param {string} path
 * @param {string} text
 * @param {NodeJS.ProcessEnv} env
 * @returns {string[]} `PATH, line N: KIND`
 */
export function secretsIn(path, text, env = process.env) {
  return formsIn(env).flatMap(([kind, form]) =>
    [...text.matchAll(new RegExp(form, `${form.flags}g`))].map(
      ({ index }) => `${path}, line ${text.slice(0, index).split("\n").length}: ${kind}`,
    ),
  );
}
