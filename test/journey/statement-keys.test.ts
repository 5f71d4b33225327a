/** The key that signs statements: made at the first start, kept, changed on record, never shown (VR-ATT-01). */
import { execFileSync, spawnSync } from "node:child_process";
import { createPrivateKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { promises } from "node:fs";
import { chmod, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { createStatementSigner, encodeStatementKey, type StatementSigner } from "../../src/attest/keys.ts";
import { checkStatement } from "../../src/offline.ts";
import type { StatementReply } from "../../src/service/replies.ts";
import { createDisk, type Disk, readLog, requireSoundLog } from "../helpers/audit-journey.ts";
import { recordingNarrator } from "../helpers/narration.ts";
import { everyForm, findSecrets, type Secret, textOfFolder } from "../helpers/secrets.ts";
import {
  CALLER,
  type Home,
  makeHome,
  NEVER,
  openFront,
  openTestService,
  type TestService,
} from "../helpers/service.ts";
import { codeOf, MIB, randomFile } from "../helpers/vram.ts";

const HEX = expect.stringMatching(/^[0-9a-f]{64}$/) as string;

let home: Home;
let path: string;
let next: string;

beforeEach(async () => {
  home = await makeHome();
  path = join(home.stateDir, "statement.key");
  next = `${path}.next`;
});
afterEach(() => void vi.restoreAllMocks());

const keyIdOf = (test: TestService): string => test.service.statementKeys().keyId;
const rotations = async () =>
  (await readLog(home.stateDir)).filter(({ type }) => type === "key_rotated").map(({ data }) => data);
/** What of the keys is in the state: nothing temporary may be. */
const files = async (): Promise<readonly string[]> =>
  (await readdir(home.stateDir)).filter((name) => name.includes("statement.key"));

async function plant(target: string, signer: StatementSigner = createStatementSigner()): Promise<StatementSigner> {
  await writeFile(target, encodeStatementKey(signer), { mode: 0o600 });
  return signer;
}

/** A statement about a shard that is sealed for it. */
async function statement(test: TestService): Promise<{ readonly reply: StatementReply; readonly digest: string }> {
  const file = await randomFile(MIB, "m");
  if (test.service.list().shards.length === 0) await (await test.service.seal({ path: file.path }, CALLER)).ended;
  const reply = await test.service.attest({ shard: "m" }, CALLER, NEVER);
  return { reply, digest: reply.record.digest };
}

async function faultOf({ reply, digest }: Awaited<ReturnType<typeof statement>>, publicKey: string): Promise<string> {
  const bytes = Buffer.from(JSON.stringify(reply.envelope));
  const checked = await checkStatement(bytes, { publicKey, digest, acceptBackends: ["emulated"] });
  return checked.ok ? "none" : checked.fault;
}

describe("the key of a state", () => {
  it("is made at the first start, for its owner only, and is kept over restarts", async () => {
    const first = await openTestService(home);
    const keys = first.service.statementKeys();
    expect(keys).toEqual({
      ...{ keyId: HEX, publicKey: expect.stringMatching(/^-----BEGIN PUBLIC KEY-----\n/) as string },
      logKey: expect.stringMatching(/^vram-residency\/[0-9a-f]{16}\+[0-9a-f]{8}\+\S+$/) as string,
      origin: expect.stringMatching(/^vram-residency\/[0-9a-f]{16}$/) as string,
    });
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect(first.of("service_started")).toMatchObject([{ statementKeyId: keys.keyId }]);
    const made = await readFile(path, "utf8");
    await first.close();
    const second = await openTestService(home);
    expect(second.service.statementKeys()).toEqual(keys);
    expect(second.of("service_started")).toMatchObject([{ statementKeyId: keys.keyId }]);
    expect(await readFile(path, "utf8")).toBe(made);
    expect(await files()).toEqual(["statement.key"]);
    expect(await rotations()).toEqual([]);
  });

  it.skipIf(spawnSync("openssl", ["version"]).status !== 0)(
    "is one that openssl reads, and calls the same",
    async () => {
      const test = await openTestService(home);
      const { keyId, publicKey } = test.service.statementKeys();
      const openssl = (...args: readonly string[]): Buffer => execFileSync("openssl", args, { stdio: "pipe" });
      expect(openssl("pkey", "-in", path, "-pubout").toString()).toBe(publicKey);
      expect(openssl("pkey", "-in", path, "-noout", "-text").toString()).toContain("prime256v1");
      const der = join(home.folder, "der");
      openssl("pkey", "-in", path, "-pubout", "-outform", "DER", "-out", der);
      expect(openssl("dgst", "-sha256", "-r", der).toString().slice(0, 64)).toBe(keyId);
    },
  );
});

describe("another key", () => {
  it("[VR-ATT-01] signs from then on, is on record with the reason; what the old one signed holds with the old one", async () => {
    const test = await openTestService(home);
    const [before, old] = [test.service.statementKeys(), await statement(test)];
    const after = await test.service.rotateStatementKey({ reason: "yearly ✓" });
    expect(after.keyId).not.toBe(before.keyId);
    expect(after).toMatchObject({ logKey: before.logKey, origin: before.origin });
    expect(test.service.statementKeys()).toEqual(after);
    expect(await rotations()).toEqual([
      {
        ...{ purpose: "statement", from: before.keyId, to: after.keyId, publicKey: after.publicKey },
        reason: "yearly ✓",
      },
    ]);
    expect(await files()).toEqual(["statement.key"]);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    const fresh = await statement(test);
    expect(await Promise.all([faultOf(old, before.publicKey), faultOf(old, after.publicKey)])).toEqual([
      "none",
      "signature",
    ]);
    expect(await Promise.all([faultOf(fresh, before.publicKey), faultOf(fresh, after.publicKey)])).toEqual([
      "signature",
      "none",
    ]);
    expect(test.of("statement_issued").map(({ keyId }) => keyId)).toEqual([before.keyId, after.keyId]);
    await test.close();
    const second = await openTestService(home);
    expect(second.service.statementKeys()).toEqual(after);
    expect(await rotations()).toHaveLength(1);
  });

  it("and another at the same time: one after the other, each on record as following the one before", async () => {
    const test = await openTestService(home);
    const first = keyIdOf(test);
    const made = await Promise.all(["a", "b", "c"].map((reason) => test.service.rotateStatementKey({ reason })));
    const told = (await rotations()).map(({ from, to, reason }) => [from, to, reason]);
    const ids = [first, ...made.map(({ keyId }) => keyId)];
    expect(told).toEqual(["a", "b", "c"].map((reason, index) => [ids[index], ids[index + 1], reason]));
    expect(keyIdOf(test)).toBe(ids[3]);
  });
});

describe("a change that does not come about", () => {
  let disk: Disk;
  beforeEach(() => {
    disk = createDisk();
    vi.spyOn(promises, "open").mockImplementation(disk.openFile as typeof promises.open);
  });

  it("[VR-AUD-03] for want of a record changes nothing: not the key, not the files, and may be tried again", async () => {
    const test = await openTestService(home);
    const [before, bytes, old] = [test.service.statementKeys(), await readFile(path), await statement(test)];
    disk.fill("key_rotated");
    expect(await codeOf(test.service.rotateStatementKey({ reason: "lost" }))).toBe("AUDIT_UNAVAILABLE");
    expect(test.service.statementKeys()).toEqual(before);
    expect(await readFile(path)).toEqual(bytes);
    expect(await files()).toEqual(["statement.key"]);
    expect(await rotations()).toEqual([]);
    expect(test.of("key_rotated"), "told to nobody: it did not happen").toEqual([]);
    const again = (): Promise<string> => codeOf(test.service.rotateStatementKey({ reason: "kept" }));
    await expect.poll(again, { timeout: 20_000 }).toMatch(/^no error/);
    expect(await rotations()).toMatchObject([{ from: before.keyId, to: keyIdOf(test), reason: "kept" }]);
    expect(await faultOf(old, before.publicKey)).toBe("none");
    await test.close();
    await requireSoundLog(home.stateDir);
  });

  it("because the new key cannot be written is not on record either", async () => {
    const test = await openTestService(home);
    const before = test.service.statementKeys();
    vi.mocked(promises.open).mockImplementation(async (file, ...rest) => {
      if (String(file).includes("statement.key")) {
        throw Object.assign(new Error("ENOSPC: no space left on device, open"), { code: "ENOSPC", syscall: "open" });
      }
      return disk.openFile(...([file, ...rest] as Parameters<Disk["openFile"]>));
    });
    expect(await codeOf(test.service.rotateStatementKey({ reason: "lost" }))).toBe("STATE_INVALID");
    expect(test.service.statementKeys()).toEqual(before);
    expect(await rotations()).toEqual([]);
    expect(await files()).toEqual(["statement.key"]);
  });
});

describe("a change that the process before did not finish", () => {
  it.each([["on record already"], ["not on record yet"]])("is finished, and on record: %s", async (how) => {
    const first = await openTestService(home);
    const before = first.service.statementKeys();
    const planted = await plant(next);
    const keys = { from: before.keyId, to: planted.keyId, publicKey: planted.publicPem };
    const told = { purpose: "statement" as const, ...keys, reason: "yearly" };
    const isTold = how === "on record already";
    // What it did before it ended.
    if (isTold) await first.open.system.journal.append({ type: "key_rotated", ...told });
    await first.close();

    const second = await openTestService(home);
    expect(second.service.statementKeys()).toMatchObject({ keyId: planted.keyId, publicKey: planted.publicPem });
    expect(second.of("service_started")).toMatchObject([{ statementKeyId: planted.keyId }]);
    expect(await files()).toEqual(["statement.key"]);
    const finished = { ...told, reason: "the service ended before the change was finished" };
    expect(await rotations()).toEqual(isTold ? [told, finished] : [finished]);
    await second.close();

    const third = await openTestService(home);
    expect(keyIdOf(third)).toBe(planted.keyId);
    expect(await rotations()).toHaveLength(isTold ? 2 : 1);
  });
});

describe("a key file that is none", () => {
  const pem = (key: KeyObject): string => key.export({ format: "pem", type: "pkcs8" }).toString();
  const p256 = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const ROWS: readonly (readonly [what: string, content: string])[] = [
    ["nothing", ""],
    ["half a key", pem(p256.privateKey).slice(0, 120)],
    ["a key of Ed25519", pem(generateKeyPairSync("ed25519").privateKey)],
    ["a key of another curve", pem(generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey)],
    ["a key of RSA", pem(generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey)],
    ["a public key", p256.publicKey.export({ format: "pem", type: "spki" }).toString()],
    ["more than a key has", pem(p256.privateKey).padEnd(5000, "\n")],
  ];

  /** The service does not start, says why, and left nothing: without the file it starts. */
  async function refuse(file: string): Promise<void> {
    const bytes = await readFile(file);
    const error: unknown = await openTestService(home).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "STATE_INVALID", message: expect.stringContaining(file) as string });
    expect(everyForm(error)).not.toMatch(/[A-Za-z0-9+/]{40,}/);
    expect(await readFile(file)).toEqual(bytes);
    const ends = (await readLog(home.stateDir)).slice(-1);
    expect(ends).toMatchObject([{ type: "service_stopped", data: { because: "failed", code: "STATE_INVALID" } }]);
    await rm(file);
    const test = await openTestService(home);
    expect(await files()).toEqual(["statement.key"]);
    await test.close();
    await requireSoundLog(home.stateDir);
  }

  it.each(ROWS)("has %s in it", async (_what, content) => {
    await (await openTestService(home)).close();
    for (const file of [path, next]) {
      await writeFile(file, content, { mode: 0o600 });
      await refuse(file);
    }
  });

  it("may be read by others, or is a link", async () => {
    await (await openTestService(home)).close();
    for (const file of [path, next]) {
      await plant(file);
      await chmod(file, 0o644);
      await refuse(file);
      const target = join(home.folder, "elsewhere");
      await plant(target);
      await rm(file, { force: true });
      await symlink(target, file);
      await refuse(file);
    }
  });
});

/** The scalar of a private key, and the bytes of its PKCS#8 file that are not public. */
function secretOf(name: string, { privateKey }: StatementSigner): Secret {
  const { d = "" } = createPrivateKey(encodeStatementKey({ privateKey } as StatementSigner) as Buffer).export({
    format: "jwk",
  });
  return { name, bytes: Buffer.from(d, "base64url") };
}

it("[VR-ATT-01] [VR-NAR-02] the private half is in no answer, narration, metric, entry or line, nor that of the next one", async () => {
  await (await openTestService(home)).close();
  await rm(path);
  const [one, two] = [await plant(path), await plant(next)];
  const [json, text] = [await recordingNarrator({ level: "debug" }), await recordingNarrator({ format: "text" })];
  const test = await openTestService(home, {}, { readers: [json.narrator, text.narrator] });
  const { ask } = await openFront(test, home);
  const { reply } = await statement(test);
  const answers = [everyForm(reply)];
  for (const [method, route, body] of [
    ["POST", "/v1/statements", { shard: "m" }],
    ["GET", "/v1/statement-keys", undefined],
    ["POST", "/v1/statement-keys", { reason: "yearly" }],
    ["GET", "/v1/ready", undefined],
    ["GET", "/metrics", undefined],
    ["GET", "/v1/audit/entries?last=500", undefined],
  ] as const) {
    answers.push((await ask(method, route, body)).text);
  }
  const three = await readFile(path);
  const signers = [one, two, { ...one, privateKey: createPrivateKey(three) }];
  const secrets = signers.map((signer, index) => secretOf(`key ${index + 1}`, signer));
  await test.close();
  const log = await textOfFolder(join(home.stateDir, "audit"));
  for (const type of ["statement_issued", "key_rotated"]) expect(log).toContain(type);
  const shown = [...answers, everyForm(test.entries), json.text(), text.text(), log].join("\n");
  expect(findSecrets(shown, secrets)).toEqual([]);
  expect(shown).not.toContain("PRIVATE KEY");
  // The search finds what is there: the scalar lies at byte 36 of the file's DER.
  expect(findSecrets(three.toString(), secrets)).toEqual(["key 3: base64"]);
});
