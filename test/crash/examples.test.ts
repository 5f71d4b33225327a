/**
 * The examples are run as they are, and read as a reader would: each from a folder that is not the repository's, by a path
 * with a space in it, without a terminal. What is checked of each is what it is there to show; an example of which nothing
 * is checked fails, and so does one that `examples/README.md` does not have.
 */
import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { mkdir, readdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { temporaryFolder } from "../helpers/vram.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const README = readFileSync(join(ROOT, "examples/README.md"), "utf8");
/** The examples; whatever else is in the folder is used by one of them. */
const EXAMPLES = readdirSync(join(ROOT, "examples"))
  .filter((name) => /^\d\d-/.test(name))
  .toSorted();

/** Its row in the README: `| [NAME](NAME) | N s | …`. A test may take ten times as long. */
const secondsOf = (name: string): number =>
  Number(new RegExp(`^\\| \\[${name}\\]\\(${name}\\) \\| (\\d+) s \\|`, "m").exec(README)?.[1]);

interface Ran {
  readonly out: string;
  readonly err: string;
}

/** Runs an example in a folder of its own. It must end with 0 and its verdict, and leave nothing behind. */
async function run(name: string): Promise<Ran> {
  const folder = await temporaryFolder();
  const [temporary, repository] = [join(folder, "a b"), join(folder, "the repository")];
  await mkdir(temporary);
  await symlink(ROOT, repository);
  // What the reader has in his environment is not taken: no other service, and no GPU.
  const mine = { VRAM_BACKEND: "cuda", VRAM_SOCKET: join(folder, "nobody is here") };
  const env = { ...process.env, ...mine, TMPDIR: temporary };
  const path = join(repository, "examples", name);
  const { code, out, err } = await new Promise<Ran & { readonly code: unknown }>((resolve) => {
    const options = { cwd: folder, env, timeout: secondsOf(name) * 10_000 };
    const child = execFile(path, options, (error, ...[out, err]) =>
      resolve({ code: child.exitCode ?? error?.signal, out, err }),
    );
  });
  expect(code, `${out}\n${err}`).toBe(0);
  expect(out).toMatch(
    /\n✓ [^\n]+\n {2}On the EMULATED device: no GPU was used, and nothing here is evidence about one\.\n$/,
  );
  expect(`${out}${err}`).not.toContain("\u001B");
  expect(await readdir(temporary)).toEqual([]);
  for (const [, pid] of out.matchAll(/\(pid (\d+), backend emulated\)/g)) {
    expect(() => process.kill(Number(pid), 0), `service ${pid} is still there`).toThrow("ESRCH");
  }
  return { out, err };
}

/** What is printed between one heading of a walkthrough and the next. */
const part = (out: string, heading: string): string =>
  out.split(/^# /m).find((text) => text.startsWith(heading)) ?? expect.fail(`no part ${heading} in ${out}`);

const checked = new Set<string>();

/** Runs an example; `check` looks at what it is there to show. */
function example(name: string, what: string, check: (ran: Ran) => void): void {
  checked.add(name);
  it(`${name}: ${what}`, async () => check(await run(name)), secondsOf(name) * 10_000 + 10_000);
}

describe("examples", () => {
  example(
    "01-walkthrough.sh",
    "[VR-API-01] [VR-VER-06] a flipped bit is caught, also over a restart",
    ({ out, err }) => {
      expect(part(out, "the service starts").match(/ {2}yes {7}sealed /g)).toHaveLength(2);
      expect(part(out, "it measures them").match(/verified {2}fsverity:[0-9a-f]{64} {2}measured/g)).toHaveLength(2);
      const leased = part(out, "a program runs under a lease");
      expect(leased).toContain("this program relies on small\n");
      expect(leased).toContain("(refused, exit 1)\n(exit 0)");
      expect(err).toContain("SHARD_BUSY");

      const flipped = part(out, "one bit flips");
      expect(flipped).toMatch(/small {2}FAILED {2}MEASUREMENT_MISMATCH.*block {4}4 KiB at 65536.*\(exit 3\)/s);
      expect(flipped).toMatch(/\(exit 5\)\n\n$/);
      expect(part(out, "the service is killed").match(/ {2}no {8}blocked /g)).toHaveLength(2);
      expect(out).not.toContain("\nthis must not run");
      expect(part(out, "somebody found out why").match(/ {2}yes {7}sealed /g)).toHaveLength(2);
      expect(part(out, "everything that happened")).toContain("intact: nothing wrong was found");
    },
  );

  example("02-two-checkpoints.sh", "[VR-API-05] who expects one model is refused the other", ({ out, err }) => {
    expect(part(out, "A is sealed")).toMatch(/model\.norm\.weight.*\(exit 0\)/s);
    expect(part(out, "somebody seals B")).toContain("names, types and shapes are equal");
    const refused = part(out, "the engine that expects A is refused");
    expect(refused).toMatch(/^[^\n]*\n\$ attach model --expect fsverity:[0-9a-f]{64}\n\(exit 3\)\n\n$/);
    expect(err).toContain("DIGEST_MISMATCH");
    expect(part(out, "who attached")).toMatch(
      /3 "type":"export_ended"\s+1 "type":"request_refused"\s+3 "type":"shard_exported"/,
    );
  });

  example(
    "03-attest.sh",
    "[VR-ATT-01] a statement is checked without the service, and refused where it should be",
    ({ out }) => {
      const held = part(out, "the auditor holds the statement");
      expect(held).toMatch(/✓ signed by this key.*✓ about the bytes of your file.*✓ whoever answered had these bytes/s);
      expect(held).toMatch(/✓ logged: .*· hardware evidence: none.*\(exit 0\)/s);
      expect(part(out, "an emulated device does not pass")).toMatch(/refused \(backend\).*\(exit 5\)/s);
      expect(part(out, "one byte of the auditor's file")).toMatch(/refused \(digest\).*\(exit 3\)/s);
      expect(part(out, "the same statement is shown again")).toMatch(/refused \(nonce\).*\(exit 3\)/s);
    },
  );

  example("04-sharded-model.sh", "[VR-SEAL-06] [VR-VER-03] a damaged set: which file, bytes and tensor", ({ out }) => {
    const member = (index: number): string => `llama/model-0000${index}-of-00003\\.safetensors`;
    expect(part(out, "would it fit")).toMatch(/llama fits\n.*\(exit 0\)/s);
    expect(part(out, "a directory stands for")).toMatch(/(verified {2}fsverity:[^\n]*\n[^\n]*){3}\(exit 0\)/);
    expect(part(out, "what may be said")).toContain("  member    2 of 3\n");
    const flipped = part(out, "one bit flips in the second file");
    const found =
      `${member(1)} {2}verified .*\n${member(2)} {2}FAILED {2}MEASUREMENT_MISMATCH\n {2}damaged {2}512\\.0 KiB at 0\n` +
      ` {2}block {4}4 KiB at 299008: 1 byte differs, model\\.layers\\.2\\.mlp\\.up_proj\\.weight\n`;
    expect(flipped).toMatch(new RegExp(`${found} {2}tensors .*\n${member(3)} {2}verified .*\n\\(exit 3\\)\n`));
    const spread = part(out, "the library spreads a set");
    expect(spread).toMatch(new RegExp(`device 0: ${member(1)}\ndevice 1: ${member(2)}\ndevice 0: ${member(3)}\n`));
    expect(spread).toMatch(/byte 300000 of model\.layers\.2\.mlp\.up_proj\.weight\n/);
    expect(spread).toMatch(/\ndevice 0: running ?\ndevice 1: stopped llama\/model-00002-of-00003/);
  });

  example(
    "05-library.mjs",
    "[VR-VER-01] [VR-IN-04] a program finds what changed, and reacts to the code",
    ({ out }) => {
      expect(part(out, "the model is sealed")).toMatch(/journal: vram_sealed.*journal: lease_granted.*not evicted/s);
      const watched = part(out, "it is verified again and again");
      expect(watched).toMatch(
        /\n(verified: 2097152 bytes measured\n){3} {2}journal: lease_revoked, model, unreliable\n {2}journal: worker_stopped/,
      );
      expect(watched).toContain("MEASUREMENT_MISMATCH (retriable: false): byte 123456 of model.embed_tokens.weight\n");
      expect(part(out, "nothing may rely on it")).toContain("evicted, zeroed: true\n");
      expect(part(out, "somebody knows why")).toMatch(/journal: worker_resumed.*journal: vram_sealed/s);
    },
  );

  example("06-audit-log.sh", "[VR-AUD-02] changes to the log are found and named", ({ out }) => {
    expect(part(out, "all of it is read")).toMatch(/✓ intact.*truncation.*\(exit 0\)/s);
    expect(part(out, "a proof that one line")).toMatch(/✓ entry \d+ is in the log .*\n {2}vram_sealed: .*\n\(exit 0\)/);
    const lease = /^.*"type":"lease_granted"/ms.exec(part(out, "something happens"))?.[0].match(/^"type"/gm)?.length;
    const seq = (lease ?? Number.NaN) - 1;
    expect(part(out, "one byte of a line")).toMatch(
      new RegExp(`damaged: first at seq ${seq}, leaves.*\\(exit 3\\)`, "s"),
    );
    expect(part(out, "a line is removed")).toMatch(
      new RegExp(`damaged: first at seq ${seq}, missing.*\\(exit 3\\)`, "s"),
    );
    expect(part(out, "the end is cut off")).toMatch(/truncated: the newest stored log checkpoint.*\(exit 3\)/s);
    expect(part(out, "more happens")).toMatch(/✓ intact.*remembered {7}the log continues it\n.*\(exit 0\)/s);
    expect(part(out, "the whole log is put back")).toMatch(/✓ intact.*not excluded\n {4}truncation.*\(exit 0\)/s);
    expect(part(out, "the log checkpoint that was")).toMatch(
      /truncated: the remembered log checkpoint covers.*\(exit 3\)/s,
    );
  });

  example("07-python-consumer.sh", "[VR-API-05] a program reads in place, and is told", ({ out, err }) => {
    const attached = part(out, "a program attaches");
    expect(attached).toMatch(
      /its first weight is 1\.0, (by|without) NumPy\nthe view is read-only\nat work under lease-/,
    );
    expect(part(out, "who has it now")).toMatch(/leases {4}1\n {2}exports {3}1 now.*\(exit 1\)/s);
    expect(err).toContain("SHARD_BUSY");
    expect(part(out, "the next verification")).toMatch(
      /MEASUREMENT_MISMATCH.*\(exit 3\)\ntold: unreliable\nits first weight is 1\.5: it must not be used\nthe program has ended\n/s,
    );
    const recorded = part(out, "all of it is on record").match(/(?<="type":")[a-z_]+/g);
    expect(recorded?.toSorted()).toEqual(
      [
        "lease_granted",
        "shard_exported",
        "lease_revoked",
        "export_ended",
        "worker_stopped",
        "seal_verification_failed",
      ].toSorted(),
    );
  });

  example("08-operating.sh", "[VR-API-03] [VR-API-04] [VR-VER-06] restart, alert, resume, drain", ({ out, err }) => {
    const ready = 'GET /readyz: {"status":"ok"}';
    expect(part(out, "the service is told what")).toMatch(/verify\.maxAgeMs +10 min .*config\.toml line 5\n/);
    expect(part(out, "it is killed")).toContain(ready);
    expect(part(out, "one bit of b flips")).toMatch(/b {2}verified .*which is fresh enough\n\(exit 0\)/);
    const stopped = part(out, "one that measures does");
    expect(stopped).toMatch(/b {2}FAILED {2}MEASUREMENT_MISMATCH.*\(exit 3\)\nGET \/readyz: {"status":"not-ready"}/s);
    expect(stopped).toMatch(/\(exit 5\)\n.*\na {2}verified .* measured in .*\n\(exit 0\)/);
    const figures = part(out, "that is a figure");
    expect(figures.match(/worker_stopped\{device="EMU-[0-9a-f-]+"\} [01]/g)?.map((line) => line.at(-1))).toEqual([
      "0",
      "1",
    ]);
    expect(figures).toMatch(/it fires for the second device, and for no other|\(no promtool here/);
    expect(part(out, "the memory was tested")).toContain(ready);
    expect(part(out, "the service is told to end")).toMatch(
      /at work\n.*\(exit 1\)\nthe program has ended by itself\n/s,
    );
    expect(err).toContain("SERVICE_STOPPING");
    expect(part(out, "everything was zeroed")).toMatch(
      /"lease_released"\n("type":"vram_deallocated"\n"zeroed":true\n){2}/,
    );
    expect(part(out, "everything was zeroed")).toMatch(/✓ intact.*\(exit 0\)/s);
  });

  it("all of them are run here, numbered without a gap", () => {
    expect([...checked]).toEqual(EXAMPLES);
    expect(EXAMPLES.map((name) => Number(name.slice(0, 2)))).toEqual(EXAMPLES.map((_, index) => index + 1));
  });

  it("the README has each of them, in order, and no other; and names every file of the folder", () => {
    const rows = [...README.matchAll(/^\| \[(\S+)\]\((\S+)\) \|/gm)];
    expect(rows.map(([, name]) => name)).toEqual(EXAMPLES);
    expect(rows.map(([, , target]) => target)).toEqual(EXAMPLES);
    const commands = README.match(/(?<=^(bash|node) examples\/)\S+$/gm);
    expect(commands).toEqual(EXAMPLES);
    const linked = [...README.matchAll(/\]\(([^)./][^)]*)\)/g)].map(([, target = ""]) => target.replace(/\/.*/, ""));
    const files = readdirSync(join(ROOT, "examples")).filter((name) => name !== "README.md");
    expect([...new Set(linked)].toSorted()).toEqual(files.toSorted());
  });
});
