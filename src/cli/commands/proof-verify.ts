/** `vram proof verify`: is a proof bundle what was signed? No service, no state, no GPU. */
import { printable } from "../../bytes.ts";
import { type BundleContent, type CheckedBundle, checkBundle } from "../../proof/check.ts";
import { EXIT } from "../exit.ts";
import { colorsFor, type Host } from "../host.ts";
import { printJson } from "../json.ts";
import { readSmallFile } from "../read-file.ts";

export interface ProofVerifyOptions {
  readonly json?: true;
  readonly pub?: string;
}

/** A PEM of P-256 has 178 bytes; what is larger is none. */
const KEY_BYTES = 16 * 1024;
/** Faults that are printed; `--json` has all. */
const FAULTS_SHOWN = 20;

/** Lines about a bundle that is whole: what was checked here, and what is only said in it. */
function linesOf(content: BundleContent) {
  const { files, keyId, keyGiven, result, partial, commit, counts, requirements, onHardware } = content;
  const { passed, failed, skipped } = counts;
  const signer = keyGiven
    ? { shown: true, words: `signed by the key you gave: ${keyId}` }
    : { shown: false, words: `signed by the key that lies in it, ${keyId}: whose that is was not checked (--pub)` };
  return [
    { shown: true, words: `${files} files, each as it was when it was signed; none is missing, none was added` },
    signer,
    {
      shown: true,
      words: `its result is what its lists say: ${result}, ${passed} passed, ${failed} failed, ${skipped} skipped`,
    },
    {
      shown: false,
      words: commit === undefined ? "it names no commit" : `that this was commit ${commit}, and that it ran`,
    },
    { shown: true, words: "its matrix is what its lists say" },
    {
      shown: false,
      words: `that these are all requirements: ${requirements.all}, of which ${requirements.shownWithoutGpu} are shown without a GPU, ${requirements.failed} failed, and ${requirements.shownOnGpu} are shown on one`,
    },
    ...(partial === undefined ? [] : [{ shown: false, words: `not the whole suite: ${printable(partial)}` }]),
    { shown: false, words: "that its pages say what its lists say: they were hashed, not read" },
    onHardware > 0
      ? { shown: false, words: `that ${onHardware} of them passed on a GPU` }
      : { shown: false, words: "nothing in it was shown on a GPU" },
  ];
}

function print(host: Host, folder: string, checked: CheckedBundle): void {
  const colors = colorsFor(host, host.outIsTerminal);
  if (checked.ok) {
    const lines = linesOf(checked).map(({ shown, words }) =>
      shown ? `${colors.green("✓")} ${words}` : `${colors.yellow("·")} ${words}`,
    );
    lines.push("✓ was verified here; · rests on the signer's word");
    host.out(`${printable(folder)}\n${lines.join("\n")}\n`);
    return;
  }
  const shown = checked.faults.slice(0, FAULTS_SHOWN);
  for (const { kind, path, words } of shown) host.out(`${colors.red("✗")} ${kind}: ${printable(path)}: ${words}\n`);
  const more = checked.faults.length - shown.length;
  if (more > 0) host.out(`and ${more} more, which --json lists\n`);
}

/** Runs the command. Exit 0 if the bundle is what was signed, whatever its result is; 3 if it is not. */
export async function runProofVerify(
  host: Host,
  [folder = ""]: readonly string[],
  { json, pub }: ProofVerifyOptions,
): Promise<number> {
  const publicKey = pub === undefined ? undefined : Buffer.from(await readSmallFile(pub, KEY_BYTES)).toString("utf8");
  const checked = await checkBundle(folder, {
    ...(publicKey === undefined ? {} : { publicKey }),
    signal: host.signal,
  });
  if (json === true) printJson(host, "proof-verify", checked);
  else print(host, folder, checked);
  return checked.ok ? EXIT.ok : EXIT.mismatch;
}
