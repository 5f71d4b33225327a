/** `vram attest`: statements are fetched and written, checked offline, and the keys for that are handed out. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { VERSION } from "../../src/version.ts";
import { type Served, serveModel } from "../helpers/attach-service.ts";
import { type CliResult, type CliSetting, vram } from "../helpers/cli.ts";
import { vramAt } from "../helpers/cli-service.ts";
import { ENVELOPE, ISSUED, REPLY, SHOWN } from "../helpers/stub-attest.ts";
import * as is from "../helpers/stub-replies.ts";
import { problemOf, type StubRoutes } from "../helpers/stub-service.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const NONCE = "5a".repeat(32);
const ESCAPE = "\u001b[";
const golden = (name: string): string => join(import.meta.dirname, "../golden", name);
const jsonOf = ({ out }: CliResult): Record<string, unknown> => JSON.parse(out) as Record<string, unknown>;

afterEach(() => void vi.useRealTimers());

describe("the commands", () => {
  it.each(["issue", "check", "keys"])("vram attest %s shows help with examples first", async (command) => {
    const { out, code } = await vram(["attest", command, "--help"]);
    expect(code).toBe(0);
    expect(out.startsWith("Examples:\n  $ vram attest ")).toBe(true);
    await expect(out).toMatchFileSnapshot(golden(`help-attest-${command}.txt`));
  });

  it.each<[string, StubRoutes, readonly string[]]>([
    ["attest-issue", ISSUED, ["attest", "m", "--json"]],
    ["attest-keys", SHOWN, ["attest", "keys", "--json"]],
  ])("print one JSON document: %s", async (name, routes, words) => {
    const { code, out, err } = await vramAt(routes, words);
    expect([code, err]).toEqual([0, ""]);
    expect(JSON.parse(out)).toMatchObject({ schema: `vram-residency/${name}/v1`, ok: true });
    await expect(out).toMatchFileSnapshot(golden(`${name}.json`));
  });

  it.each<[number, readonly string[], string, Parameters<typeof problemOf>[0]]>([
    [2, ["attest", "m", "--nonce", "zz"], "POST /v1/statements", "INVALID_ARGUMENT"],
    [1, ["attest", "m"], "POST /v1/statements", "SHARD_NOT_FOUND"],
    [3, ["attest", "m"], "POST /v1/statements", "MEASUREMENT_MISMATCH"],
    [4, ["attest", "keys", "--rotate", "r"], "POST /v1/statement-keys", "FORBIDDEN"],
    [5, ["attest", "m"], "POST /v1/statements", "WORKER_STOPPED"],
    [7, ["attest", "m"], "POST /v1/statements", "AUDIT_UNAVAILABLE"],
    [7, ["attest", "keys"], "GET /v1/statement-keys", "AUDIT_UNAVAILABLE"],
  ])("end with %i for vram %j, answered on %s with %s", async (exit, argv, route, code) => {
    const text = await vramAt({ [route]: problemOf(code) }, argv);
    expect([text.code, text.out]).toEqual([exit, ""]);
    expect(text.err).toMatch(new RegExp(`^error ${code}: ${code} it is\nfix {3}\\S`));
    const json = await vramAt({ [route]: problemOf(code) }, [...argv, "--json"]);
    const schema = `vram-residency/${argv.includes("keys") ? "attest-keys" : "attest-issue"}/v1`;
    expect([json.code, jsonOf(json)]).toMatchObject([exit, { schema, ok: false, error: { code } }]);
  });

  it("end with 6 where nobody answers, and 2 without a name", async () => {
    const env = { VRAM_SOCKET: join(await temporaryFolder(), "none.sock") };
    expect((await vram(["attest", "m"], { env })).code).toBe(6);
    expect((await vram(["attest", "issue"], { env })).code).toBe(2);
    expect((await vram(["attest"], { env })).code).toBe(2);
  });
});

describe("vram attest NAME", () => {
  it("writes the envelope, and says on the talk output how it is checked", async () => {
    const { out, err, stub } = await vramAt(ISSUED, ["attest", "m", "--nonce", NONCE]);
    expect(out).toBe(`${JSON.stringify(ENVELOPE)}\n`);
    expect(stub.asked.map(({ body }) => body)).toEqual([{ shard: "m", nonce: NONCE }]);
    expect(err).toMatch(/^backend emulated: .*\n/);
    expect(err).toContain(`${REPLY.statementId}: llama.safetensors was measured as fsverity:${is.DIGEST}\n`);
    expect(err).toContain("check it with: vram attest check FILE --pub DIR/statement.pub.pem --model MODEL ");
    expect(err).toContain(`--model MODEL --nonce ${NONCE} --accept-backend emulated\n`);
    expect(err).toContain("the GPU's own evidence comes with --out or --json\n");
    expect(err).not.toContain("whoever checks should choose one");
  });

  it("is `vram attest issue`, which also takes names that are commands", async () => {
    const { out, err, stub } = await vramAt(ISSUED, ["attest", "issue", "check"]);
    expect(out).toBe(`${JSON.stringify(ENVELOPE)}\n`);
    expect(stub.asked[0]?.body).toEqual({ shard: "check" });
    expect(err).toContain("whoever checks should choose one\n");
  });
});

describe("vram attest check", () => {
  let served: Served;
  let folder: string;
  let at: Record<"statement" | "model" | "pub" | "log" | "junk", string>;

  beforeEach(async () => {
    served = await serveModel();
    ({ folder } = served.home);
    const inside = (name: string): string => join(folder, name);
    at = {
      ...{ statement: inside("s.json"), model: inside("m.safetensors"), junk: inside("junk") },
      ...{ pub: inside("keys/statement.pub.pem"), log: inside("keys/log.vkey") },
    };
    writeFileSync(at.junk, "junk");
    const env = { VRAM_SOCKET: served.front.socket };
    const issued = await vram(["attest", "m.safetensors", "--nonce", NONCE, "--out", at.statement], { env });
    expect([issued.code, (await vram(["attest", "keys", "--out", inside("keys")], { env })).code]).toEqual([0, 0]);
  });

  /** Without a service. */
  const check = (words: readonly string[], setting: CliSetting = {}): Promise<CliResult> =>
    vram(["attest", "check", at.statement, ...words], setting);
  const accepted = (...words: readonly string[]) => ["--pub", at.pub, "--accept-backend", "emulated", ...words];

  it("[VR-ATT-01] says in plain words what was shown and what not; exit 0", async () => {
    const words = accepted("--model", at.model, "--nonce", NONCE, "--log-key", at.log);
    const { code, out, err } = await check(words);
    expect(code).toBe(0);
    expect(err).toMatch(/^backend emulated: /);
    expect(out).toMatch(/^"m\.safetensors": statement-[a-z2-7]{26} of \S+Z, backend emulated\n✓ signed by this key: /);
    expect(out).toContain("\n✓ whoever answered had these bytes at hand after your nonce (not: where)\n");
    expect(out).toMatch(/\n· measured at \S+Z, \d+ s ago: by the signer's clock, as its log has it\n/);
    expect(out).toMatch(/\n✓ logged: line \d+ of the log vram-residency\/[0-9a-f]{16}, signed over \d+\n/);
    expect(out).toContain("\n· hardware evidence: none\n✓ was verified here; · rests on the signer's word");
    expect(out).not.toContain(ESCAPE);
    expect((await check(words, { terminal: true })).out).toContain(`${ESCAPE}32m✓`);
    expect((await check(words, { terminal: true, env: { NO_COLOR: "1" } })).out).not.toContain(ESCAPE);
    const { logKey } = served.test.service.statementKeys();
    expect((await check(accepted("--model", at.model, "--log-key", logKey))).out).toContain("✓ logged: line ");
  });

  it("[VR-ATT-01] without the log's key says that this was not checked, which changes no exit code", async () => {
    const { code, out } = await check(accepted("--digest", `fsverity:${served.digest}`));
    expect(code).toBe(0);
    expect(out).toContain("\n· logged: not checked (it says: line ");
    expect(out).toContain("\n· freshness not shown: you sent no nonce");
    expect(out).toMatch(/\n· measured at \S+Z, \d+ s ago: by the signer's clock, on the signer's word\n/);
    expect((await check(accepted("--digest", served.digest, "--max-age", "1h"))).code).toBe(0);
  });

  it("prints one JSON document", async () => {
    const words = accepted("--model", at.model, "--nonce", NONCE, "--log-key", at.log, "--json");
    const { code, out, err } = await check(words);
    expect([code, err]).toEqual([0, ""]);
    const varying: readonly (readonly [RegExp, string])[] = [
      [/EMU-[0-9a-f-]{36}/g, "EMU-…"],
      [/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/g, "a time"],
      [/(shard|statement)-[a-z2-7]{26}/g, "$1-…"],
      [/vram-residency\/[0-9a-f]{16}/g, "vram-residency/…"],
      [/"proof": "[^"]*"/g, '"proof": "…"'],
      [/"instanceId": "[^"]*"/g, '"instanceId": "…"'],
      [/line \d+ of|over \d+|\d+ s ago/g, "…"],
      [new RegExp(served.test.service.statementKeys().keyId, "g"), "KEY"],
      [new RegExp(`"version": "${VERSION}"`), '"version": "…"'],
    ];
    const text = varying.reduce((before, [pattern, kind]) => before.replace(pattern, kind), out);
    await expect(text).toMatchFileSnapshot(golden("attest-check.json"));
  });

  it.each<[string, () => readonly string[]]>([
    ["neither digest nor file", () => accepted()],
    ["no key", () => ["--digest", served.digest]],
    ["a key that is none", () => ["--pub", at.junk, "--digest", served.digest]],
    ["a digest that is none", () => accepted("--digest", "fsverity:12")],
    ["a nonce of 15 bytes", () => accepted("--digest", served.digest, "--nonce", "5a".repeat(15))],
    ["a log key that is none", () => accepted("--digest", served.digest, "--log-key", at.junk)],
    ["a backend that there is not", () => accepted("--digest", served.digest, "--accept-backend", "opencl")],
    ["a part that is none", () => accepted("--model", at.model, "--part", "0/2")],
    ["a part in words", () => accepted("--model", at.model, "--part", "first")],
    ["an age that is none", () => accepted("--digest", served.digest, "--max-age", "soon")],
  ])("ends with 2 for terms that are none: %s", async (_what, words) => {
    const { code, out, err } = await check(words());
    expect([code, out]).toEqual([2, ""]);
    expect(err).not.toBe("");
  });

  it.each<[string, string, () => readonly string[]]>([
    ["another file", "digest", () => accepted("--model", at.junk)],
    ["another digest", "digest", () => accepted("--digest", "0".repeat(64))],
    ["the digest under another name", "digest", () => accepted("--digest", `sha256:${served.digest}`)],
    ["a part that it is not", "part", () => accepted("--model", at.model, "--part", "1/2")],
    ["another nonce", "nonce", () => accepted("--model", at.model, "--nonce", "a5".repeat(32))],
    ["another device", "device", () => accepted("--model", at.model, "--device", "GPU-1")],
    ["evidence that is none", "evidence", () => accepted("--model", at.model, "--evidence", at.junk)],
  ])("[VR-ATT-01] ends with 3 for %s: %s", async (_what, fault, words) => {
    const { code, out } = await check(words());
    expect(code).toBe(3);
    expect(out).toMatch(new RegExp(`^✗ refused \\(${fault}\\): \\S.*\n$`));
    const json = await check([...words(), "--json"]);
    expect(json.code).toBe(3);
    expect(jsonOf(json)).toMatchObject({ schema: "vram-residency/attest-check/v1", ok: false, fault });
  });

  it("[VR-ATT-01] ends with 3 for another's key, and with 5 for a backend that is not accepted", async () => {
    const env = { VRAM_SOCKET: served.front.socket };
    const other = join(folder, "other");
    expect((await vram(["attest", "keys", "--rotate", "lost", "--out", other], { env })).code).toBe(0);
    const pub = join(other, "statement.pub.pem");
    const swapped = await check(["--pub", pub, "--accept-backend", "emulated", "--digest", served.digest]);
    expect([swapped.code, swapped.out.slice(0, 21)]).toEqual([3, "✗ refused (signature)"]);
    const words = ["--pub", at.pub, "--model", at.model];
    for (const more of [[], ["--accept-backend", "cuda-substituted"]]) {
      const { code, out } = await check([...words, ...more]);
      expect([code, out.slice(0, 19)]).toEqual([5, "✗ refused (backend)"]);
    }
    expect(await check([...words, "--json"])).toMatchObject({ code: 5 });
    const both = ["--accept-backend", "cuda-substituted", "--accept-backend", "emulated"];
    expect((await check([...words, ...both])).code).toBe(0);
  });

  it("[VR-ATT-01] ends with 3 for one that is too old, from the future, or no statement at all", async () => {
    const words = accepted("--model", at.model);
    const later = Date.now() + 3_600_000;
    vi.useFakeTimers({ toFake: ["Date"], now: later });
    expect((await check([...words, "--max-age", "5min"])).out).toContain("refused (stale)");
    expect((await check([...words, "--max-age", "2h"])).code).toBe(0);
    vi.setSystemTime(later - 7_200_000);
    expect(await check(words)).toMatchObject({ code: 3, out: expect.stringContaining("(future)") as string });
    const junk = await vram(["attest", "check", at.junk, ...words]);
    expect(junk).toMatchObject({ code: 3, out: expect.stringContaining("refused (envelope)") as string });
  });

  it("ends with 1 for files that cannot be read", async () => {
    const none = join(folder, "none");
    const rows = [["--pub", none, "--digest", served.digest], accepted("--model", none)];
    rows.push(accepted("--digest", served.digest, "--evidence", none));
    for (const words of rows) expect(await check(words)).toMatchObject({ code: 1, out: "" });
    const { code, err } = await vram(["attest", "check", none, ...accepted("--model", at.model)]);
    expect(code).toBe(1);
    expect(err).toContain(none);
  });
});
