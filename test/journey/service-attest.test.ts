/** Statements of a service: what is measured, put on record and signed, as somebody who trusts nobody checks it. */
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { dataOfLine } from "../../src/audit/line.ts";
import { parseLine } from "../../src/audit/parse-line.ts";
import { type CheckOptions, checkStatement, type Statement } from "../../src/offline.ts";
import type { Problem, StatementReply } from "../../src/service/replies.ts";
import { askRaw, grantedOf } from "../helpers/attach.ts";
import { type Served, serveModel } from "../helpers/attach-service.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { CALLER } from "../helpers/service.ts";

const NONCE = "5a".repeat(32);
const HEX = expect.stringMatching(/^[0-9a-f]{64}$/) as string;

let served: Served;
let model: string;

beforeEach(async () => {
  served = await serveModel();
  model = join(served.home.folder, "m.safetensors");
});

/** Asks for a statement as an auditor with a token does. */
async function attest(shard = "m.safetensors", nonce?: string): Promise<StatementReply> {
  const body = { shard, ...(nonce === undefined ? {} : { nonce }) };
  const { status, text } = await served.front.ask("POST", "/v1/statements", body, served.front.tokens.use);
  expect([status, text]).toEqual([201, text]);
  return JSON.parse(text) as StatementReply;
}

const payloadOf = ({ envelope }: StatementReply): Buffer => Buffer.from(envelope.payload, "base64");
const statementOf = (reply: StatementReply): Statement => JSON.parse(payloadOf(reply).toString()) as Statement;

/** Checks it with the keys of the service, and with what the test has. */
async function check(reply: StatementReply, terms: Partial<CheckOptions>) {
  const { publicKey, logKey } = served.test.service.statementKeys();
  const bytes = Buffer.from(JSON.stringify(reply.envelope));
  return checkStatement(bytes, { publicKey, logKey, acceptBackends: ["emulated"], hashThreads: 0, ...terms });
}

/** What was refused, or that nothing was. */
const faultOf = async (reply: StatementReply, terms: Partial<CheckOptions>): Promise<string> => {
  const checked = await check(reply, terms);
  return checked.ok ? "none" : checked.fault;
};

const byTool = (path: string, ...salt: readonly string[]): string =>
  execFileSync("fsverity", ["digest", "--compact", ...salt, path], { encoding: "utf8" }).trim();
const hasTool = (() => {
  try {
    return execFileSync("fsverity", ["--version"]).length > 0;
  } catch {
    console.log("skipped: statements and the tool fsverity, which is not installed");
    return false;
  }
})();

/** The lines of the log on disk, each with its number. */
const lines = async () =>
  (await served.test.service.logLines(1000)).map((text) => {
    const parsed = parseLine(Buffer.from(text));
    if (!parsed.ok) return expect.fail(parsed.fault);
    return { seq: parsed.line.seq, type: parsed.line.type, data: dataOfLine(parsed.line) };
  });

describe("a statement with a nonce", () => {
  it("[VR-ATT-01] [VR-VER-07] is checked offline, with keys, the file and the nonce: everything it can show it shows", async () => {
    const reply = await attest("m.safetensors", NONCE);
    const { deviceUuid } = { deviceUuid: served.record().device.uuid };
    const checked = await check(reply, { model, nonce: NONCE, deviceUuid, digest: served.digest, maxAgeMs: 60_000 });
    if (!checked.ok) return expect.fail(checked.message);
    const shown = checked.findings.filter((finding) => finding.shown).map(({ property }) => property);
    expect(shown).toEqual(["signature", "content", "possession", "freshness", "logged"]);
    const words = checked.findings.map((finding) => finding.words).join("\n");
    expect(words).toContain("these bytes at hand after your nonce (not: where)");
    expect(words).toContain("nothing here is about a GPU: the backend is emulated");
    expect(words).toContain("hardware evidence: none");
    expect(reply.record).toMatchObject({ shardId: served.shardId, digest: served.digest });
    expect(reply.evidence).toBeUndefined();
    expect(reply.envelope.signatures[0].keyid).toBe(served.test.service.statementKeys().keyId);
  });

  it("[VR-ATT-01] says what was measured, where, under which policy, by what", async () => {
    const { predicate, subject, predicateType } = statementOf(await attest("m.safetensors", NONCE.toUpperCase()));
    expect(predicateType).toBe("urn:vram-residency:statement:emulated:v1");
    const sha256 = createHash("sha256").update(served.bytes).digest("hex");
    expect(subject).toEqual([{ name: "m.safetensors", digest: { "fsverity-sha256-4096": served.digest, sha256 } }]);
    const { policyDigest } = served.test.of("service_started")[0] ?? expect.fail();
    expect(predicate).toMatchObject({
      ...{ backend: "emulated", device: { uuid: served.record().device.uuid, ordinal: 0 }, policyDigest },
      shard: {
        ...{ shardId: served.shardId, shardIndex: 0, totalShards: 1, sourceOffset: 0 },
        ...{ byteLength: served.bytes.byteLength, comparedWith: "witnessed" },
        instanceId: served.test.service.instanceId,
      },
      measurement: {
        ...{ digest: served.digest, bytesCovered: served.bytes.byteLength, readFrom: "emulated" },
        ...{ nonce: NONCE, nonceFrom: "caller", saltedDigest: HEX },
      },
      exports: { now: 0, total: 0 },
    });
    expect(predicate.software.kernel).toBeUndefined();
    expect(Date.parse(predicate.issuedAt)).toBeGreaterThanOrEqual(Date.parse(predicate.measurement.measuredAt));
  });

  it.skipIf(!hasTool)("[VR-ATT-01] has the digests that fsverity computes from the file", async () => {
    const { predicate } = statementOf(await attest("m.safetensors", NONCE));
    const { digest, saltedDigest } = predicate.measurement;
    expect(digest).toBe(byTool(model));
    expect(saltedDigest).toBe(byTool(model, `--salt=${NONCE}`));
    expect(saltedDigest).not.toBe(byTool(model, `--salt=${"5b".repeat(32)}`));
  });

  it("[VR-ATT-01] does not hold for a file of which one byte is another, nor for the beginning or more of it", async () => {
    const reply = await attest("m.safetensors", NONCE);
    const other = join(served.home.folder, "other");
    const last = served.bytes.byteLength - 1;
    for (const at of [0, 8, 4096, last]) {
      const changed = Buffer.from(served.bytes);
      changed[at] = (changed[at] ?? 0) ^ 1;
      await writeFile(other, changed);
      expect(await faultOf(reply, { model: other, nonce: NONCE }), `byte ${at}`).toBe("digest");
    }
    const lengths = [
      [served.bytes.subarray(0, last), "digest"],
      [Buffer.concat([served.bytes, Buffer.from([0])]), "part"],
    ] as const;
    for (const [bytes, fault] of lengths) {
      await writeFile(other, bytes);
      expect(await faultOf(reply, { model: other, nonce: NONCE })).toBe(fault);
    }
  });

  it("[VR-ATT-01] is on record in this order: the measurement with the nonce, then what was signed", async () => {
    const reply = await attest("m.safetensors", NONCE);
    const all = await lines();
    const verified = all.findLast(({ type }) => type === "seal_verified") ?? expect.fail();
    const issued = all.findLast(({ type }) => type === "statement_issued") ?? expect.fail();
    expect(issued.seq).toBeGreaterThan(verified.seq);
    const { measurement } = statementOf(reply).predicate;
    expect(verified.data).toMatchObject({
      shardId: served.shardId,
      salt: NONCE,
      saltedDigest: measurement.saltedDigest,
    });
    expect(issued.data).toMatchObject({
      ...{ statementId: reply.statementId, shardId: served.shardId, name: "m.safetensors", digest: served.digest },
      ...{ nonce: NONCE, verifiedSeq: verified.seq, keyId: served.test.service.statementKeys().keyId },
      statementDigest: createHash("sha256").update(payloadOf(reply)).digest("hex"),
      caller: expect.stringMatching(/^token [0-9a-f]{6}$/) as string,
    });
    const checked = await check(reply, { model });
    const logged = checked.ok ? checked.findings.find(({ property }) => property === "logged") : undefined;
    expect(logged?.words).toContain(`line ${verified.seq} of the log`);
  });
});

describe("a statement without a nonce", () => {
  it("has one of the service's own, and shows nothing of when it was made", async () => {
    const [one, other] = [await attest(), await attest()];
    const { measurement } = statementOf(one).predicate;
    expect(measurement).toMatchObject({ nonceFrom: "service", nonce: HEX });
    expect(statementOf(other).predicate.measurement.nonce).not.toBe(measurement.nonce);
    const checked = await check(one, { model, maxAgeMs: 60_000 });
    if (!checked.ok) return expect.fail(checked.message);
    const open = checked.findings.filter(({ shown }) => !shown).map(({ property }) => property);
    expect(open).toEqual(expect.arrayContaining(["possession", "freshness"]));
    expect(await faultOf(one, { model, nonce: NONCE })).toBe("nonce");
  });
});

describe("statements at the same time", () => {
  it.each([
    ["different nonces", [NONCE, "a5".repeat(16), "00".repeat(32), undefined]],
    ["the same nonce", [NONCE, NONCE, NONCE]],
  ])("about one shard, with %s, each hold", async (_what, nonces) => {
    const replies = await Promise.all(nonces.map((nonce) => attest("m.safetensors", nonce)));
    for (const [index, reply] of replies.entries()) {
      const nonce = nonces[index];
      expect(await faultOf(reply, { model, ...(nonce === undefined ? {} : { nonce }) })).toBe("none");
    }
    expect(new Set(replies.map(({ statementId }) => statementId)).size).toBe(nonces.length);
    const issued = served.test.of("statement_issued").map(({ statementId }) => statementId);
    expect(issued.toSorted()).toEqual(replies.map(({ statementId }) => statementId).toSorted());
  });
});

describe("what others could do to the memory", () => {
  it("[VR-ATT-01] is said: to how many processes it was handed, and how many have it", async () => {
    const exportsOf = async (): Promise<unknown> => statementOf(await attest("m.safetensors", NONCE)).predicate.exports;
    const peers = [await askRaw(served.front.socket, { shard: served.shardId })];
    peers.push(await askRaw(served.front.socket, { shard: served.shardId }));
    for (const peer of peers) grantedOf(peer);
    expect(await exportsOf()).toEqual({ now: 2, total: 2 });
    peers[0]?.leave();
    await until("one has gone", () => served.record().exports === 1);
    expect(await exportsOf()).toEqual({ now: 1, total: 2 });
    peers[1]?.leave();
    await until("all have gone", () => served.record().exports === 0);
    const reply = await attest("m.safetensors", NONCE);
    expect(statementOf(reply).predicate.exports).toEqual({ now: 0, total: 2 });
    const checked = await check(reply, { model });
    const exposure = checked.ok ? checked.findings.find(({ property }) => property === "exposure") : undefined;
    expect(exposure?.words).toContain("handed the memory to other processes 2 times, 0 had it then");
  });
});

describe("what the GPU says of itself", () => {
  it("[VR-ATT-01] comes with the statement, made for it, where there is such a thing; without, the statement holds too", async () => {
    const { device } = served.test.devices[0]?.opened ?? expect.fail();
    const chains = { certificateChain: Buffer.from("c"), attestationCertificateChain: Buffer.from("a") };
    device.evidence = async (nonce) => ({
      report: Buffer.concat([Buffer.from("SPDM"), nonce, Buffer.from("00")]),
      ...chains,
    });
    const [one, other] = [await attest(), await attest()];
    const bytesOf = ({ evidence }: StatementReply): Buffer => Buffer.from(JSON.stringify(evidence));
    expect(one.evidence?.nonce).toBe(createHash("sha256").update(payloadOf(one)).digest("hex"));
    const checked = await check(one, { model, evidence: bytesOf(one) });
    const hardware = checked.ok ? checked.findings.find(({ property }) => property === "hardware") : undefined;
    expect(hardware).toMatchObject({ shown: false, words: expect.stringContaining("a report of 38 bytes") as string });
    expect(await faultOf(one, { model, evidence: bytesOf(other) })).toBe("evidence");
    device.evidence = () => Promise.reject(new Error("it is not in the mood"));
    expect((await attest()).evidence).toBeUndefined();
  });
});

describe("members of a set", () => {
  it("[VR-ATT-01] are parts of one file: each is held against its own part, and the set is no shard", async () => {
    await served.test.service.seal({ path: model, name: "cut", shards: 2 }, CALLER).then(({ ended }) => ended);
    const { text } = await served.front.ask("POST", "/v1/statements", { shard: "cut" });
    const problem = JSON.parse(text) as Problem;
    expect(problem).toMatchObject({ status: 400, code: "INVALID_ARGUMENT" });
    const names = ["cut/00001-of-00002", "cut/00002-of-00002"] as const;
    expect(problem.details["names"]).toEqual(names);
    const replies = [await attest(names[0], NONCE), await attest(names[1], NONCE)] as const;
    for (const [index, reply] of replies.entries()) {
      const checked = await check(reply, { model, nonce: NONCE, part: { index: index + 1, total: 2 } });
      if (!checked.ok) return expect.fail(checked.message);
      expect(checked.findings[1]?.words).toContain(`of your file (the signer calls them part ${index + 1} of 2)`);
      expect(await faultOf(reply, { model, nonce: NONCE })).toBe("part");
    }
    expect(statementOf(replies[1]).predicate.shard.sourceOffset).toBeGreaterThan(0);
    const changed = Buffer.from(served.bytes);
    changed[changed.byteLength - 1] = 1;
    const other = join(served.home.folder, "other");
    await writeFile(other, changed);
    const terms = (index: number) => ({ model: other, nonce: NONCE, part: { index, total: 2 } });
    expect(await faultOf(replies[0], terms(1))).toBe("none");
    expect(await faultOf(replies[1], terms(2))).toBe("digest");
  });

  it("[VR-ATT-01] are files of their own: each is held against its file", async () => {
    const folder = join(served.home.folder, "set");
    await mkdir(folder);
    const files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    const tensor = (name: string) => ({ name, dtype: "U8", shape: [9000], data: randomBytes(9000) });
    for (const [index, file] of files.entries()) {
      await writeFile(join(folder, file), buildSafetensors([tensor(`t${index}`)]));
    }
    const index = { metadata: { total_size: 18_000 }, weight_map: { t0: files[0], t1: files[1] } };
    await writeFile(join(folder, "model.safetensors.index.json"), JSON.stringify(index));
    const { ended } = await served.test.service.seal({ path: folder, name: "two" }, CALLER);
    const members = (await ended).result?.shards.map(({ record }) => record.name) ?? [];
    expect(members).toHaveLength(2);
    const replies = await Promise.all(members.map((member) => attest(member, NONCE)));
    const faults = replies.flatMap((reply) =>
      files.map((file) => faultOf(reply, { model: join(folder, file), nonce: NONCE })),
    );
    expect(await Promise.all(faults)).toEqual(["none", "digest", "digest", "none"]);
  });
});

describe("names", () => {
  it.each(['org/model:7b "quoted" \\ back', "größe ✓ 模型 \u{1f600}", "<script>&amp;", "é".repeat(512)])(
    "%j stand in a statement as they are",
    async (name) => {
      const { ended } = await served.test.service.seal({ path: model, name }, CALLER);
      expect((await ended).error).toBeUndefined();
      const reply = await attest(name, NONCE);
      expect(statementOf(reply).subject[0].name).toBe(name);
      expect(await faultOf(reply, { model, nonce: NONCE })).toBe("none");
    },
  );
});
