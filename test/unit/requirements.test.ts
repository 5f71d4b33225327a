/** `docs/requirements.json` and the tags in the tests agree: no unknown tag, and no covered row without a test. */
import { readdirSync, readFileSync } from "node:fs";
import ts from "typescript";
import { describe, expect, it } from "vitest";
import { ancestorsOf, nodesOf, readTree, type TreeFile } from "../helpers/house-rules.ts";

const FEATURES = new URL("../../features/", import.meta.url);
const ID = /^VR-[A-Z]{2,4}-\d{2}$/;
/** Anything in brackets that means to be a tag, right or wrong. */
const TAG = /\[(VR-[^\]]*)\]/g;
/** What open rows may arrive with. */
const MILESTONES = "hostile files and sets, real GPUs, audit log, service, attach, attest, proof bundle".split(", ");

/** A row before anything is known of it. */
type Row = Readonly<
  Partial<Record<"id" | "title" | "must" | "origin" | "gpu" | "status" | "arrives" | "note" | "scenario", unknown>>
>;

const ROWS = JSON.parse(
  readFileSync(new URL("../../docs/requirements.json", import.meta.url), "utf8"),
) as readonly Row[];

/** What is wrong with the shape of a row, field by field. */
function faultsOf(row: Row): readonly string[] {
  const isText = (value: unknown): boolean => typeof value === "string" && value.trim() === value && value.length > 0;
  const isOpen = row.status === "open";
  const checks: readonly (readonly [field: string, holds: boolean])[] = [
    ["id", isText(row.id) && ID.test(row.id as string)],
    ["title", isText(row.title)],
    ["must", isText(row.must)],
    ["origin", row.origin === undefined || isText(row.origin)],
    ["gpu", typeof row.gpu === "boolean"],
    ["status", isOpen || row.status === "covered"],
    ["arrives", isOpen ? MILESTONES.includes(row.arrives as string) : row.arrives === undefined],
    ["note", row.note === undefined || isText(row.note)],
    ["scenario", row.scenario === undefined || (isText(row.scenario) && /^none: ./.test(row.scenario as string))],
  ];
  const known = checks.map(([field]) => field);
  const unknown = Object.keys(row).filter((field) => !known.includes(field));
  return [...checks.filter(([, holds]) => !holds).map(([field]) => field), ...unknown];
}

/** A tag, and whether its test is one that runs. */
interface Tag {
  readonly id: string;
  readonly path: string;
  readonly runs: boolean;
}

/** The tags in the strings of a file (titles and tables of titles). Comments do not count, nor do `.todo` and `.skip`. */
function tagsOf(file: TreeFile): readonly Tag[] {
  return nodesOf(file).flatMap((node) => {
    if (!ts.isStringLiteral(node) && !ts.isTemplateLiteralToken(node)) return [];
    const runs = !ancestorsOf(node).some(
      (above) => ts.isCallExpression(above) && /\.(todo|skip)$/.test(above.expression.getText()),
    );
    return [...node.text.matchAll(TAG)].map(([, id = ""]) => ({ id, path: file.path, runs }));
  });
}

const TAGS = readTree()
  .filter(({ path }) => path.startsWith("test/"))
  .flatMap(tagsOf);

/** Tags of scenarios: `@VR-SEAL-01`. `@emulated` is what cannot be asked of a GPU. */
const SCENARIO_TAGS = readdirSync(FEATURES)
  .filter((name) => name.endsWith(".feature"))
  .flatMap((path) =>
    [...readFileSync(new URL(path, FEATURES), "utf8").matchAll(/@(\S+)/g)]
      .map(([, id = ""]) => ({ id, path }))
      .filter(({ id }) => id !== "emulated"),
  );

describe("requirements", () => {
  it("are well-formed", () => {
    const faulty = ROWS.map((row) => ({ row, faults: faultsOf(row) })).filter(({ faults }) => faults.length > 0);
    const named = faulty.map(({ row, faults }) => `${String(row.id)}: ${faults.join(", ")}`);
    expect(named, "rows with fields that are missing, wrong or unknown").toEqual([]);
  });

  it("have ids of their own", () => {
    const ids = ROWS.map((row) => row.id);
    expect(
      ids.filter((id, index) => ids.indexOf(id) !== index),
      "ids that stand there twice",
    ).toEqual([]);
  });

  it("are what the tags in the tests name", () => {
    const ids = new Set(ROWS.map((row) => row.id));
    expect(SCENARIO_TAGS.length).toBeGreaterThan(50);
    const strays = [...TAGS, ...SCENARIO_TAGS]
      .filter(({ id }) => !ID.test(id) || !ids.has(id))
      .map(({ id, path }) => `${id} in ${path}`);
    expect(strays, "tags that are malformed or name no row").toEqual([]);
  });

  it("have a test each, where they are called covered", () => {
    const tested = new Set(TAGS.filter(({ runs }) => runs).map(({ id }) => id));
    const covered = ROWS.filter((row) => row.status === "covered").map((row) => String(row.id));
    expect(
      covered.filter((id) => !tested.has(id)),
      "covered rows that no test title carries",
    ).toEqual([]);
  });
});

/** Ids of covered rows that neither have a scenario nor say why there is none, or do both. */
function unsettled(rows: readonly Row[], scenarioTags: readonly { readonly id: string }[]): readonly unknown[] {
  const tagged = new Set(scenarioTags.map(({ id }) => id));
  return rows
    .filter(({ id, status, scenario }) => status === "covered" && tagged.has(String(id)) === (scenario !== undefined))
    .map(({ id }) => id);
}

describe("[VR-PRF-03] behaviour", () => {
  it("of every requirement has a scenario, or the row says why nobody could see it", () => {
    expect(unsettled(ROWS, SCENARIO_TAGS)).toEqual([]);
    const row = { id: "VR-MEM-01", status: "covered" };
    expect(unsettled([row], []), "neither").toEqual(["VR-MEM-01"]);
    expect(unsettled([{ ...row, scenario: "none: x" }], [{ id: "VR-MEM-01" }]), "both").toEqual(["VR-MEM-01"]);
  });

  it("is described group by group, in at least 50 scenarios with names of their own", () => {
    const groups = readdirSync(FEATURES).filter((name) => name.endsWith(".feature"));
    const wanted = [
      ..."seal verify extended-verification multi-shard security error-recovery policy concurrent-access".split(" "),
      ..."stress signature-robustness audit attestation attach service".split(" "),
    ];
    expect(groups).toEqual(expect.arrayContaining(wanted.map((name) => `${name}.feature`)));
    const names = groups.flatMap((group) =>
      [...readFileSync(new URL(group, FEATURES), "utf8").matchAll(/^ {2}Scenario(?: Outline)?: (.+)$/gm)].map(
        ([, name]) => `${group}: ${name}`,
      ),
    );
    expect(names.length).toBeGreaterThanOrEqual(50);
    expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
  });
});

describe("the checks of requirements bite", () => {
  const valid = { id: "VR-MEM-01", title: "a", must: "b", gpu: false, status: "covered" };

  it.each([
    ["id", { ...valid, id: "VR-MEM-1" }],
    ["id", { ...valid, id: "x VR-MEM-01" }],
    ["title", { ...valid, title: "" }],
    ["must", { ...valid, must: " b" }],
    ["origin", { ...valid, origin: 1 }],
    ["gpu", { ...valid, gpu: "no" }],
    ["status", { ...valid, status: "done" }],
    ["arrives", { ...valid, status: "open" }],
    ["arrives", { ...valid, status: "open", arrives: "some day" }],
    ["arrives", { ...valid, arrives: "attest" }],
    ["note", { ...valid, note: "" }],
    ["scenario", { ...valid, scenario: "later" }],
    ["notes", { ...valid, notes: "a field nobody knows" }],
  ])("a faulty %s", (field, row) => {
    expect(faultsOf(row)).toEqual([field]);
    expect(faultsOf(valid)).toEqual([]);
  });

  it("tags count in strings, not in comments, and not where the test does not run", () => {
    const tag = (id: string): string => ["[VR", "-", id, "]"].join("");
    const text = `
      // ${tag("MEM-01")}
      it("${tag("MEM-02")} ${tag("MEM-03")} title", () => {});
      it(\`${tag("MEM-04")} of \${count}\`, () => {});
      it.each(["${tag("MEM-05")} row"])("%s", () => {});
      it.todo("${tag("MEM-06")} later");
      describe.skip("part", () => { it("${tag("MEM-7")}", () => {}); });
    `;
    const tags = tagsOf({ path: "test/unit/a.test.ts", text });
    expect(tags.filter(({ runs }) => runs).map(({ id }) => id.slice(-2))).toEqual(["02", "03", "04", "05"]);
    expect(tags.filter(({ runs }) => !runs).map(({ id }) => id.slice(-2))).toEqual(["06", "-7"]);
  });
});
