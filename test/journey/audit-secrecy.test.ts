/** Keys and pointers that are known beforehand are looked for in all that a journey leaves behind. */
import { createPrivateKey, randomBytes } from "node:crypto";
import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { Clock } from "../../src/clock.ts";
import { encodeSet } from "../../src/index.ts";
import { createMetrics } from "../../src/metrics/metrics.ts";
import { encodeSeal } from "../../src/seal/encoding.ts";
import { createFaultPlan } from "../../src/testing.ts";
import { vram as vramCli } from "../helpers/cli.ts";
import { recordingNarrator } from "../helpers/narration.ts";
import {
  derivedKey,
  epochKeys,
  epochOf,
  everyForm,
  findPointers,
  findSecrets,
  formsOf,
  plantState,
  type Secret,
  secretsOf,
  textOfFolder,
  watchBorder,
} from "../helpers/secrets.ts";
import { MIB, openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

const QUARTER_MS = 15 * 60_000;

/** The machine's clock, which a test can put forward. */
function forwardClock(): Clock & { add(ms: number): void } {
  let ahead = 0;
  return {
    wallMs: () => Date.now() + ahead,
    monotonicMs: () => performance.now() + ahead,
    sleep: () => new Promise((resolve) => setImmediate(resolve)),
    add: (ms) => {
      ahead += ms;
    },
  };
}

interface Planted {
  readonly stateDir: string;
  readonly root: Uint8Array;
  readonly k0: Uint8Array;
}

async function plant(): Promise<Planted> {
  const stateDir = `${await temporaryFolder()}/state`;
  const [root, k0] = [randomBytes(32), randomBytes(32)];
  await plantState(stateDir, root, k0);
  return { stateDir, root, k0 };
}

const caught = (task: Promise<unknown>): Promise<unknown> => task.catch((error: unknown) => error);

/** Seals, verifies, fails in every way there is, over several epochs; what was shown meanwhile, as text. */
async function journey({ stateDir, root, k0 }: Planted, pointers: Set<bigint>): Promise<string> {
  const [faults, clock, metrics] = [createFaultPlan(), forwardClock(), await createMetrics()];
  const [json, text] = [await recordingNarrator(), await recordingNarrator({ format: "text" })];
  const readers = [json.narrator, text.narrator, metrics.reader];
  const { vram, open, entries, flipBit } = await openSmall({ stateDir, readers }, { faults, clock });
  watchBorder(open.driver, pointers);
  const { path, bytes } = await randomFile(3 * MIB);
  const sealed = await vram.seal(path, { name: "m", sha256: true });
  const set = await vram.sealSet(path, { name: "s", shards: 1 });
  const { version: _version, mac, ...fields } = sealed.seal;
  const uuid = fields.deviceUuid;
  // The secrets that are looked for are those that are in use.
  expect(toHex(hmac(sha256, derivedKey(root, "seal", "emulated", uuid), encodeSeal(fields)))).toBe(mac);
  expect(toHex(derivedKey(root, "seal-id", "emulated", uuid)).slice(0, 32)).toBe(fields.keyId);
  const { digest, macs } = set.set;
  expect(toHex(hmac(sha256, derivedKey(root, "set", "emulated", ""), encodeSet(digest, macs)))).toBe(set.set.mac);
  const shown: unknown[] = [sealed, set, vram, vram.list(), vram.devices(), vram.checkPolicy(), open.decision];
  clock.add(QUARTER_MS);
  shown.push(await vram.verify("m", { seal: sealed.seal, salt: "ab" }), await vram.verifySet(set.set));
  shown.push(await caught(vram.verify("m", { seal: { ...sealed.seal, digest: "0".repeat(64) } })));
  shown.push(await caught(vram.verifySet({ ...set.set, mac: "0".repeat(64) })));
  shown.push(await caught(vram.seal({ bytes, name: "w" }, { expected: "0".repeat(64) })));
  shown.push(await caught(vram.seal("/no/such/file")), await caught(vram.seal(path, { name: "" })));
  clock.add(QUARTER_MS);
  await flipBit("m", 5, 5);
  shown.push(await caught(vram.verify("m")), await caught(vram.seal(path, { name: "x" })));
  shown.push(await vram.evict("m"), await caught(vram.resume("seen")), await caught(openSmall({ stateDir })));
  for (let nth = 1; nth <= 12; nth += 1) {
    faults.reset();
    faults.failCall("*", nth, nth % 2 === 0 ? 1 : 2);
    shown.push(await caught(vram.seal(path, { name: "again" })));
    for (const record of vram.list()) shown.push(await vram.evict(record.shardId));
  }
  clock.add(QUARTER_MS);
  faults.reset();
  await vram.seal(path, { name: "m" });
  faults.overrideAccess(3);
  shown.push(await caught(vram.verify("m")));
  faults.reset();
  faults.breakExecution("fill", 1, 700);
  shown.push(await vram.evict("m"), open.system, open.workers, open.devices);
  await vram.close();
  await expectMacs(stateDir, k0);
  shown.push(entries, json.text(), text.text(), await metrics.text());
  expect(json.lines().length).toBeGreaterThan(100);
  return shown.map(everyForm).join("\n");
}

/** The mac keys that are looked for are those of the lines. */
async function expectMacs(stateDir: string, k0: Uint8Array): Promise<void> {
  const lines = (await readFile(join(stateDir, "audit", "000001.jsonl"), "utf8")).trimEnd().split("\n");
  for (const line of lines) {
    const [, epoch = "", mac = ""] = /"epoch":(\d+),.*"mac":"([0-9a-f]{64})"\}$/.exec(line) ?? [];
    const input = Buffer.from(`vram-residency/audit/v1\n${line.slice(0, -75 + 1)}`);
    expect(toHex(hmac(sha256, epochKeys(k0, Number(epoch)).macKey, input))).toBe(mac);
  }
}

/** What the commands say about this state, in every form they have. */
async function commands(stateDir: string): Promise<string> {
  const { path } = await randomFile(5000);
  const figures = `${path}.prom`;
  const at = ["--state-dir", stateDir];
  const runs = [
    ...[["--json"], ["--log-format", "text"], ["--log-format", "json"], ["--tamper"]].map((args) => ["try", ...args]),
    ["try", "--json", "--expect", "0".repeat(64)],
    ["try", "--metrics", figures],
  ].map((args) => [...args, "--log-level", "debug", ...at, path]);
  const audits = [["verify"], ["tail", "-n", "500"], ["keys"], ["prove", "3"]].flatMap((args) => [
    ["audit", ...args, ...at],
    ["audit", ...args, "--json", ...at],
  ]);
  const texts: string[] = [];
  for (const args of [
    ...runs,
    ...audits,
    ["audit", "verify", "--epoch-key", join(stateDir, "audit-epoch.key"), ...at],
  ]) {
    const { out, err } = await vramCli(args);
    expect(out + err, args.join(" ")).not.toBe("");
    texts.push(out, err);
  }
  const { code, out, err } = await vramCli(["audit", "keys", "--escrow", join(stateDir, "escrow"), ...at]);
  expect(code, "the key is there already").toBe(1);
  return [...texts, out, err, await readFile(figures, "utf8")].join("\n");
}

/** What is said when a key file is not as it should be: one digit too few, one too many, one that is none. */
async function brokenKeys(stateDir: string): Promise<string> {
  const breaks: ((text: string) => string)[] = [
    (text) => text.slice(0, -2),
    (text) => `${text}0`,
    (text) => text.replace(/.(\s*)$/, "g$1"),
    (text) => text.replace(/.{3}\n-----END/, "!!!\n-----END"),
  ];
  const texts: string[] = [];
  for (const file of ["root.key", "audit-epoch.key", "audit-log.key"]) {
    for (const breakIt of breaks) {
      const copy = `${await temporaryFolder()}/state`;
      await cp(stateDir, copy, { recursive: true });
      const whole = await readFile(join(copy, file), "latin1");
      await writeFile(join(copy, file), breakIt(whole));
      if (breakIt(whole) === whole) continue;
      const error = await caught(openSmall({ stateDir: copy }).then(({ vram }) => vram.close()));
      // PEM may have text behind its end; all else is refused.
      if (error instanceof Error) texts.push(everyForm(error));
      else expect([file, breakIt(whole)]).toEqual(["audit-log.key", `${whole}0`]);
      const { out, err } = await vramCli(["audit", "keys", "--json", "--state-dir", copy]);
      texts.push(out, err);
    }
  }
  return texts.join("\n");
}

describe("what a journey leaves behind", () => {
  it("[VR-AUD-01] [VR-NAR-02] [VR-SEAL-03] has no key and no pointer: log, narration, metrics, errors, commands", async () => {
    const planted = await plant();
    const { stateDir, root, k0 } = planted;
    const pointers = new Set<bigint>();
    const shown = [await journey(planted, pointers), await commands(stateDir)];
    const secrets = await secretsOf(stateDir, root, k0);
    shown.push(await brokenKeys(stateDir));
    const log = await textOfFolder(join(stateDir, "audit"));
    shown.push(
      log,
      await readFile(join(stateDir, "state.json"), "utf8"),
      await readFile(join(stateDir, "lock"), "utf8"),
    );
    const all = shown.join("\n");
    expect(await epochOf(stateDir)).toBeGreaterThan(6);
    for (const type of ["vram_sealed", "seal_verification_failed", "policy_violation"]) expect(log).toContain(type);
    expect(pointers.size).toBeGreaterThan(50);
    expect(secrets.length).toBeGreaterThan(20);
    expect(findSecrets(all, secrets)).toEqual([]);
    expect(findPointers(all, pointers)).toEqual([]);
    // The key files are where the keys are, and the search knows them.
    const files = ["root.key", "audit-epoch.key", "audit-log.key"].map((file) =>
      readFile(join(stateDir, file), "latin1"),
    );
    const keys = (await Promise.all(files)).join("\n");
    expect(findSecrets(keys, secrets).toSorted()).toEqual(
      [`K(${await epochOf(stateDir)}): hex`, "log's seed: base64", "root key: hex"].toSorted(),
    );
    // Written without becoming text, the signing key is what others make of it.
    const pem = await readFile(join(stateDir, "audit-log.key"), "latin1");
    expect(pem).toBe(createPrivateKey(pem).export({ format: "pem", type: "pkcs8" }));
  });
});

describe("the search", () => {
  const bytes = Uint8Array.from({ length: 32 }, (_, index) => (index * 37 + 200) % 256);
  const secrets: Secret[] = [{ name: "k", bytes }];

  it.each([...formsOf(bytes).keys()])("finds a key and either half of it as: %s", (form) => {
    for (const [from, to] of [
      [0, 32],
      [0, 16],
      [16, 32],
    ] as const) {
      for (const text of formsOf(bytes.subarray(from, to), from).get(form) ?? []) {
        expect(findSecrets(`before ${text} after`, secrets), text).toContain(`k: ${form}`);
      }
    }
    expect(findSecrets("nothing of the kind", secrets)).toEqual([]);
  });

  it("finds what inspection and JSON make of a key, and keys that stand within other bytes", () => {
    const shown = [
      bytes,
      Buffer.from(bytes),
      [...bytes],
      { deep: { deeper: bytes } },
      new Error("x", { cause: bytes }),
    ];
    for (const value of shown) expect(findSecrets(everyForm(value), secrets)).not.toEqual([]);
    for (const before of [0, 1, 2, 3]) {
      const text = Buffer.concat([Buffer.alloc(before, 9), bytes, Buffer.alloc(5, 9)]).toString("base64");
      expect(findSecrets(text, secrets), text).toEqual(["k: base64"]);
    }
    const spaced = toHex(bytes).replace(/../g, "$&:");
    expect(findSecrets(spaced, secrets)).toEqual(["k: hex"]);
    expect(findPointers("at 0x7FFF00001000", new Set([0x7fff_0000_1000n]))).toEqual(["7fff00001000"]);
  });
});
