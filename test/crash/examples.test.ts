/** The examples are run as they are, and read as a reader would (issue of the service, "walkthrough"). */
import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

const run = (path: string): Promise<Ran> =>
  new Promise((resolve) => {
    const child = execFile(path, { cwd: ROOT }, (_, out, err) => resolve({ code: child.exitCode ?? -1, out, err }));
  });

/** What is printed between one heading of a walkthrough and the next. */
const part = (out: string, heading: string): string =>
  out.split("\n# ").find((text) => text.startsWith(heading)) ?? expect.fail(`no part ${heading} in ${out}`);

describe("examples", () => {
  it("[VR-API-01] [VR-VER-06] the walkthrough: a flipped bit is caught, and stops what relies on it, over a restart", async () => {
    const { code, out, err } = await run(`${ROOT}examples/01-walkthrough.sh`);
    expect(err).not.toContain("expected exit code");
    expect(code, `${out}\n${err}`).toBe(0);

    expect(part(out, "the service starts").match(/ {2}yes {7}sealed /g)).toHaveLength(2);
    expect(part(out, "it measures them").match(/verified {2}fsverity:[0-9a-f]{64} {2}measured/g)).toHaveLength(2);
    const leased = part(out, "a program runs under a lease");
    expect(leased).toContain("this program relies on small\n");
    expect(leased).toContain("(refused, exit 1)\n(exit 0)");
    expect(err).toContain("SHARD_BUSY");

    const flipped = part(out, "one bit flips");
    expect(flipped).toMatch(/small {2}FAILED {2}MEASUREMENT_MISMATCH.*block {4}4 KiB at 65536.*\(exit 3\)/s);
    expect(flipped).toMatch(/\(exit 5\)\n$/);
    const restarted = part(out, "the service is killed");
    expect(restarted.match(/ {2}no {8}blocked /g)).toHaveLength(2);
    expect(out).not.toContain("\nthis must not run");

    const resumed = part(out, "somebody found out why");
    expect(resumed.match(/ {2}yes {7}sealed /g)).toHaveLength(2);
    expect(part(out, "everything that happened")).toContain("intact: nothing wrong was found");
    // Where there is no GPU, everything says so.
    expect(out).toContain("EMULATED device");
  }, 120_000);

  it("[VR-API-05] two checkpoints that are equal by their layout: who expects one is refused the other", async () => {
    const { code, out, err } = await run(`${ROOT}examples/02-two-checkpoints.sh`);
    expect(code, `${out}\n${err}`).toBe(0);
    expect(part(out, "A is sealed")).toMatch(/model\.norm\.weight.*\(exit 0\)/s);
    expect(part(out, "somebody seals B")).toContain("names, types and shapes are equal");
    const refused = part(out, "the engine that expects A is refused");
    expect(refused).toMatch(/^[^\n]*\n\$ attach model --expect fsverity:[0-9a-f]{64}\n\(exit 3\)\n$/);
    expect(err).toContain("DIGEST_MISMATCH");
    expect(part(out, "who attached")).toMatch(
      /3 "type":"export_ended"\s+1 "type":"request_refused"\s+3 "type":"shard_exported"/,
    );
    expect(out).toContain("EMULATED device");
  }, 120_000);

  it("[VR-ATT-01] a statement: asked for with a nonce, checked without the service, and refused where it should be", async () => {
    const { code, out, err } = await run(`${ROOT}examples/03-attest.sh`);
    expect(code, `${out}\n${err}`).toBe(0);
    const checked = part(out, "the auditor holds the statement");
    expect(checked).toMatch(
      /✓ signed by this key.*✓ about the bytes of your file.*✓ whoever answered had these bytes/s,
    );
    expect(checked).toMatch(/✓ logged: .*· hardware evidence: none.*\(exit 0\)/s);
    expect(part(out, "an emulated device does not pass")).toMatch(/refused \(backend\).*\(exit 5\)/s);
    expect(part(out, "one byte of the auditor's file")).toMatch(/refused \(digest\).*\(exit 3\)/s);
    expect(part(out, "the same statement is shown again")).toMatch(/refused \(nonce\).*\(exit 3\)/s);
  }, 120_000);

  it("all of them are run here", async () => {
    // `pytorch` is a module: clients/python has its tests.
    const found = (await readdir(`${ROOT}examples`)).toSorted();
    expect(found).toEqual([
      "01-tampered-service.mjs",
      "01-walkthrough.sh",
      "02-two-checkpoints.sh",
      "03-attest.sh",
      "pytorch",
    ]);
  });
});
