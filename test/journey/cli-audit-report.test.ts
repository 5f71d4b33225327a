/** What `vram audit verify` says of a part of a log, of one that nobody has signed yet, and of keys later than the log. */
import { chmodSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  filesOf,
  headFiles,
  headOf,
  K0,
  keyAt,
  lineFiles,
  makeLog,
  type TestLog,
  vkeyOf,
  withLines,
} from "../helpers/audit-log.ts";
import { epochFile, privateFile, stateWith } from "../helpers/audit-state.ts";
import { vram } from "../helpers/cli.ts";

const LOG = makeLog({ count: 250, segmentLines: 100, epochLines: 40 });
const LAST_EPOCH = 8;

/** The log without its last lines, as it was when it had `size` entries. */
const cutTo = (size: number): TestLog => ({
  ...withLines(LOG, LOG.lines.slice(0, size)),
  heads: [...LOG.heads.filter((head) => head < size), size],
});

const verify = (stateDir: string, ...args: string[]) => vram(["audit", "verify", "--state-dir", stateDir, ...args]);

/** The line of the report that begins with `what`. */
const lineOf = (out: string, what: string): string | undefined =>
  out
    .split("\n")
    .map((line) => line.trim())
    .find((line) => line.startsWith(what))
    ?.slice(what.length)
    .trim();

describe("vram audit verify on a part of a log", () => {
  it("[VR-AUD-02] says how many log checkpoints were compared, and that the others lie beyond", async () => {
    const stateDir = await stateWith(LOG);
    const none = await verify(stateDir, "--to", "5");
    expect(none.code).toBe(0);
    expect(none.out).toMatch(/^✓ intact: nothing wrong was found in 6 entries$/m);
    expect(lineOf(none.out, "log checkpoints")).toBe("none compared; 8 beyond what was read");
    expect(lineOf(none.out, "entries")).toMatch(/^6 up to where reading ended; \d+ lines looked at$/);
    const some = await verify(stateDir, "--to", "130");
    expect(lineOf(some.out, "log checkpoints")).toBe(
      "3 of 3 compared match, covering 100 entries; 5 beyond what was read",
    );
    const all = await verify(stateDir);
    expect(lineOf(all.out, "log checkpoints")).toBe("8 of 8 match, covering 250 entries");
    expect(lineOf(all.out, "entries")).toBe("250; 250 lines read");
  });

  it("does not take other roots for what lies beyond", async () => {
    const other = makeLog({ count: 250, segmentLines: 100, epochLines: 40, story: "another" });
    const { code, out } = await verify(await stateWith(new Map([...filesOf(LOG), ...headFiles(other)])));
    expect(code).toBe(3);
    expect(lineOf(out, "log checkpoints")).toBe("0 of 8 match, covering 0 entries");
  });

  it("refuses to begin beyond the end; what is wrong goes before", async () => {
    const stateDir = await stateWith(LOG);
    for (const from of ["250", "99999"]) {
      const { code, out, err } = await verify(stateDir, "--from", from);
      expect({ code, out }).toEqual({ code: 2, out: "" });
      expect(err).toContain(`--from ${from} is beyond the end of the log, which has 250 entries`);
      expect(err).toContain("fix   give a seq from 0 to 249");
    }
    expect(await verify(stateDir, "--from", "249")).toMatchObject({ code: 0 });
    const since = await privateFile("since", headOf(LOG, 250));
    expect(await verify(await stateWith(cutTo(200)), "--from", "240", "--since", since)).toMatchObject({ code: 3 });
  });

  it("names the options and the numbers that do not go together", async () => {
    const stateDir = await stateWith(LOG);
    const crossed = await verify(stateDir, "--from", "9", "--to", "3");
    expect(crossed).toMatchObject({ code: 2, out: "" });
    expect(crossed.err).toContain("error INVALID_ARGUMENT: --to 3 is before --from 9\n");
    const word = await verify(stateDir, "--from", "0x10");
    expect(word.err).toContain('--from must be a whole number from 0 to 9007199254740991, and not "0x10"');
    const seq = await vram(["audit", "prove", "--state-dir", stateDir, "x\u001b[2J"]);
    expect(seq.err).toContain("SEQ must be a whole number from 0 to");
    expect(seq.err).not.toContain("\u001b");
  });
});

describe("vram audit verify with a key that was given", () => {
  const young = makeLog({ count: 7 });
  const unsigned = new Map([...lineFiles(young), ["log.vkey", Buffer.from(`${vkeyOf(young)}\n`)] as const]);

  it("[VR-AUD-02] does not call a log intact that nothing signed covers", async () => {
    const stateDir = await stateWith(unsigned);
    const { code, out } = await vram(["audit", "verify", "--log", join(stateDir, "audit"), "--log-key", vkeyOf(young)]);
    expect(code).toBe(0);
    expect(out).not.toContain("✓");
    expect(out).not.toContain("intact");
    expect(out).toMatch(/^! unsigned: nothing that was signed with the given key covers any of the 7 entries\n/);
    expect(lineOf(out, "log checkpoints")).toBe("none that is signed with the log key");
    const terminal = await vram(["audit", "verify", "--state-dir", stateDir, "--log-key", vkeyOf(young)], {
      terminal: true,
    });
    expect(terminal.out).not.toContain("\u001b[32m");
    // Without a key from elsewhere nobody asked for more than the chain.
    expect((await verify(stateDir)).out).toMatch(/^✓ intact/);
  });

  it("says the same of a part that no log checkpoint covers, and no more once one does", async () => {
    const stateDir = await stateWith(LOG);
    expect((await verify(stateDir, "--log-key", vkeyOf(LOG), "--to", "5")).out).toMatch(/^! unsigned: .* 6 entries\n/);
    expect((await verify(stateDir, "--log-key", vkeyOf(LOG), "--to", "60")).out).toMatch(/^✓ intact/);
  });
});

describe("vram audit verify and the state's own key", () => {
  const escrow = () => privateFile("escrow.key", epochFile(K0));

  it("[VR-AUD-02] finds a log that was put back also when another key checks the macs", async () => {
    const stateDir = await stateWith(cutTo(100), keyAt(LAST_EPOCH));
    for (const args of [[], ["--epoch-key", await escrow()], ["--from", "20"]]) {
      const { code, out } = await verify(stateDir, ...args);
      expect(code, args.join(" ")).toBe(3);
      expect(out).toContain("the state's own key is of epoch 8, and the log ends in epoch 3");
    }
    const json = await verify(stateDir, "--epoch-key", await escrow(), "--json");
    expect(JSON.parse(json.out)).toMatchObject({
      ok: false,
      firstBad: { reason: "truncated", seq: 100 },
      epochKey: { from: "file", epoch: 0 },
      stateKey: { epoch: 8 },
    });
    const sound = await verify(await stateWith(LOG, keyAt(LAST_EPOCH)), "--epoch-key", await escrow());
    expect(sound.code).toBe(0);
    expect(lineOf(sound.out, "state's key")).toBe("of epoch 8, and the log ends in epoch 8");
    expect(lineOf(sound.out, "macs checked")).toBe("250 entries of epochs 1 to 8; with the key of epoch 0, as given");
  });

  it("[VR-AUD-02] finds a log that is older than a key that was given", async () => {
    const stateDir = await stateWith(cutTo(100));
    const later = await privateFile("later.key", epochFile(keyAt(LAST_EPOCH)));
    const given = await verify(stateDir, "--epoch-key", later);
    expect(given.code).toBe(3);
    expect(given.out).toContain("the given epoch key is of epoch 8, and the log ends in epoch 3");
    const folder = await vram(["audit", "verify", "--log", join(stateDir, "audit"), "--epoch-key", later]);
    expect(folder.code).toBe(3);
    expect(folder.out).not.toContain("state's key");
    expect(await verify(stateDir, "--epoch-key", later, "--to", "50")).toMatchObject({ code: 0 });
    const both = await verify(await stateWith(cutTo(100), keyAt(LAST_EPOCH)), "--epoch-key", later);
    expect(both.out.match(/the log ends in epoch 3/g)?.length).toBeGreaterThan(1);
  });

  it("[VR-AUD-02] says of a damaged log, too, that the key is later", async () => {
    const stateDir = await stateWith(cutTo(100), keyAt(LAST_EPOCH));
    writeFileSync(join(stateDir, "audit/x.jsonl"), "");
    const { code, out } = await verify(stateDir);
    expect(code).toBe(3);
    expect(out).toContain("file: ");
    expect(out).toContain("the state's own key is of epoch 8, and the log ends in epoch 3");
  });

  it("[VR-AUD-02] is not held against a log whose last lines are bad: where that ends nobody knows", async () => {
    const stateDir = await stateWith(LOG);
    writeFileSync(join(stateDir, "audit-epoch.key"), epochFile({ epoch: LAST_EPOCH, key: K0.key }), { mode: 0o600 });
    const { code, out } = await verify(stateDir);
    expect(code).toBe(3);
    expect(out).toContain("the mac of epoch 8 does not hold");
    expect(lineOf(out, "state's key")).toBe("of epoch 8, and where the log ends is not known");
    expect(out).not.toContain("truncated");
  });

  it("[VR-AUD-02] that cannot be read is told, with what was not checked for want of it", async () => {
    const stateDir = await stateWith(LOG, keyAt(LAST_EPOCH));
    chmodSync(join(stateDir, "audit-epoch.key"), 0o644);
    for (const args of [[], ["--epoch-key", await escrow()]]) {
      const { code, out } = await verify(stateDir, ...args);
      expect(code).toBe(0);
      expect(lineOf(out, "state's key")).toMatch(
        /^not read, so that a log that was put back is not found by it: .*run chmod 600 on it$/,
      );
    }
    const json = await verify(stateDir, "--epoch-key", await escrow(), "--json");
    expect(JSON.parse(json.out)).toMatchObject({
      stateKey: { because: expect.stringContaining("chmod 600") as string },
    });
    rmSync(join(stateDir, "audit-epoch.key"));
    expect(lineOf((await verify(stateDir)).out, "state's key")).toContain("the state has no audit-epoch.key");
  });
});
