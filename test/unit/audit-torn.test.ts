/** Last lines that a crash cut off: set aside, found, settled under a name that is free; nothing is ever lost. */
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { cut, findTorn, setAside, settleTorn } from "../../src/audit/torn.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const bytes = (text: string): Uint8Array => Buffer.from(text);

describe("[VR-AUD-04] a torn line", () => {
  it("is set aside beside its segment, and behind the one of a crash before", async () => {
    const folder = await temporaryFolder();
    await setAside(folder, 3, bytes(""));
    expect(readdirSync(folder)).toEqual([]);
    await setAside(folder, 3, bytes("one"));
    expect(readFileSync(join(folder, "000003.torn.new"), "latin1")).toBe("one");
    await setAside(folder, 3, bytes("two"));
    expect(readFileSync(join(folder, "000003.torn.new"), "latin1")).toBe("one\ntwo");
    expect(readdirSync(folder)).toEqual(["000003.torn.new"]);
  });

  it("is found until it is on record, in the order of the segments", async () => {
    const folder = await temporaryFolder();
    for (const [name, text] of [
      ["000012.torn.new", "abc"],
      ["000002.torn.new", "ab"],
      ["000001.torn", "old"],
      ["000004.torn.new.tmp", "x"],
      ["x000004.torn.new", "x"],
      ["0000005.torn.new", "x"],
    ] as const) {
      writeFileSync(join(folder, name), text);
    }
    expect(await findTorn(folder)).toEqual([
      { segment: 2, byteLength: 2, file: "000002.torn.new" },
      { segment: 12, byteLength: 3, file: "000012.torn.new" },
    ]);
  });

  it("is settled under a name that nothing has", async () => {
    const folder = await temporaryFolder();
    for (const [text, name] of [
      ["first", "000002.torn"],
      ["second", "000002.torn.2"],
      ["third", "000002.torn.3"],
    ] as const) {
      await setAside(folder, 2, bytes(text));
      const [torn] = await findTorn(folder);
      await settleTorn(folder, torn ?? { segment: 0, byteLength: 0, file: "" });
      expect(readFileSync(join(folder, name), "latin1")).toBe(text);
    }
    expect(readdirSync(folder).sort()).toEqual(["000002.torn", "000002.torn.2", "000002.torn.3"]);
    expect(await findTorn(folder)).toEqual([]);
  });

  it("is cut off its segment, whose other bytes stay", async () => {
    const path = join(await temporaryFolder(), "000001.jsonl");
    writeFileSync(path, "line\ntorn");
    await cut(path, 5);
    expect(readFileSync(path, "latin1")).toBe("line\n");
    expect(statSync(path).size).toBe(5);
    await expect(cut(`${path}.none`, 0)).rejects.toMatchObject({ code: "ENOENT" });
  });
});
