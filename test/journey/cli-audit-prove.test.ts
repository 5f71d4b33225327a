/** `vram audit prove`: a proof on its way from the log to somebody who has the public key only. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { leafHash } from "../../src/audit/tree.ts";
import { toHex } from "../../src/bytes.ts";
import { filesOf, headOf, lineFiles, makeLog, testSigner, vkeyOf, withLines } from "../helpers/audit-log.ts";
import { privateFile, stateWith } from "../helpers/audit-state.ts";
import { referenceConsistency, referenceInclusion } from "../helpers/audit-tree.ts";
import { vram } from "../helpers/cli.ts";

const LOG = makeLog({ count: 250, segmentLines: 100, epochLines: 40 });
const LEAVES = LOG.lines.map(leafHash);
const lineAt = (seq: number): string => Buffer.from(LOG.lines[seq] ?? []).toString();
const VKEY = vkeyOf(LOG);

const prove = (stateDir: string, ...args: string[]) => vram(["audit", "prove", "--state-dir", stateDir, ...args]);
const check = (file: string, ...args: string[]) =>
  vram(["audit", "prove", "--check", file, "--log-key", VKEY, ...args], { env: { HOME: "/nowhere" } });

describe("vram audit prove", () => {
  it("[VR-AUD-02] makes a proof that holds for whoever has the log's key, and the remembered log checkpoint", async () => {
    const stateDir = await stateWith(LOG);
    const since = await privateFile("since", headOf(LOG, 80));
    for (const seq of [0, 17, 199, 249]) {
      const { code, out, err } = await prove(stateDir, String(seq), "--since", since);
      expect({ code, err }).toEqual({ code: 0, err: "" });
      const file = await privateFile("a.tlog-proof", out);
      const plain = await check(file);
      expect(plain.code).toBe(0);
      expect(plain.out).toContain(
        `✓ entry ${seq} is in the log vram-residency/0123456789abcdef, signed over 250 entries`,
      );
      expect(plain.out).toContain("not judged: that the log continues another log checkpoint");
      const both = await check(file, "--since", since);
      expect(both.code).toBe(0);
      expect(both.out).toContain("the log continues the remembered log checkpoint");
    }
    const alone = await prove(stateDir, "17", "--log-key", VKEY);
    expect(alone.out.startsWith(`c2sp.org/tlog-proof@v1\nextra ${Buffer.from(lineAt(17)).toString("base64")}\n`)).toBe(
      true,
    );
    const file = await privateFile("a.tlog-proof", alone.out);
    expect((await check(file)).out).toBe(
      `✓ entry 17 is in the log vram-residency/0123456789abcdef, signed over 250 entries\n  seal_verified: bytesCovered=69632 device.ordinal=0 device.uuid=EMU-0 durationMs=2.125 story=\n`,
    );
    // A log checkpoint of the same size needs no proof, of another size it does.
    expect((await check(file, "--since", await privateFile("since", headOf(LOG, 250)))).code).toBe(0);
    expect(await check(file, "--since", since)).toMatchObject({ code: 2, out: "" });
  });

  it("[VR-AUD-02] prints the same as one JSON document", async () => {
    const stateDir = await stateWith(LOG);
    const since = await privateFile("since", headOf(LOG, 80));
    const json = JSON.parse((await prove(stateDir, "17", "--since", since, "--json")).out) as object;
    expect(json).toEqual({
      schema: "vram-residency/audit-prove/v1",
      ok: true,
      seq: 17,
      entries: 250,
      pruned: false,
      line: lineAt(17),
      leafHash: toHex(leafHash(LOG.lines[17] ?? new Uint8Array(0))),
      hashes: referenceInclusion(LEAVES, 17).map(toHex),
      checkpoint: Buffer.from(headOf(LOG, 250)).toString(),
      logKey: VKEY,
      logKeyFrom: "found",
      consistency: { from: 80, hashes: referenceConsistency(LEAVES, 80).map(toHex) },
      proof: (await prove(stateDir, "17", "--since", since)).out,
    });
    const file = await privateFile("a.tlog-proof", (json as { proof: string }).proof);
    expect(JSON.parse((await check(file, "--since", since, "--json")).out)).toEqual({
      schema: "vram-residency/audit-prove-check/v1",
      ok: true,
      seq: 17,
      line: lineAt(17),
      origin: "vram-residency/0123456789abcdef",
      entries: 250,
      root: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
      continuesRemembered: true,
    });
  });

  it("[VR-AUD-05] proves a pruned line to whoever kept it", async () => {
    const stateDir = await stateWith(new Map([...filesOf(LOG)].filter(([name]) => name !== "000001.jsonl")));
    const { code, out, err } = await prove(stateDir, "17");
    expect(code).toBe(0);
    expect(out).not.toContain("extra");
    expect(err).toBe("entry 17 was pruned: the proof is about its leaf hash, and the line is not in it\n");
    expect(JSON.parse((await prove(stateDir, "17", "--json")).out)).toMatchObject({ pruned: true, ok: true });
    const file = await privateFile("a.tlog-proof", out);
    const without = await check(file);
    expect(without).toMatchObject({ code: 2, out: "" });
    expect(without.err).toContain("fix   give the line with --line FILE");
    for (const end of ["", "\n"]) {
      expect(await check(file, "--line", await privateFile("line", lineAt(17) + end))).toMatchObject({ code: 0 });
    }
    expect(await check(file, "--line", await privateFile("line", lineAt(18)))).toMatchObject({ code: 3 });
    expect(await check(file, "--line", await privateFile("line", "x".repeat(65_535)))).toMatchObject({ code: 3 });
  });

  it("[VR-AUD-02] makes none from a log that is not what was signed: exit 3, and where to look", async () => {
    const line = Buffer.from(lineAt(17).replace('"bytesCovered":', '"bytesCovered":1'));
    const changed = new Map([...filesOf(LOG), ...lineFiles(withLines(LOG, LOG.lines.with(17, line)))]);
    const stateDir = await stateWith(changed);
    const refused = await prove(stateDir, "17");
    expect(refused).toMatchObject({ code: 3, out: "" });
    expect(refused.err).toContain("no proof: the line of seq 17 and its kept leaf hash differ");
    expect(refused.err).toContain("fix   `vram audit verify`");
    expect(JSON.parse((await prove(stateDir, "17", "--json")).out)).toMatchObject({ ok: false });
    expect((await prove(stateDir, "17", "--json")).code).toBe(3);
    expect((await prove(stateDir, "18")).code).toBe(0);
  });

  it("says up to which entry it can prove, and refuses what is no command", async () => {
    const stateDir = await stateWith(LOG);
    const beyond = await prove(stateDir, "250");
    expect(beyond).toMatchObject({ code: 2, out: "" });
    expect(beyond.err).toContain("covers seq 0 to 249, and not seq 250");
    expect(beyond.err).toContain("one is written within a second of activity");
    for (const args of [[], ["x"], ["17", "--line", "x"], ["17", "--check", "x"], ["--check", "x"]]) {
      expect(await prove(stateDir, ...args), args.join(" ")).toMatchObject({ code: 2, out: "" });
    }
    expect(await vram(["audit", "prove", "--check", "x"])).toMatchObject({ code: 2 });
    rmSync(join(stateDir, "audit/log.vkey"));
    expect(await prove(stateDir, "17")).toMatchObject({ code: 2 });
    expect(await prove(stateDir, "17", "--log-key", VKEY)).toMatchObject({ code: 0 });
    rmSync(join(stateDir, "audit/checkpoint"));
    expect(await prove(stateDir, "17", "--log-key", VKEY)).toMatchObject({ code: 1 });
  });
});

describe("vram audit prove --check", () => {
  it("[VR-AUD-02] says why a proof does not hold, with exit 3", async () => {
    const stateDir = await stateWith(LOG);
    const since = await privateFile("since", headOf(LOG, 80));
    const file = await privateFile("a.tlog-proof", (await prove(stateDir, "17", "--since", since)).out);
    const good = readFileSync(file, "utf8");
    const faultOf = async (text: string, ...args: string[]): Promise<unknown> => {
      writeFileSync(file, text);
      const { code, out } = await check(file, "--json", ...args);
      const words = await check(file, ...args);
      expect([code, words.code]).toEqual([3, 3]);
      expect(words.out.startsWith("✗ the proof does not hold: ")).toBe(true);
      return (JSON.parse(out) as { readonly fault: string }).fault;
    };
    const extra = (line: string): string =>
      good.replace(/^extra .*$/m, `extra ${Buffer.from(line).toString("base64")}`);
    expect(await faultOf("junk")).toBe("malformed");
    expect(await faultOf(good.replace("index 17", "index 18"))).toBe("inclusion");
    expect(await faultOf(good.replace("index 17", "index 250"))).toBe("inclusion");
    expect(await faultOf(extra(lineAt(18)))).toBe("inclusion");
    expect(await faultOf(good.replaceAll("\n250\n", "\n251\n"))).toBe("signature");
    expect(await faultOf(good, "--line", await privateFile("line", lineAt(18)))).toBe("line");
    const stranger = { ...LOG, signer: testSigner("vram-residency/ffffffffffffffff", "another") };
    expect(await faultOf(good, "--log-key", vkeyOf(stranger))).toBe("origin");
    const impostor = { ...LOG, signer: testSigner(LOG.signer.name, "another") };
    expect(await faultOf(good, "--log-key", vkeyOf(impostor))).toBe("unsigned");
    const other = makeLog({ count: 250, segmentLines: 100, epochLines: 40, story: "another" });
    expect(await faultOf(good, "--since", await privateFile("since", headOf(other, 80)))).toBe("consistency");
    expect(await faultOf(good, "--since", await privateFile("since", headOf(other, 250)))).toBe("consistency");
    const foreign = await check(file, "--since", await privateFile("since", headOf(stranger, 80)));
    expect(foreign).toMatchObject({ code: 2, out: "" });
    expect((await check(file, "--since", await privateFile("since", headOf(LOG, 81)))).err).toContain(
      "one from 80 entries",
    );
    expect(await check("/no/such/file")).toMatchObject({ code: 1 });
    expect(await check(file, "--log-key", "junk")).toMatchObject({ code: 2 });
  });

  it("[VR-AUD-02] refuses a leaf that was signed and is not the line of its seq", async () => {
    const swapped = { ...withLines(LOG, LOG.lines.with(3, LOG.lines[4] ?? new Uint8Array(0))), heads: [250] };
    expect(await prove(await stateWith(swapped), "3")).toMatchObject({ code: 3 });
    // As somebody with the signing key would make it, without asking us.
    const hashes = referenceInclusion(swapped.lines.map(leafHash), 3).map((hash) =>
      Buffer.from(hash).toString("base64"),
    );
    const line = Buffer.from(lineAt(4)).toString("base64");
    const note = Buffer.from(headOf(swapped, 250)).toString();
    const text = `c2sp.org/tlog-proof@v1\nextra ${line}\nindex 3\n${hashes.join("\n")}\n\n${note}`;
    const checked = await check(await privateFile("a.tlog-proof", text));
    expect(checked.code).toBe(3);
    expect(checked.out).toContain("the line is not the one that the proof is about");
  });
});
