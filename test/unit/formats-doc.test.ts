/**
 * The commands of docs/formats.md, run as printed: each example of a format is computed by tools that nobody here wrote
 * (`vram`, `node` and `npx` fail there), and what they print is what the page shows, to the byte. Our own code is held against the same values beside this
 * (formats-doc-code, formats-doc-keys).
 */
import { describe, expect, it } from "vitest";
import { EXAMPLES, EXAMPLES_MS, missingTools, PAGE, runExamples, sectionOf } from "../helpers/formats-page.ts";

const missing = missingTools();
const why = missing.length === 0 ? "" : ` (skipped: no ${missing.join(", no ")} here)`;
if (missing.length > 0) process.stderr.write(`formats-doc: skipped what needs ${missing.join(", ")}\n`);

/** Formats that the page tells in bytes; those of other pages are linked in its first table. */
const WORKED = [
  ...["Digests", "Keys from the root key", "Seals", "Ids and names", "What a path stands for", "safetensors", "GGUF"],
  ...["Audit log", "Wanted set", "API tokens", "Statements", "Evidence of a GPU", "Attach messages", "Signing keys"],
];

describe("docs/formats.md", () => {
  it.skipIf(missing.length > 0)(
    `[VR-SEAL-02] [VR-AUD-02] shows what tools of others print${why}`,
    { timeout: EXAMPLES_MS + 10_000 },
    () => {
      const printed = runExamples();
      for (const [index, { heading, commands, shown }] of EXAMPLES.entries()) {
        expect(printed[index], `${heading}, line ${commands.line}`).toBe(shown);
      }
    },
  );

  it("has an example for every format, with what it prints", () => {
    expect([...new Set(EXAMPLES.map(({ heading }) => heading))]).toEqual(WORKED);
    expect(EXAMPLES.filter(({ shown }) => shown === undefined)).toEqual([]);
  });

  it("leads on where another page has the format", () => {
    const links = [...PAGE.text.matchAll(/\]\(([a-z-]+\.(?:md|toml|json))/g)].map(([, page]) => page);
    const pages = ["seal", "audit", "statement", "attach", "config", "api", "narration", "metrics", "cli", "errors"];
    for (const page of [...pages, "proof"]) expect(links).toContain(`${page}.md`);
    expect(sectionOf("Proof bundle").trim().split("\n")).toHaveLength(1);
  });
});
