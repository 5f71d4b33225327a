/** `vram attest check`: judges a statement with what the checker has. No service, no state, no native code. */
import { promises } from "node:fs";
import { said } from "../../attest/statement.ts";
import { printable } from "../../bytes.ts";
import { optionsFromEnvironment } from "../../environment.ts";
import { VramError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import { type CheckedStatement, type CheckOptions, checkStatement, type SetPart } from "../../offline.ts";
import { EXIT } from "../exit.ts";
import { parseMs } from "../figures.ts";
import { colorsFor, type Host } from "../host.ts";
import { printJson } from "../json.ts";
import { createProgress } from "../progress.ts";
import { readSmallFile } from "../read-file.ts";
import { warnOfBackend } from "../service-address.ts";

export interface AttestCheckOptions {
  readonly json?: true;
  readonly pub: string;
  readonly digest?: string;
  readonly model?: string;
  readonly part?: string;
  readonly device?: string;
  readonly nonce?: string;
  readonly maxAge?: string;
  readonly logKey?: string;
  readonly evidence?: string;
  readonly acceptBackend?: readonly ("emulated" | "cuda-substituted")[];
}

/** A PEM of P-256 has 178 bytes, a log key about 110; what is larger is neither. */
const KEY_BYTES = 16 * 1024;

const readText = async (path: string): Promise<string> =>
  Buffer.from(await readSmallFile(path, KEY_BYTES)).toString("utf8");

/** A log key as it is written, or the file that has it. */
async function readLogKey(given: string): Promise<string> {
  if (/^[^+\s]+\+[0-9a-f]{8}\+/.test(given)) return given;
  const text = await readText(given);
  return text.endsWith("\n") ? text.slice(0, -1) : text;
}

/** `2/4`, as the names of members of a set have it. */
function parsePart(given: string): SetPart {
  const [, index, total] = /^([1-9]\d{0,8})\/([1-9]\d{0,8})$/.exec(given) ?? [];
  if (index !== undefined && total !== undefined) return { index: Number(index), total: Number(total) };
  throw new VramError("INVALID_ARGUMENT", `--part ${given}: a part is INDEX/TOTAL, from 1`, {
    fix: "give it as 1/4, which is the first of four",
    details: { argument: "--part" },
  });
}

async function optionsOf(host: Host, given: AttestCheckOptions): Promise<CheckOptions> {
  const { pub, digest, model, part, device, nonce, maxAge, logKey, evidence, acceptBackend } = given;
  if (digest === undefined && model === undefined) {
    throw new VramError("INVALID_ARGUMENT", "a statement is checked against what the weights should be", {
      fix: "give --digest DIGEST, as it was published, or --model FILE",
      details: { argument: "--digest" },
    });
  }
  const progress = createProgress(host);
  const { size: total = 0 } =
    (model === undefined ? undefined : await promises.stat(model).catch(() => undefined)) ?? {};
  const { hashThreads } = optionsFromEnvironment(host.env);
  return {
    publicKey: await readText(pub),
    ...(digest === undefined ? {} : { digest }),
    ...(model === undefined ? {} : { model }),
    ...(part === undefined ? {} : { part: parsePart(part) }),
    ...(device === undefined ? {} : { deviceUuid: device }),
    ...(nonce === undefined ? {} : { nonce }),
    ...(maxAge === undefined ? {} : { maxAgeMs: parseMs(maxAge, "--max-age") }),
    ...(logKey === undefined ? {} : { logKey: await readLogKey(logKey) }),
    ...(evidence === undefined ? {} : { evidence: await readSmallFile(evidence, LIMITS.statementBytes) }),
    ...(acceptBackend === undefined ? {} : { acceptBackends: acceptBackend }),
    ...(hashThreads === undefined ? {} : { hashThreads }),
    signal: host.signal,
    onProgress: (done) => (done === total ? progress.clear() : progress.update(model ?? "", done, total)),
  };
}

function print(host: Host, checked: CheckedStatement): void {
  const colors = colorsFor(host, host.outIsTerminal);
  if (!checked.ok) {
    host.out(`${colors.red("✗")} refused (${checked.fault}): ${printable(checked.message)}\n`);
    return;
  }
  const { subject, predicate } = checked.statement;
  warnOfBackend(host, predicate.backend);
  const title = `${said(subject[0].name)}: ${predicate.statementId} of ${predicate.issuedAt}, backend ${predicate.backend}`;
  const lines = checked.findings.map(({ shown, words }) =>
    shown ? `${colors.green("✓")} ${printable(words)}` : `${colors.yellow("·")} ${printable(words)}`,
  );
  lines.push("✓ was verified here; · rests on the signer's word, or on nothing");
  host.out(`${printable(title)}\n${lines.join("\n")}\n`);
}

/** Runs the command. Exit 0 if the statement holds, 5 if it is about a backend that is not accepted, else 3. */
export async function runAttestCheck(
  host: Host,
  [file = ""]: readonly string[],
  options: AttestCheckOptions,
): Promise<number> {
  const terms = await optionsOf(host, options);
  const checked = await checkStatement(await readSmallFile(file, LIMITS.statementBytes), terms);
  if (options.json === true) printJson(host, "attest-check", checked);
  else print(host, checked);
  if (checked.ok) return EXIT.ok;
  return checked.fault === "backend" ? EXIT.policy : EXIT.mismatch;
}
