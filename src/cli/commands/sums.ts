/**
 * Lists of digests in the form of `sha256sum`: digest, two spaces, name. A name with a backslash or a line break is
 * escaped and its line begins with a backslash (GNU coreutils manual, "md5sum invocation").
 */
import { VramError } from "../../errors.ts";

export interface SumsLine {
  /** `HEX`, `fsverity:HEX` or `sha256:HEX`. */
  readonly digest: string;
  readonly path: string;
}

/** A name as it stands in a list; `mark` goes in front of the line. */
export function escapeName(path: string): { readonly mark: "" | "\\"; readonly name: string } {
  if (!/[\\\n\r]/.test(path)) return { mark: "", name: path };
  return { mark: "\\", name: path.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\r", "\\r") };
}

const UNESCAPED: Record<string, string> = { "\\\\": "\\", "\\n": "\n", "\\r": "\r" };

/** Reads a list. Every line must be one; throws `INVALID_ARGUMENT` naming the first that is not. */
export function parseSums(text: string, listName: string): SumsLine[] {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  if (lines.length === 0) throw new VramError("INVALID_ARGUMENT", `${listName}: no digests in it`);
  return lines.map((line, index) => {
    const match = /^(\\?)((?:fsverity:|sha256:)?[0-9a-f]{64}) {2}(.+)$/.exec(line);
    const [, mark, digest, name] = match ?? [];
    if (digest === undefined || name === undefined) {
      throw new VramError("INVALID_ARGUMENT", `${listName}, line ${index + 1}: not a digest, two spaces and a name`);
    }
    const path = mark === "" ? name : name.replace(/\\[\\nr]/g, (pair) => UNESCAPED[pair] ?? pair);
    return { digest, path };
  });
}
