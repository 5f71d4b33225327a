/** `vram audit verify` on logs as auditors meet them, and the group of the commands of `audit`. */
import { appendFileSync, chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  filesOf,
  headOf,
  K0,
  keyAt,
  lineFiles,
  makeLog,
  resealed,
  type TestLog,
  testSigner,
  vkeyOf,
  withLines,
} from "../helpers/audit-log.ts";
import { epochFile, privateFile, stateWith } from "../helpers/audit-state.ts";
import { vram } from "../helpers/cli.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const LOG = makeLog({ count: 600, segmentLines: 100, epochLines: 40 });
const LAST_EPOCH = 18;

/** The log without its last `entries - size` lines, and with the log checkpoints that such a log would have. */
const cutTo = (size: number): TestLog => ({
  ...withLines(LOG, LOG.lines.slice(0, size)),
  heads: [...LOG.heads.filter((head) => head < size), size],
});

function tampered(seq: number): Map<string, Uint8Array> {
  const text = Buffer.from(LOG.lines[seq] ?? []).toString();
  const line = Buffer.from(text.replace('"bytesCovered":', '"bytesCovered":1'));
  return new Map([...filesOf(LOG), ...lineFiles(withLines(LOG, LOG.lines.with(seq, line)))]);
}

const verify = (stateDir: string, ...args: string[]) => vram(["audit", "verify", "--state-dir", stateDir, ...args]);
const since = (log: TestLog, size: number): Promise<string> => privateFile("since", headOf(log, size));

describe("vram audit", () => {
  it("shows help with examples first, and how to correct a wrong word", async () => {
    const help = await vram(["audit", "--help"]);
    expect(help.out.startsWith("Examples:\n  $ vram audit ")).toBe(true);
    for (const command of ["verify", "tail", "prove", "keys"]) {
      const one = await vram(["audit", command, "--help"]);
      expect(one.out.startsWith("Examples:\n  $ vram audit ")).toBe(true);
      await expect(one.out).toMatchFileSnapshot(join(import.meta.dirname, `../golden/help-audit-${command}.txt`));
    }
    const alone = await vram(["audit"]);
    expect(alone).toMatchObject({ code: 2, out: "" });
    expect(alone.err).toContain("Usage: vram audit");
    const typo = await vram(["audit", "verfy"]);
    expect(typo.code).toBe(2);
    expect(typo.err).toContain("Did you mean verify?");
  });

  it("reads the state of --state-dir, else of XDG_STATE_HOME, else of HOME", async () => {
    const home = await temporaryFolder();
    const stateDir = await stateWith(LOG);
    const keys = await vram(["audit", "keys"], { env: { XDG_STATE_HOME: home, HOME: "/nowhere" } });
    expect(keys).toMatchObject({ code: 1, out: "" });
    expect(keys.err).toContain(`${join(home, "vram-residency")}: there are no keys`);
    const relative = await vram(["audit", "verify"], { env: { XDG_STATE_HOME: "state", HOME: home } });
    expect(relative.err).toContain(`${join(home, ".local/state/vram-residency")}: there is no audit log`);
    expect(relative.err).toContain("fix   name another one with --state-dir; `vram try --state-dir DIR FILE`");
    expect(await vram(["audit", "tail"], { env: {} })).toMatchObject({ code: 2 });
    expect(await vram(["audit", "verify"], { env: { HOME: home } })).toMatchObject({ code: 1 });
    expect((await vram(["audit", "tail", "--log", home])).err).toContain("000001.jsonl");
    expect(await vram(["audit", "tail", "--log", stateDir, "--state-dir", stateDir])).toMatchObject({ code: 2 });
    expect(existsSync(join(home, "vram-residency"))).toBe(false);
  });
});

describe("vram audit verify", () => {
  it("[VR-AUD-02] says that a sound log is intact, what it looked at, and what nobody can exclude", async () => {
    const stateDir = await stateWith(LOG);
    const { code, out, err } = await verify(stateDir);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out.replaceAll(stateDir, "STATE")).toMatchInlineSnapshot(`
      "✓ intact: nothing wrong was found in 600 entries
        entries          600; 600 lines read
        segments         6
        macs checked     none; the state has no audit-epoch.key
        not checked      epochs 1 to 18: needs the key of that epoch or an earlier one
        state's key      not read, so that a log that was put back is not found by it: the state has no audit-epoch.key
        log checkpoints  18 of 18 match, covering 600 entries
        log key          taken from the log's own folder; --log-key gives one from elsewhere
        remembered       none was given
        not excluded
          truncation: that entries were cut off the end
          rollback, fork: that this is an earlier state, or others are shown another log
          log-key: the log key was taken from the log's own folder
          macs: the macs of some epochs could not be checked without their keys
        to find truncation, rollback and forks next time: copy STATE/audit/checkpoint
        to a place that this machine cannot change, and give it with --since
      "
    `);
    const all = await verify(
      stateDir,
      ...["--log-key", vkeyOf(LOG), "--since", await since(LOG, 300)],
      ...["--epoch-key", await privateFile("escrow.key", epochFile(K0))],
    );
    expect(all.code).toBe(0);
    expect(all.out).toContain("macs checked     600 entries of epochs 1 to 18; with the key of epoch 0, as given");
    expect(all.out).toContain("remembered       the log continues it");
    expect(all.out).toContain("cut off the end, behind the first 300 entries");
    expect(all.out).not.toContain("not checked");
  });

  it("[VR-AUD-02] names the line that was changed, with exit 3, and mends nothing", async () => {
    const stateDir = await stateWith(tampered(217));
    const before = readFileSync(join(stateDir, "audit/000003.jsonl"));
    const { code, out } = await verify(stateDir);
    expect(code).toBe(3);
    expect(out).toMatch(/^✗ damaged: first at seq 217, /);
    expect(out).toContain("segment 3 line 18");
    expect(readFileSync(join(stateDir, "audit/000003.jsonl"))).toEqual(before);
    expect(await verify(stateDir, "--to", "216")).toMatchObject({ code: 0 });
    expect(await verify(stateDir, "--from", "300")).toMatchObject({ code: 0 });
    expect((await verify(stateDir, "--from", "300")).out).toContain("not-read: ");
  });

  it("[VR-AUD-02] finds truncation with a remembered log checkpoint, and says that it cannot without", async () => {
    const stateDir = await stateWith(cutTo(500));
    const without = await verify(stateDir);
    expect(without.code).toBe(0);
    expect(without.out).toContain("truncation: that entries were cut off the end\n");
    expect(without.out).toContain(`copy ${join(stateDir, "audit/checkpoint")}\n`);
    const remembered = await verify(stateDir, "--since", await since(LOG, 560));
    expect(remembered.code).toBe(3);
    expect(remembered.out).toContain("✗ damaged: first at seq 500 to 559, truncated");
    const forked = await verify(stateDir, "--since", await since(resealed(LOG, 20, { bytesCovered: 7 }), 300));
    expect(forked.code).toBe(3);
    expect(forked.out).toContain("forked: the root over 300 entries is not the remembered one");
  });

  it("[VR-AUD-02] finds with the state's own key that the log was put back and the key was not", async () => {
    const key = keyAt(LAST_EPOCH);
    const cut = await verify(await stateWith(cutTo(500), key));
    expect(cut.code).toBe(3);
    expect(cut.out).toContain("the state's own key is of epoch 18, and the log ends in epoch 15");
    const part = await verify(await stateWith(LOG, key), "--to", "300");
    expect(part).toMatchObject({ code: 0 });
  });

  it("[VR-AUD-02] checks all epochs with the escrow file, and the current one with the state's own key", async () => {
    const stateDir = await stateWith(resealed(LOG, 17, { bytesCovered: 7 }), keyAt(LAST_EPOCH));
    const own = await verify(stateDir);
    expect(own.code).toBe(0);
    expect(own.out).toContain("macs checked     20 entries of epoch 18; with the key of epoch 18, the state's own");
    expect(own.out).toContain("not checked      epochs 1 to 17: no later key leads back to them");
    const forged = await stateWith(LOG, keyAt(LAST_EPOCH));
    writeFileSync(join(forged, "audit-epoch.key"), epochFile({ epoch: LAST_EPOCH, key: K0.key }));
    const foreign = await verify(forged);
    expect(foreign.code).toBe(3);
    expect(foreign.out).toContain("✗ damaged: first at seq 580, mac");
    expect(foreign.out).toContain("no mac held at all: is the epoch key one of this log?");
    expect(foreign.out).toContain("further\n    seq 581: mac:");
    chmodSync(join(forged, "audit-epoch.key"), 0o644);
    const open = await verify(forged);
    expect(open.code).toBe(0);
    expect(open.out).toContain("macs checked     none; ");
    expect(open.out).toContain("run chmod 600 on it");
  });

  it("[VR-AUD-02] refuses signatures of another key", async () => {
    const stateDir = await stateWith(LOG);
    const stranger = vkeyOf({ ...LOG, signer: testSigner("vram-residency/0123456789abcdef", "another") });
    const { code, out } = await verify(stateDir, "--log-key", stranger);
    expect(code).toBe(3);
    expect(out).toContain("✗ damaged: first at no entry, checkpoint");
    expect(out).toContain("unsigned");
    rmSync(join(stateDir, "audit/log.vkey"));
    expect((await verify(stateDir)).out).toContain("log key          none: no signature was checked");
  });

  it("[VR-AUD-05] looks at a log that was pruned, in its own folder, and beside its writer", async () => {
    const stateDir = await stateWith(new Map([...filesOf(LOG)].filter(([name]) => name !== "000001.jsonl")));
    appendFileSync(join(stateDir, "audit/000006.jsonl"), '{"v":1,"seq":600,');
    const { code, out } = await vram(["audit", "verify", "--log", join(stateDir, "audit")]);
    expect(code).toBe(3);
    expect(out).toContain("pruned: 100 entries are gone, and audit_pruned entries tell of 0");
    expect(out).toContain("entries          600; 500 lines read, 100 pruned and known by their hashes only");
    expect(out).toContain("segments         6, 1 of them pruned");
    expect(out).toContain("in progress      17 bytes of a last line that is not whole yet");
    expect(out).toContain("none; no epoch key was given (--epoch-key)");
  });

  it("shows 20 further problems, and counts the others", async () => {
    const wrong = await privateFile("escrow.key", epochFile({ epoch: 0, key: new Uint8Array(32).fill(7) }));
    const { code, out } = await verify(await stateWith(LOG), "--epoch-key", wrong);
    expect(code).toBe(3);
    expect(out.match(/^ {4}seq \d+: mac: /gm)).toHaveLength(21);
    expect(out).toContain("    and 579 more\n");
  });

  it("prints one JSON document, with a schema, for sound and for damaged logs", async () => {
    const sound = await verify(await stateWith(LOG, keyAt(LAST_EPOCH)), "--json");
    expect(sound.code).toBe(0);
    await expect(sound.out).toMatchFileSnapshot(join(import.meta.dirname, "../golden/audit-verify.json"));
    const damaged = await verify(await stateWith(tampered(217)), "--json");
    expect(damaged.code).toBe(3);
    expect(JSON.parse(damaged.out)).toMatchObject({
      schema: "vram-residency/audit-verify/v1",
      ok: false,
      verdict: "damaged",
      firstBad: { seq: 217, lastSeq: 217 },
      epochKey: { from: "none", because: "the state has no audit-epoch.key" },
    });
    const none = await verify(await temporaryFolder(), "--json");
    expect(none.code).toBe(1);
    expect(JSON.parse(none.out)).toMatchObject({
      schema: "vram-residency/audit-verify/v1",
      ok: false,
      error: { code: "STATE_INVALID" },
    });
  });

  it("refuses arguments that are none, and logs that cannot be read", async () => {
    const stateDir = await stateWith(LOG);
    const junk = await privateFile("junk", "junk\n");
    for (const args of [
      ["--from", "-1"],
      ["--from", "0x10"],
      ["--to", "01"],
      ["--from", "5", "--to", "4"],
      ["--log-key", "junk"],
      ["--since", junk],
      ["--epoch-key", junk],
      ["--state-dir", ""],
    ]) {
      expect(await verify(stateDir, ...args), args.join(" ")).toMatchObject({ code: 2, out: "" });
    }
    expect(await verify(stateDir, "--since", "/no/such/file")).toMatchObject({ code: 1 });
    expect(await verify(stateDir, "--since", join(stateDir, "audit/000001.jsonl"))).toMatchObject({ code: 2 });
    expect(await verify(stateDir, "--epoch-key", "/no/such/file")).toMatchObject({ code: 1 });
    rmSync(join(stateDir, "audit/000002.jsonl"));
    mkdirSync(join(stateDir, "audit/000002.jsonl"));
    expect(await verify(stateDir)).toMatchObject({ code: 1, out: "" });
  });
});
