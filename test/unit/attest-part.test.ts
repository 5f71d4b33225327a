/** Parts of a file, and the file: a statement about one does not pass for one about the other. */
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import type { SetPart } from "../../src/attest/check.ts";
import type { Predicate } from "../../src/attest/statement.ts";
import { claiming, madeStatement, modelOf } from "../helpers/statements.ts";

const PART = Buffer.from("weights ".repeat(1000));
const HEAD = Buffer.from("abc");
const REST = Buffer.from("something else altogether");

const placed = (change: Partial<Predicate["shard"]>) => claiming(({ shard }) => ({ shard: { ...shard, ...change } }));

describe("[VR-ATT-01] a statement about a part of a file", () => {
  const second = madeStatement({ bytes: PART, alter: placed({ sourceOffset: 3, shardIndex: 1, totalShards: 4 }) });
  const model = modelOf(Buffer.concat([HEAD, PART, REST]));

  it("holds for the part that is asked for, and says which bytes those are", async () => {
    const checked = await second.check({ model, part: { index: 2, total: 4 } });
    const findings = checked.ok ? checked.findings : expect.fail(checked.message);
    const words = findings.find(({ property }) => property === "content")?.words;
    expect(words).toContain("about bytes 3 to 8003 of your file (the signer calls them part 2 of 4): fsverity:");
  });

  it.each<[string, SetPart | undefined, string]>([
    ["nobody asked for a part", undefined, "ask for it: --part 2/4"],
    ["another part was asked for", { index: 1, total: 4 }, "it is about part 2 of 4"],
    ["a part of another set was asked for", { index: 2, total: 3 }, "it is about part 2 of 4"],
    ["the file was asked for", { index: 1, total: 1 }, "it is about part 2 of 4"],
  ])("is refused where %s", async (_what, part, why) => {
    const checked = await second.check({ model, part });
    expect(checked).toMatchObject({ ok: false, fault: "part", message: expect.stringContaining(why) as string });
  });

  it("is held against its digest without a file, whatever part that is", async () => {
    const { digest } = second.statement.predicate.measurement;
    expect(await second.check({ model: undefined, digest })).toMatchObject({ ok: true });
    const part = { index: 1, total: 4 };
    expect(await second.check({ model: undefined, digest, part })).toMatchObject({ ok: false, fault: "part" });
  });

  it("is refused for other bytes there before anything is said of parts", async () => {
    const other = modelOf(Buffer.concat([REST, PART, HEAD]));
    expect(await second.check({ model: other })).toMatchObject({ fault: "digest" });
    expect(await second.check({ model: other, part: { index: 2, total: 4 } })).toMatchObject({ fault: "digest" });
  });
});

describe("[VR-ATT-01] a statement about a file of a set of files", () => {
  const first = madeStatement({ bytes: PART, alter: placed({ totalShards: 2 }) });

  it("holds for all of that file, whether or not its part is named", async () => {
    expect(await first.check()).toMatchObject({ ok: true });
    expect(await first.check({ part: { index: 1, total: 2 } })).toMatchObject({ ok: true });
  });

  it("does not hold for a longer file that begins with it", async () => {
    expect(await first.check({ model: modelOf(Buffer.concat([PART, REST])) })).toMatchObject({ fault: "part" });
  });
});

describe("[VR-ATT-01] a plain SHA-256 and a file", () => {
  const naming = (sha256: string) =>
    madeStatement({
      bytes: PART,
      alter: (statement) => {
        const [{ name, digest }] = statement.subject;
        return { ...statement, subject: [{ name, digest: { ...digest, sha256 } }] };
      },
    });

  it("have to be of the same bytes: the signer's word is not taken for it", async () => {
    const sha256 = createHash("sha256").update(PART).digest("hex");
    expect(await naming(sha256).check({ digest: `sha256:${sha256}` })).toMatchObject({ ok: true });
    const other = "a".repeat(64);
    const checked = await naming(other).check({ digest: `sha256:${other}` });
    expect(checked).toMatchObject({ ok: false, fault: "digest", message: expect.stringContaining(sha256) as string });
  });
});
