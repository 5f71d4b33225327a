/** `vram audit keys`: what may be shown of the keys, and the escrow key of a log that is to come. */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { createSigningKey } from "../../src/audit/key-files.ts";
import { encodeVkey, noteKeyOf } from "../../src/audit/note.ts";
import { K0, keyAt, makeLog, vkeyOf } from "../helpers/audit-log.ts";
import { epochFile, stateWith } from "../helpers/audit-state.ts";
import { vram } from "../helpers/cli.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const LOG = makeLog({ count: 50 });

const keys = (stateDir: string, ...args: string[]) => vram(["audit", "keys", "--state-dir", stateDir, ...args]);

describe("vram audit keys", () => {
  it("[VR-AUD-02] shows the log's public key and the epoch, and no secret", async () => {
    const stateDir = await stateWith(LOG, keyAt(7));
    const { code, out, err } = await keys(stateDir);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out.replaceAll(stateDir, "STATE")).toMatchInlineSnapshot(`
      "log      vram-residency/0123456789abcdef
      log key  vram-residency/0123456789abcdef+82ce3e6d+AfpUnzujv2uc+SLIdHwc1UZWStC72iu9+fwPx6NC5Vk3
      epoch    7
      ✓ STATE/audit-epoch.key: secret: makes and checks the macs of this epoch and later ones
      · STATE/audit-log.key (missing): secret: signs log checkpoints
      ✓ STATE/audit/log.vkey: public: checks log checkpoints; give it to auditors
      "
    `);
    expect(out).not.toContain(Buffer.from(keyAt(7).key).toString("hex"));
    expect(JSON.parse((await keys(stateDir, "--json")).out)).toEqual({
      schema: "vram-residency/audit-keys/v1",
      ok: true,
      stateDir,
      origin: "vram-residency/0123456789abcdef",
      logKey: vkeyOf(LOG),
      epoch: 7,
      files: [
        { file: "audit-epoch.key", present: true },
        { file: "audit-log.key", present: false },
        { file: "audit/log.vkey", present: true },
      ],
    });
  });

  it("finds a public key beside the log that is not that of the key that signs", async () => {
    const stateDir = await stateWith(LOG, keyAt(7));
    const signer = await createSigningKey(stateDir);
    const wrong = await keys(stateDir);
    expect(wrong.code).toBe(3);
    expect(wrong.out).toContain("✗ audit/log.vkey is not the public half of audit-log.key");
    expect(JSON.parse((await keys(stateDir, "--json")).out)).toMatchObject({ ok: false, signsWithLogKey: false });
    writeFileSync(join(stateDir, "audit/log.vkey"), `${encodeVkey(noteKeyOf(signer))}\n`);
    expect(JSON.parse((await keys(stateDir, "--json")).out)).toMatchObject({ ok: true, signsWithLogKey: true });
    expect((await keys(stateDir)).out).not.toContain("PRIVATE");
  });

  it("says what to do where there are no keys", async () => {
    const { code, err } = await keys(await temporaryFolder());
    expect(code).toBe(1);
    expect(err).toContain("there are no keys of an audit log in this state directory");
    expect(err).toContain("`vram try --state-dir DIR FILE` writes a log");
    const stateDir = await stateWith(LOG);
    writeFileSync(join(stateDir, "audit-epoch.key"), "junk", { mode: 0o600 });
    expect(await keys(stateDir)).toMatchObject({ code: 1, out: "" });
  });
});

describe("vram audit keys --escrow", () => {
  it("[VR-AUD-02] makes K(0) once, for the state and for somebody else, and never again", async () => {
    const folder = await temporaryFolder();
    const stateDir = join(folder, "new/state");
    const escrow = join(folder, "escrow.key");
    const { code, out, err } = await keys(stateDir, "--escrow", escrow);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out).toContain(`${escrow}: K(0) of the audit log that ${stateDir} will have`);
    expect(out).toContain("can forge every one of them");
    expect(out).toContain("keep it offline");
    expect([escrow, join(stateDir, "audit-epoch.key")].map((file) => statSync(file).mode & 0o777)).toEqual([
      0o600, 0o600,
    ]);
    expect(statSync(stateDir).mode & 0o777).toBe(0o700);
    const text = readFileSync(escrow, "utf8");
    expect(text).toMatch(/^0 [0-9a-f]{64}\n$/);
    expect(readFileSync(join(stateDir, "audit-epoch.key"), "utf8")).toBe(text);
    expect(out).not.toContain(text.slice(2, 20));
    const again = await keys(stateDir, "--escrow", join(folder, "second.key"));
    expect(again).toMatchObject({ code: 1, out: "" });
    expect(again.err).toContain("fix   escrow belongs before the first start: use a new state directory");
    expect(readdirSync(folder).toSorted()).toEqual(["escrow.key", "new"]);
    expect((await keys(stateDir)).out).toContain("epoch    0\n");
    expect(JSON.parse((await keys(stateDir, "--json")).out)).toMatchObject({ ok: true, epoch: 0 });
  });

  it("prints one JSON document, without the key", async () => {
    const folder = await temporaryFolder();
    const stateDir = join(folder, "state");
    const escrow = join(folder, "escrow.key");
    const { out } = await keys(stateDir, "--escrow", escrow, "--json");
    expect(JSON.parse(out)).toEqual({ schema: "vram-residency/audit-keys/v1", ok: true, stateDir, escrow, epoch: 0 });
  });

  it("refuses a file that is there or cannot be made, and leaves nothing behind", async () => {
    const folder = await temporaryFolder();
    const stateDir = join(folder, "state");
    const taken = join(folder, "taken");
    writeFileSync(taken, "something else\n");
    const refused = await keys(stateDir, "--escrow", taken);
    expect(refused.code).toBe(1);
    expect(refused.err).toContain("fix   name a file that is new");
    expect(readFileSync(taken, "utf8")).toBe("something else\n");
    expect(existsSync(stateDir)).toBe(false);
    const nowhere = await keys(join(stateDir, "deeper"), "--escrow", join(folder, "none/escrow.key"));
    expect(nowhere.code).toBe(1);
    expect(nowhere.err).toContain("none/escrow.key: the escrow file cannot be made: ENOENT: no such file or directory");
    expect(nowhere.err).toContain("fix   name a new file in a folder that exists");
    expect(readdirSync(folder)).toEqual(["taken"]);
    mkdirSync(stateDir, { mode: 0o700 });
    expect(await keys(stateDir, "--escrow", taken)).toMatchObject({ code: 1 });
    expect(readdirSync(folder).toSorted(), "what was there stays").toEqual(["state", "taken"]);
    expect(readdirSync(stateDir)).toEqual([]);
    expect(await keys(stateDir, "--escrow", join(folder, "escrow.key"))).toMatchObject({ code: 0 });
  });

  it("[VR-AUD-02] refuses a state that has a log, also if its key is gone, and one that others may enter", async () => {
    const folder = await temporaryFolder();
    const escrow = join(folder, "escrow.key");
    for (const stateDir of [await stateWith(LOG, K0), await stateWith(LOG)]) {
      const { code, err } = await keys(stateDir, "--escrow", escrow);
      expect(code).toBe(1);
      expect(err).toContain("escrow belongs before the first start");
      expect(existsSync(escrow)).toBe(false);
    }
    const open = join(folder, "open");
    mkdirSync(open, { mode: 0o755 });
    expect(await keys(open, "--escrow", escrow)).toMatchObject({ code: 1, out: "" });
    expect(readdirSync(folder)).toEqual(["open"]);
    expect(epochFile(K0)).toMatch(/^0 /);
  });
});
