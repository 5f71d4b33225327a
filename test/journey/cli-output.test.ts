/** Data that cannot be written: whatever the command found, it was not told, and the exit code says so. */
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { settledCode } from "../../src/cli/host.ts";
import { makeLog } from "../helpers/audit-log.ts";
import { stateWith } from "../helpers/audit-state.ts";
import { canMakeNodes, canMount, makeNode, shellOnDisk, vramTo } from "../helpers/cli-process.ts";
import { randomFile, temporaryFolder } from "../helpers/vram.ts";

const LOG = makeLog({ count: 50 });

describe("the exit code", () => {
  const settle = (code: number, failure: unknown) => {
    const said: string[] = [];
    const host = {
      ...{ out: () => undefined, env: {}, outIsTerminal: false, errIsTerminal: false, columns: 80 },
      ...{ err: (text: string) => void said.push(text), signal: new AbortController().signal },
      outFailure: () => failure,
    };
    return { code: settledCode(host, code), said: said.join("") };
  };

  it("is that of the command where its data was written, or its reader went away", () => {
    for (const code of [0, 1, 3, 130]) expect(settle(code, undefined)).toEqual({ code, said: "" });
  });

  it("is 1 where data could not be written; a verdict of the command stands, and both are said", () => {
    const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    const said =
      "error the output could not be written: ENOSPC: no space left on device\nfix   make room on that file system\n";
    expect(settle(0, full)).toEqual({ code: 1, said });
    expect(settle(3, full)).toEqual({ code: 3, said });
    expect(settle(0, new Error("gone")).said).toContain("error the output could not be written: gone\nfix   ");
  });
});

describe.skipIf(!canMakeNodes)("a device that takes nothing", () => {
  it("[VR-AUD-02] ends every command with exit 1 and a word", async () => {
    const full = join(await temporaryFolder(), "full");
    makeNode(full, "full");
    const stateDir = await stateWith(LOG);
    const { path } = await randomFile(5000);
    const commands = [
      ["audit", "prove", "3", "--state-dir", stateDir],
      ["audit", "verify", "--state-dir", stateDir],
      ["audit", "verify", "--json", "--state-dir", stateDir],
      ["audit", "keys", "--state-dir", stateDir],
      ["audit", "tail", "--state-dir", stateDir],
      ["digest", path],
      ["--version"],
      ["--help"],
    ];
    for (const command of commands) {
      const stdout = openSync(full, "w");
      const { code, err } = vramTo(stdout, ...command);
      closeSync(stdout);
      expect(code, command.join(" ")).toBe(1);
      expect(err, command.join(" ")).toContain("error the output could not be written: ENOSPC");
    }
  });
});

describe.skipIf(!canMount)("a disk without room for all of it", () => {
  it("[VR-AUD-02] ends with exit 1, also where the beginning was written", async () => {
    const stateDir = await stateWith(LOG);
    const script = `
      leave_pages 1
      vram audit tail -n 50 --state-dir "${stateDir}" > lines; echo "tail $? $(stat -c %s lines)"
      rm lines
      leave_pages 0
      vram audit prove 3 --state-dir "${stateDir}" > proof; echo "prove $? $(stat -c %s proof)"`;
    const { out, err } = shellOnDisk(await temporaryFolder(), script);
    expect(out).toBe("tail 1 4096\nprove 1 0\n");
    expect(err.match(/error the output could not be written: ENOSPC/g)).toHaveLength(2);
  });

  it("loses nothing of a long output in a file", async () => {
    const stateDir = await stateWith(LOG);
    const script = `
      printf 'before\\n' > lines
      vram audit tail -n 50 --state-dir "${stateDir}" >> lines; echo "tail $? $(wc -l < lines) $(head -n 1 lines)"`;
    expect(shellOnDisk(await temporaryFolder(), script).out).toBe("tail 0 51 before\n");
  });
});
