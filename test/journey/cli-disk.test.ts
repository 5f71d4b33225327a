/** State directories on disks that are full, read-only or closed to this user: what is said, and what to do about it. */
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { keyAt, makeLog } from "../helpers/audit-log.ts";
import { stateWith } from "../helpers/audit-state.ts";
import { canMount, shellOnDisk, vramUnprivileged } from "../helpers/cli-process.ts";
import { randomFile, temporaryFolder } from "../helpers/vram.ts";

const LOG = makeLog({ count: 50 });

describe.skipIf(!canMount)("a state directory on a full disk", () => {
  it("[VR-AUD-03] is refused with the file, the reason and a fix, wherever the room ends", async () => {
    const { path } = await randomFile(5000);
    const starts = Array.from({ length: 9 }, (_, pages) => pages);
    const script = `
      for pages in ${starts.join(" ")}; do
        rm -rf state filling; leave_pages $pages
        err=$(vram try --log-level error --log-format text --state-dir state "${path}" 2>&1 > /dev/null)
        echo "$? $(echo "$err" | grep '^error ') | $(echo "$err" | grep '^fix ')"
      done`;
    const said = shellOnDisk(await temporaryFolder(), script).out;
    const lines = said.trimEnd().split("\n");
    expect(lines).toHaveLength(starts.length);
    expect(lines[0]).toMatch(/^1 error STATE_INVALID: state\/lock: .*ENOSPC: no space left on device/);
    for (const line of lines) {
      expect(line).toMatch(
        /^(?:1 error STATE_INVALID: state.*ENOSPC.*\| fix {3}make room|7 error AUDIT_UNAVAILABLE: .*\| fix {3}make room|0 )/,
      );
    }
    expect(lines.some((line) => /^7 error AUDIT_UNAVAILABLE: .*state.* ENOSPC/.test(line))).toBe(true);
  });

  it("that is read-only is refused, and no fix says to remove anything", async () => {
    const { path } = await randomFile(5000);
    const script = `
      mkdir -m 700 state && mount -o remount,ro .
      vram try --log-level error --state-dir state "${path}"
      vram try --log-level error --state-dir other "${path}"`;
    const { err } = shellOnDisk(await temporaryFolder(), script);
    expect(err).toContain("error STATE_INVALID: state/lock: cannot be made or written: EROFS: read-only file system");
    expect(err).toContain("error STATE_INVALID: other: the state directory cannot be made: EROFS: ");
    expect(err.match(/^fix {3}.*read-only.*$/gm)).toHaveLength(2);
    expect(err).not.toContain("remove");
  });
});

describe.skipIf(!canMount)("a state directory that this user may not read", () => {
  it("[VR-AUD-02] is not taken for one without a log", async () => {
    const stateDir = await stateWith(LOG, keyAt(1));
    chmodSync(stateDir, 0o000);
    for (const command of [["verify"], ["tail"], ["prove", "3"], ["keys"]]) {
      const { code, err } = vramUnprivileged("audit", ...command, "--state-dir", stateDir);
      expect(code, command.join(" ")).toBe(1);
      expect(err, command.join(" ")).toContain(stateDir);
      expect(err, command.join(" ")).toContain("cannot be read: EACCES: permission denied");
      expect(err).toMatch(/^fix {3}let this user read/m);
    }
    const folder = vramUnprivileged("audit", "verify", "--log", join(stateDir, "audit"));
    expect(folder.err).toContain("cannot be read: EACCES: permission denied");
    const doctor = vramUnprivileged("doctor", "--state-dir", join(stateDir, "deeper"));
    expect(doctor.out).toMatch(/^✗ .*deeper cannot be looked at: EACCES/m);
    chmodSync(stateDir, 0o700);
  });

  it("[VR-AUD-02] no fix says to remove evidence or the only key", async () => {
    const stateDir = await stateWith(LOG, keyAt(1));
    chmodSync(join(stateDir, "audit/000001.jsonl"), 0o000);
    const lines = vramUnprivileged("audit", "verify", "--state-dir", stateDir);
    expect(lines).toMatchObject({ code: 1, out: "" });
    expect(lines.err).toMatch(/^error STATE_INVALID: .*audit\/000001\.jsonl: /m);
    expect(lines.err).toMatch(/^fix {3}let this user read/m);
    chmodSync(join(stateDir, "audit/000001.jsonl"), 0o600);
    const { path } = await randomFile(5000);
    const started = join(await temporaryFolder(), "state");
    expect(vramUnprivileged("try", "--quiet", "--state-dir", started, path)).toMatchObject({ code: 0 });
    for (const state of [stateDir, started]) chmodSync(join(state, "audit-epoch.key"), 0o000);
    for (const command of [
      ["audit", "keys", "--state-dir", stateDir],
      ["try", "--log-level", "error", "--state-dir", started, path],
    ]) {
      const { code, err } = vramUnprivileged(...command);
      expect(code).toBe(1);
      expect(err).toMatch(/^error STATE_INVALID: .*: cannot be read: EACCES: permission denied$/m);
      expect(err).toMatch(/^fix {3}let this user read/m);
      expect(err).not.toContain("remove");
    }
  });

  it("is not made where this user may not make one", async () => {
    const folder = await temporaryFolder();
    const { path } = await randomFile(5000);
    mkdirSync(join(folder, "closed"), { mode: 0o500 });
    const { err } = vramUnprivileged("try", "--log-level", "error", "--state-dir", join(folder, "closed/state"), path);
    expect(err).toContain("the state directory cannot be made: EACCES: permission denied");
    writeFileSync(join(folder, "file"), "");
    const { err: under } = vramUnprivileged("try", "--log-level", "error", "--state-dir", `${folder}/file/state`, path);
    expect(under).toContain("the state directory cannot be made: ENOTDIR: not a directory");
  });
});
