/** Proof bundles: whatever is changed in one is found, and what is said of a whole one is what was checked. */
import { spawnSync } from "node:child_process";
import { verify } from "node:crypto";
import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { preAuthEncoding } from "../../src/attest/envelope.ts";
import { createStatementSigner } from "../../src/attest/keys.ts";
import { canonicalJson } from "../../src/bytes.ts";
import { LIMITS } from "../../src/limits.ts";
import { checkBundle } from "../../src/proof/check.ts";
import { openSigned } from "../../src/proof/test-result.ts";
import { type BundleKnobs, COMMIT, FEATURES, makeBundle, sha256, TESTS } from "../helpers/proof.ts";

const made: string[] = [];

function bundle(knobs?: BundleKnobs) {
  const one = makeBundle(knobs);
  made.push(one.folder);
  return one;
}

afterEach(() => {
  for (const folder of made.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** Kinds and paths of what is wrong. */
async function faultsOf(folder: string, publicKey?: string): Promise<readonly string[]> {
  const checked = await checkBundle(folder, publicKey === undefined ? {} : { publicKey });
  return checked.ok ? [] : checked.faults.map(({ kind, path }) => `${kind} ${path}`);
}

/** A signed payload with members of the statement or of its predicate replaced. */
const altered =
  (change: (statement: { predicate: Record<string, unknown> } & Record<string, unknown>) => unknown) =>
  (payload: Uint8Array): Uint8Array =>
    Buffer.from(canonicalJson(change(JSON.parse(Buffer.from(payload).toString()) as never)));

describe("[VR-PRF-01] a proof bundle", () => {
  it("is whole as it was made, and says whose key that shows", async () => {
    const { folder, signer } = bundle();
    const requirements = { all: 2, shownWithoutGpu: 1, failed: 0, shownOnGpu: 0 };
    const said = { result: "WARNED", commit: COMMIT, partial: undefined, requirements, onHardware: 0 };
    const common = { ok: true, files: 6, keyId: signer.keyId, ...said };
    const counts = { passed: 2, failed: 0, skipped: 1 };
    expect(await checkBundle(folder)).toEqual({ ...common, counts, keyGiven: false });
    expect(await checkBundle(folder, { publicKey: signer.publicPem })).toEqual({ ...common, counts, keyGiven: true });
  });

  it("is read by sha256sum and openssl, too", () => {
    const { folder } = bundle();
    const sums = spawnSync("sha256sum", ["--check", "--strict", "SHA256SUMS"], { cwd: folder, encoding: "utf8" });
    expect(sums).toMatchObject({ status: 0, stderr: "" });
    expect(sums.stdout.match(/: OK$/gm)).toHaveLength(6);
    const listed = readFileSync(join(folder, "SHA256SUMS"), "utf8");
    const written = spawnSync("sh", ["-c", "sha256sum $(cut -c67- SHA256SUMS)"], { cwd: folder, encoding: "utf8" });
    expect(written.stdout).toBe(listed);

    const envelope = JSON.parse(readFileSync(join(folder, "statement.dsse.json"), "utf8")) as {
      payload: string;
      signatures: [{ sig: string }];
    };
    const outside = bundle().folder;
    writeFileSync(join(outside, "pae"), preAuthEncoding(Buffer.from(envelope.payload, "base64")));
    writeFileSync(join(outside, "sig"), Buffer.from(envelope.signatures[0].sig, "base64"));
    const key = join(folder, "statement.pub.pem");
    const verify = ["dgst", "-sha256", "-verify", key, "-signature", "sig", "pae"];
    expect(spawnSync("openssl", verify, { cwd: outside, encoding: "utf8" }).stdout).toContain("Verified OK");
  });

  it("is not whole with any file changed, cut, lengthened, renamed or gone", async () => {
    const { paths } = bundle();
    const ways: readonly (readonly [string, (path: string) => void])[] = [
      [
        "one bit",
        (path) => {
          const bytes = readFileSync(path);
          bytes[Math.floor(bytes.length / 2)] = (bytes[Math.floor(bytes.length / 2)] ?? 0) ^ 1;
          writeFileSync(path, bytes);
        },
      ],
      [
        "cut",
        (path) => {
          truncateSync(path, readFileSync(path).length - 2);
        },
      ],
      [
        "longer",
        (path) => {
          appendFileSync(path, "x");
        },
      ],
      [
        "renamed",
        (path) => {
          renameSync(path, `${path}.old`);
        },
      ],
      [
        "gone",
        (path) => {
          rmSync(path);
        },
      ],
    ];
    for (const path of paths) {
      for (const [what, damage] of ways) {
        const { folder } = bundle();
        damage(join(folder, path));
        const found = await faultsOf(folder).catch((error: unknown) => [String(error)]);
        expect(found.join(), `${path}, ${what}`).toContain(path);
      }
    }
  });

  it("is not whole with its statement spaced in another way", async () => {
    const { folder } = bundle();
    const path = join(folder, "statement.dsse.json");
    const text = readFileSync(path, "utf8");
    const { payload, ...rest } = JSON.parse(text) as Record<string, unknown>;
    const turned = `${JSON.stringify({ ...rest, payload }, null, 2)}\n`;
    for (const other of [`${text}\n`, JSON.stringify(JSON.parse(text)), text.replace("{", "{ "), turned]) {
      writeFileSync(path, other);
      expect(await faultsOf(folder)).toEqual(["statement statement.dsse.json"]);
    }
  });

  it("is not whole with the other signature that is as valid", () => {
    const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
    const { folder, signer } = bundle();
    const text = readFileSync(join(folder, "statement.dsse.json"), "utf8");
    const envelope = JSON.parse(text) as { payload: string; signatures: [{ sig: string }] };
    const der = Buffer.from(envelope.signatures[0].sig, "base64");
    const at = 4 + (der[3] ?? 0) + 2;
    const other = order - BigInt(`0x${der.subarray(at).toString("hex")}`);
    // s is below n/2, so n − s has its highest bit set, and a zero before it.
    const s = Buffer.from(`00${other.toString(16).padStart(64, "0")}`, "hex");
    const changed = Buffer.concat([der.subarray(0, at - 1), Buffer.of(s.byteLength), s]);
    changed[1] = changed.byteLength - 2;
    const pae = preAuthEncoding(Buffer.from(envelope.payload, "base64"));
    expect(verify("sha256", pae, { key: signer.publicPem, dsaEncoding: "der" }, changed)).toBe(true);
    const forged = text.replace(envelope.signatures[0].sig, changed.toString("base64"));
    expect([openSigned(Buffer.from(text))?.keyId, openSigned(Buffer.from(forged))]).toEqual([signer.keyId, undefined]);
  });

  it("is not whole with a file that is too large to be one of it, or a list that is a pipe", async () => {
    const { folder } = bundle();
    truncateSync(join(folder, "index.html"), LIMITS.proofFileBytes + 1);
    expect(await faultsOf(folder)).toEqual(["changed index.html"]);
    rmSync(join(folder, "SHA256SUMS"));
    expect(spawnSync("mkfifo", [join(folder, "SHA256SUMS")]).status).toBe(0);
    expect(await faultsOf(folder)).toEqual(["added SHA256SUMS"]);
  });

  it("is not whole with anything added: a file, a link, a file in a folder, an empty folder", async () => {
    const { folder } = bundle();
    writeFileSync(join(folder, "more.txt"), "");
    mkdirSync(join(folder, "below"));
    writeFileSync(join(folder, "below", "SHA256SUMS"), "");
    symlinkSync("/etc/hostname", join(folder, "link"));
    mkdirSync(join(folder, "nothing"));
    expect(await faultsOf(folder)).toEqual([
      ...["added link", "added below/SHA256SUMS", "added more.txt", "added nothing"],
    ]);
  });

  it("does not follow a link that stands for a listed file", async () => {
    const { folder } = bundle();
    renameSync(join(folder, "index.html"), join(folder, "..", `${sha256(folder)}.html`));
    made.push(join(folder, "..", `${sha256(folder)}.html`));
    symlinkSync(join(folder, "..", `${sha256(folder)}.html`), join(folder, "index.html"));
    expect(await faultsOf(folder)).toEqual(["added index.html", "missing index.html"]);
  });

  it("is refused with another key than the one that is asked for, or none", async () => {
    const { folder } = bundle();
    const stranger = createStatementSigner();
    expect(await faultsOf(folder, stranger.publicPem)).toEqual(["signature statement.dsse.json"]);
    await expect(checkBundle(folder, { publicKey: "no key" })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    const { folder: keyless } = bundle({ files: { "statement.pub.pem": "no key\n" } });
    expect(await faultsOf(keyless)).toEqual(["signature statement.pub.pem"]);
  });

  it.each([
    [
      "a better result",
      (s: object) => ({ ...s, predicate: { ...(s as { predicate: object }).predicate, result: "PASSED" } }),
      "result",
    ],
    [
      "no skips",
      (s: object) => ({ ...s, predicate: { ...(s as { predicate: object }).predicate, warnedTests: [] } }),
      "result",
    ],
    ["another type", (s: object) => ({ ...s, predicateType: "https://example.com/other" }), "statement"],
    ["a field more", (s: object) => ({ ...s, more: 1 }), "statement"],
    ["no subject", (s: object) => ({ ...s, subject: [] }), "statement"],
  ])("is refused if what was signed has %s than the lists", async (_, change, kind) => {
    const { folder } = bundle({ payload: altered(change) });
    expect(await faultsOf(folder)).toEqual([`${kind} statement.dsse.json`]);
  });

  it("is refused if its lists are none", async () => {
    const lists = ["tests.json", "features.json", "requirements.json"];
    for (const list of lists)
      expect(await faultsOf(bundle({ files: { [list]: "[]" } }).folder)).toEqual([`result ${list}`]);
  });

  it("is refused if its matrix is not the one of what ran", async () => {
    const matrix = JSON.parse(readFileSync(join(bundle().folder, "requirements.json"), "utf8")) as {
      rows: readonly Record<string, unknown>[];
    };
    for (const change of [{ withoutGpu: "passed" }, { onGpu: "passed" }, { evidence: [] }, { gpuPassed: 1 }]) {
      const rows = matrix.rows.map((row) => ({ ...row, ...change }));
      const altered = bundle({ files: { "requirements.json": JSON.stringify({ ...matrix, rows }) } });
      expect(await faultsOf(altered.folder)).toEqual(["result requirements.json"]);
    }
  });

  it("with a failed test, or a file that failed as a whole, has failed", async () => {
    const [first, ...rest] = TESTS.files;
    if (first === undefined) throw new Error("no file");
    const failed = { ...TESTS, files: [{ ...first, error: "could not be loaded" }, ...rest] };
    const checked = await checkBundle(bundle({ tests: failed }).folder);
    expect(checked).toMatchObject({ ok: true, result: "FAILED", counts: { failed: 1 } });
    const [feature] = FEATURES.features;
    if (feature === undefined) throw new Error("no feature");
    const scenarios = feature.scenarios.map((one) => ({ ...one, status: "failed" as const }));
    const features = { ...FEATURES, features: [{ ...feature, scenarios }] };
    expect(await checkBundle(bundle({ features }).folder)).toMatchObject({ ok: true, result: "FAILED" });
  });

  it("passed only if nothing was left out", async () => {
    const tests = { ...TESTS, files: TESTS.files.slice(0, 1) };
    expect(await checkBundle(bundle({ tests }).folder)).toMatchObject({ ok: true, result: "PASSED" });
    const partial = { ...tests, partial: "tests test/unit/a.test.ts" };
    expect(await checkBundle(bundle({ tests: partial }).folder)).toMatchObject({ ok: true, result: "WARNED" });
    const nothing = [{ tests: { ...tests, files: [] } }, { tests, features: { ...FEATURES, features: [] } }];
    for (const knobs of nothing) {
      expect(await checkBundle(bundle(knobs).folder)).toMatchObject({ ok: true, result: "WARNED" });
    }
  });

  it("has names in its statement that fit, whatever they are written in", async () => {
    const [file] = TESTS.files;
    if (file === undefined) throw new Error("no file");
    const title = "\u{1F4A5}\u0001".repeat(1000);
    const tests = Array.from({ length: 1100 }, (_, index) => ({
      ...{ title: `${index} ${title}`, ms: 1 },
      status: index % 2 === 0 ? ("failed" as const) : ("skipped" as const),
    }));
    const checked = await checkBundle(bundle({ tests: { ...TESTS, files: [{ ...file, tests }] } }).folder);
    expect(checked).toMatchObject({ ok: true, result: "FAILED", counts: { failed: 550, skipped: 550 } });
  });

  it("of another form is named, and a folder that is none", async () => {
    const { folder } = bundle();
    for (const text of ["", "no sums\n", `${"0".repeat(64)}  ../outside\n`, `${"0".repeat(64)}  /etc/hostname\n`]) {
      writeFileSync(join(folder, "SHA256SUMS"), text);
      expect(await faultsOf(folder), text).toEqual(["sums SHA256SUMS"]);
    }
    await expect(checkBundle(join(folder, "results"))).rejects.toMatchObject({ code: "SOURCE_NOT_FOUND" });
    await expect(checkBundle(join(folder, "nowhere"))).rejects.toMatchObject({ code: "SOURCE_NOT_FOUND" });
    await expect(checkBundle(join(folder, "index.html"))).rejects.toMatchObject({ code: "SOURCE_NOT_FOUND" });
    expect(readdirSync(folder)).toHaveLength(8);
  });

  it("stops when it is told to", async () => {
    const { folder } = bundle();
    await expect(checkBundle(folder, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "ABORTED" });
  });
});
