/** Forgeries, each refused with its reason; and what a statement that is accepted shows, and does not. */
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { checkStatement } from "../../src/attest/check.ts";
import { createStatementSigner } from "../../src/attest/keys.ts";
import { PREDICATE_TYPES } from "../../src/attest/statement.ts";
import { createNoteSigner, encodeVkey, noteKeyOf } from "../../src/audit/note.ts";
import { canonicalJson, toHex } from "../../src/bytes.ts";
import type { Backend } from "../../src/cuda/driver.ts";
import {
  claiming,
  type Making,
  madeStatement,
  measured,
  modelOf,
  NOW_MS,
  SIGNER,
  UUIDS,
} from "../helpers/statements.ts";

const OTHER = createStatementSigner();
const BYTES = Buffer.from("weights ".repeat(2000));
const HASH = "b".repeat(64);

describe("[VR-ATT-01] a statement that somebody altered", () => {
  /** Paths to every text, number and truth value of a payload. */
  const leavesOf = (value: unknown, path: readonly string[] = []): (readonly string[])[] =>
    typeof value === "object" && value !== null
      ? Object.entries(value).flatMap(([key, part]) => leavesOf(part, [...path, key]))
      : [path];

  const replaced = (value: unknown, [key = "", ...rest]: readonly string[]): unknown => {
    const whole = value as Record<string, unknown>;
    const part = whole[key];
    const next = rest.length > 0 ? replaced(part, rest) : typeof part === "number" ? part + 1 : `${String(part)}x`;
    return Array.isArray(value)
      ? value.map((one: unknown, at) => (String(at) === key ? next : one))
      : { ...whole, [key]: next };
  };

  it("in any of its fields is refused for its signature, with its own key's and with another's", async () => {
    const made = madeStatement({ bytes: BYTES });
    const paths = leavesOf(JSON.parse(made.payload.toString()));
    expect(paths.length).toBeGreaterThan(45);
    for (const path of paths) {
      const altered = canonicalJson(replaced(JSON.parse(made.payload.toString()), path));
      const envelope = {
        ...(JSON.parse(made.file.toString()) as object),
        payload: Buffer.from(altered).toString("base64"),
      };
      const checked = await checkStatement(Buffer.from(JSON.stringify(envelope)), {
        ...{ publicKey: SIGNER.publicPem, model: made.model, nowMs: NOW_MS },
      });
      expect(checked, path.join(".")).toMatchObject({ ok: false, fault: "signature" });
    }
    const swapped = madeStatement({ bytes: BYTES, signer: OTHER });
    expect(await swapped.check()).toMatchObject({ ok: false, fault: "signature" });
    // Signed by another key, under the name of the true one.
    const renamed = madeStatement({
      signer: OTHER,
      envelope: ({ signatures: [signature], ...rest }) => ({
        ...rest,
        signatures: [{ ...signature, keyid: SIGNER.keyId }],
      }),
    });
    expect(await renamed.check()).toMatchObject({ ok: false, fault: "signature" });
    expect(await madeStatement().check({ publicKey: OTHER.publicPem })).toMatchObject({ fault: "signature" });
  });

  it.each<[string, (text: string) => string]>([
    ["a second signature", (text) => text.replace(/"signatures":\[(.*)\]/, '"signatures":[$1,$1]')],
    ["no signature", (text) => text.replace(/"signatures":\[(.*)\]/, '"signatures":[]')],
    ["a field more", (text) => text.replace(/^\{/, '{"more":1,')],
    ["a field more in its signature", (text) => text.replace('"keyid"', '"more":1,"keyid"')],
    ["its payload twice", (text) => text.replace(/^\{/, '{"payload":"e30=",')],
    ["its type twice", (text) => text.replace(/^\{/, '{"payloadType":"application/vnd.in-toto+json",')],
    ["another type", (text) => text.replace("vnd.in-toto+json", "json")],
    ["base64 for the web", (text) => text.replace(/"payload":"[^"]+"/, (payload) => payload.replaceAll("+", "-"))],
    ["base64 with white space", (text) => text.replace('"payload":"', '"payload":" ')],
    ["an escape where none is needed", (text) => text.replace('"payload"', '"\\u0070ayload"')],
    ["something behind it", (text) => `${text}{}`],
    ["a proto", (text) => text.replace(/^\{/, '{"__proto__":{},')],
  ])("with %s is no envelope", async (_what, change) => {
    const {
      file: whole,
      nonce,
      model,
    } = madeStatement({ bytes: Buffer.from(`>>>>${"?".repeat(999)}`), name: ">?>?>" });
    const changed = change(whole.toString());
    const terms = { publicKey: SIGNER.publicPem, model, nonce, nowMs: NOW_MS };
    expect(await checkStatement(Buffer.from(changed), terms)).toMatchObject(
      changed === whole.toString() ? { ok: true } : { ok: false, fault: "envelope" },
    );
    expect(
      await checkStatement(Buffer.from(`\n ${JSON.stringify(JSON.parse(whole.toString()), null, 2)}\n`), terms),
    ).toMatchObject({ ok: true });
  });
});

describe("[VR-ATT-01] a statement whose signer lies", () => {
  it.each<[string, Making, string]>([
    [
      "without the bytes",
      { alter: measured({ saltedDigest: HASH }), line: { data: (data) => ({ ...data, saltedDigest: HASH }) } },
      "salted-digest",
    ],
    ["with a line about another shard", { line: { data: (data) => ({ ...data, shardId: "shard-2" }) } }, "log-entry"],
    [
      "with a line about another device",
      { line: { data: (data) => ({ ...data, device: { ordinal: 0, uuid: "GPU-x" } }) } },
      "log-entry",
    ],
    [
      "with a line about another ordinal",
      { line: { data: (data) => ({ ...data, device: { ordinal: 1, uuid: UUIDS.cuda } }) } },
      "log-entry",
    ],
    ["with a line about no device", { line: { data: ({ device: _, ...data }) => data } }, "log-entry"],
    ["with a line about another name", { line: { data: (data) => ({ ...data, name: "other" }) } }, "log-entry"],
    ["with a line about another nonce", { line: { data: (data) => ({ ...data, salt: HASH }) } }, "log-entry"],
    ["with a line about another answer", { line: { data: (data) => ({ ...data, saltedDigest: HASH }) } }, "log-entry"],
    [
      "signed again with a later time than the line has",
      { alter: measured({ measuredAt: new Date(NOW_MS - 600).toISOString() }) },
      "log-entry",
    ],
    ["with a line of another type", { line: { type: "vram_sealed" } }, "log-entry"],
    ["with the proof of another place", { proof: (proof) => ({ ...proof, index: 1 }) }, "log-entry"],
    [
      "with a proof that lacks a hash",
      { proof: (proof) => ({ ...proof, hashes: proof.hashes.slice(1) }) },
      "log-proof",
    ],
    ["without its line", { proof: ({ extra: _, ...proof }) => ({ ...proof, extra: undefined }) }, "log-proof"],
    ["with no proof at all", { alter: claiming(() => ({ log: { proof: "none" } })) }, "log-proof"],
    [
      "issued in a time to come",
      { alter: claiming(() => ({ issuedAt: new Date(NOW_MS + 120_000).toISOString() })) },
      "future",
    ],
  ])("%s is refused", async (_what, making, fault) => {
    const checked = await madeStatement({ bytes: BYTES, ...making }).check();
    expect(checked).toMatchObject({ ok: false, fault });
    expect(checked.ok ? "" : checked.message).toMatch(/^(it|the line)/);
    if (fault === "future")
      expect(checked).toMatchObject({ message: expect.stringContaining("issued at 2026-11-23T12:02") as string });
  });

  it("and passes an emulated or substituted device off as a GPU is refused", async () => {
    const all = ["cuda", "cuda-substituted", "emulated"] as const satisfies readonly Backend[];
    const readFrom = { cuda: "vram", "cuda-substituted": "substituted", emulated: "emulated" } as const;
    const acceptBackends = ["emulated", "cuda-substituted"] as const;
    let mixed = 0;
    for (const type of all) {
      for (const said of all) {
        for (const device of all) {
          for (const read of all) {
            if (new Set([type, said, read]).size === 1 && UUIDS[device] === UUIDS[said]) continue;
            mixed += 1;
            const alter: NonNullable<Making["alter"]> = (statement) => ({
              ...claiming((predicate) => ({
                backend: said,
                device: { ...predicate.device, uuid: UUIDS[device] },
                measurement: { ...predicate.measurement, readFrom: readFrom[read] },
              }))(statement),
              predicateType: PREDICATE_TYPES[type],
            });
            const line = { data: (data: object) => ({ ...data, device: { ordinal: 0, uuid: UUIDS[device] } }) };
            const checked = await madeStatement({ bytes: BYTES, backend: said, alter, line }).check({ acceptBackends });
            // What a GPU read and a substituted library read is told apart by nothing but what it says of itself.
            expect(checked, [type, said, device, read].join()).toMatchObject({ ok: false, fault: "inconsistent" });
          }
        }
      }
    }
    expect(mixed).toBeGreaterThan(60);
    const kernel = claiming(({ software: { kernel: _, ...software } }) => ({ software }));
    expect(await madeStatement({ alter: kernel }).check()).toMatchObject({ fault: "inconsistent" });
  });
});

describe("[VR-ATT-01] [VR-VER-07] a statement that is not the one that was asked for", () => {
  const made = madeStatement({ bytes: BYTES });
  const digest = `fsverity:${made.statement.predicate.measurement.digest}`;
  const otherLog = encodeVkey(noteKeyOf(createNoteSigner("vram-residency/fedcba9876543210")));
  const sameName = encodeVkey(noteKeyOf(createNoteSigner("vram-residency/0123456789abcdef")));

  it.each<[string, Parameters<typeof made.check>[0], string]>([
    ["answers another nonce", { nonce: HASH }, "nonce"],
    ["is the whole file, and no part", { part: { index: 1, total: 2 } }, "part"],
    ["is too old", { maxAgeMs: 999 }, "stale"],
    ["is about another GPU", { deviceUuid: UUIDS.emulated }, "device"],
    ["is about another digest", { model: undefined, digest: HASH }, "digest"],
    ["is about another file", { model: modelOf(Buffer.from(BYTES).fill(1, 7, 8)) }, "digest"],
    ["is about the beginning of the file", { model: modelOf(Buffer.concat([BYTES, Buffer.from("x")])) }, "part"],
    [
      "is about the beginning of the file, which it calls all of it",
      { model: modelOf(Buffer.concat([BYTES, Buffer.from("x")])), part: { index: 1, total: 1 } },
      "part",
    ],
    ["is about more than the file", { model: modelOf(BYTES.subarray(1)) }, "digest"],
    ["has no SHA-256", { model: undefined, digest: `sha256:${HASH}` }, "digest"],
    ["is in another log", { logKey: otherLog }, "log-key"],
    ["is in a log of the same name with another key", { logKey: sameName }, "log-key"],
    ["has evidence of another statement", { evidence: Buffer.from("{}") }, "evidence"],
  ])("since it %s is refused", async (_what, terms, fault) => {
    expect(await made.check(terms)).toMatchObject({ ok: false, fault });
  });

  it("since it is about another backend is refused, unless that will do", async () => {
    for (const backend of ["emulated", "cuda-substituted"] as const) {
      const one = madeStatement({ backend, bytes: BYTES });
      expect(await one.check()).toMatchObject({ ok: false, fault: "backend" });
      expect(await one.check({ acceptBackends: [backend] })).toMatchObject({ ok: true });
    }
  });

  it("holds at the edges", async () => {
    const part = { index: 1, total: 1 };
    const terms = { maxAgeMs: 1000, nonce: made.nonce.toUpperCase(), digest, part };
    expect(await made.check(terms)).toMatchObject({ ok: true });
    const early = madeStatement({ alter: claiming(() => ({ issuedAt: new Date(NOW_MS + 60_000).toISOString() })) });
    expect(await early.check()).toMatchObject({ ok: true });
  });

  it("since nobody asked it anything shows nothing about when, though its nonce is known", async () => {
    const own = madeStatement({ alter: measured({ nonceFrom: "service" }) });
    expect(await own.check()).toMatchObject({ ok: false, fault: "nonce" });
    expect(await own.check({ nonce: undefined })).toMatchObject({ ok: true });
  });

  it.each<[string, Parameters<typeof made.check>[0]]>([
    ["neither digest nor file", { model: undefined }],
    ["a nonce of 15 bytes", { nonce: "ab".repeat(15) }],
    ["a nonce of 33 bytes", { nonce: "ab".repeat(33) }],
    ["a digest that is none", { digest: "xyz" }],
    ["no public key", { publicKey: "" }],
    ["a log key that is none", { logKey: "log" }],
    ["a part from 0", { part: { index: 0, total: 2 } }],
    ["a part that its set does not have", { part: { index: 3, total: 2 } }],
  ])("is not judged with %s", async (_what, terms) => {
    await expect(made.check(terms)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });
});

describe("[VR-ATT-01] what a statement shows", () => {
  const sha256 = createHash("sha256").update(BYTES).digest("hex");
  const made = madeStatement({
    bytes: BYTES,
    alter: (statement) => {
      const [{ name, digest }] = statement.subject;
      return { ...statement, subject: [{ name, digest: { ...digest, sha256 } }] };
    },
  });
  const { digest } = made.statement.predicate.measurement;

  it.each<[string, Parameters<typeof made.check>[0], readonly string[]]>([
    ["with file, nonce and log key", { logKey: made.logKey }, ["content", "possession", "freshness", "logged"]],
    ["with file and nonce", {}, ["content", "possession", "freshness"]],
    ["with the file alone", { nonce: undefined }, ["content"]],
    ["with a digest and a nonce", { model: undefined, digest }, ["content", "freshness"]],
    ["with a digest and an age", { model: undefined, digest, nonce: undefined, maxAgeMs: 5000 }, ["content"]],
    ["with a plain SHA-256", { model: undefined, digest: `sha256:${sha256}`, nonce: undefined }, []],
    [
      "with all there is",
      { digest, logKey: made.logKey, deviceUuid: UUIDS.cuda, maxAgeMs: 5000 },
      ["content", "possession", "freshness", "logged"],
    ],
  ])("%s", async (_what, terms, shown) => {
    const checked = await made.check(terms);
    const findings = checked.ok ? checked.findings : expect.fail(checked.message);
    expect(findings.map(({ property }) => property)).toEqual([
      ...["signature", "content", "possession", "freshness", "age", "device", "location", "exposure", "logged"],
      "hardware",
    ]);
    expect(findings.filter((one) => one.shown).map(({ property }) => property)).toEqual(["signature", ...shown]);
    // Never from the signer: where it was, and that hardware vouches for it.
    const words = findings.map((one) => one.words).join("\n");
    expect(words).toContain("hardware evidence: none");
    expect(words).toContain(toHex(Buffer.from(digest, "hex")));
    if (terms?.nonce === undefined && "nonce" in (terms ?? {})) expect(words).not.toContain("after your nonce");
    if (!("logKey" in (terms ?? {}))) expect(words).toContain("logged: not checked");
    expect(words).toContain("logKey" in (terms ?? {}) ? "clock, as its log has it" : "clock, on the signer's word");
    // What was verified rests on no clock.
    for (const one of findings) if (one.shown) expect(one.words).not.toMatch(/ago|\d\d:\d\d/);
  });
});
