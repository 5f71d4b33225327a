/** What `vram attest` and `vram attest keys` write: before anything is measured or rotated it is known where. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { CliResult } from "../helpers/cli.ts";
import { vramAt } from "../helpers/cli-service.ts";
import { ENVELOPE, ISSUED, KEYS, REPLY, SHOWN } from "../helpers/stub-attest.ts";
import * as is from "../helpers/stub-replies.ts";
import type { StubAnswer, StubRoutes } from "../helpers/stub-service.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const jsonOf = ({ out }: CliResult): Record<string, unknown> => JSON.parse(out) as Record<string, unknown>;

/** The same routes; but the folder is a file by the time that one of them answers. */
const gone = (folder: string, routes: StubRoutes, route: keyof StubRoutes): StubRoutes => {
  const { [route]: answer = expect.fail(`no route ${route}`) } = routes;
  if (typeof answer === "function") return expect.fail("an answer, not a function");
  const answering = (): StubAnswer => {
    rmSync(folder, { recursive: true });
    writeFileSync(folder, "");
    return answer;
  };
  return { ...routes, [route]: answering };
};

describe("vram attest NAME --out", () => {
  it("writes files that are new, and asks for nothing if one is there", async () => {
    const folder = await temporaryFolder();
    const [out, evidence] = [join(folder, "s.json"), join(folder, "s.json.evidence.json")];
    const made = await vramAt(ISSUED, ["attest", "m", "--out", out]);
    expect([made.code, made.out]).toEqual([0, ""]);
    expect(made.err).toContain(`vram attest check ${out} --pub`);
    expect(JSON.parse(readFileSync(out, "utf8"))).toEqual(ENVELOPE);
    expect(JSON.parse(readFileSync(evidence, "utf8"))).toEqual(REPLY.evidence);
    const again = await vramAt(ISSUED, ["attest", "m", "--out", out]);
    expect([again.code, again.stub.asked]).toEqual([2, []]);
    expect(again.err).toContain(`${out}: is there already\nfix   name a file that is new\n`);
    const other = join(folder, "t.json");
    writeFileSync(`${other}.evidence.json`, "");
    expect((await vramAt(ISSUED, ["attest", "m", "--out", other])).code).toBe(2);
    expect(existsSync(other)).toBe(false);
    const json = await vramAt(ISSUED, ["attest", "m", "--json", "--out", join(folder, "u.json")]);
    expect(jsonOf(json)["files"]).toEqual(["u.json", "u.json.evidence.json"].map((name) => join(folder, name)));
  });

  it.each<[string, (folder: string) => string]>([
    ["in a folder that is not there", (folder) => join(folder, "none/s.json")],
    ["in a file", (folder) => join(folder, "file/s.json")],
    ["in a folder where nothing can be made", () => "/proc/s.json"],
    ["that is a folder", (folder) => `${folder}/`],
    ["without a name", () => ""],
    ["whose name is too long", (folder) => join(folder, "x".repeat(250))],
  ])("is refused %s before anything is asked for", async (_what, at) => {
    const folder = await temporaryFolder();
    writeFileSync(join(folder, "file"), "");
    const { code, out, err, stub } = await vramAt(ISSUED, ["attest", "m", "--out", at(folder)]);
    expect([code, out, stub.asked]).toEqual([2, "", []]);
    expect(err).toMatch(/^error INVALID_ARGUMENT: .*\nfix {3}\S/);
    expect(readdirSync(folder)).toEqual(["file"]);
  });

  it("has what can be written no more on standard output, or in the error: it is on record", async () => {
    const folder = await temporaryFolder();
    const words = ["attest", "m", "--out", join(folder, "s.json")];
    const text = await vramAt(gone(folder, ISSUED, "POST /v1/statements"), words);
    expect([text.code, text.out]).toEqual([2, `${JSON.stringify(ENVELOPE)}\n`]);
    expect(text.err).toContain("s.json: ENOTDIR: not a directory\n");
    const other = await temporaryFolder();
    const json = [...words.slice(0, -1), join(other, "s.json"), "--json"];
    const document = jsonOf(await vramAt(gone(other, ISSUED, "POST /v1/statements"), json));
    expect(document).toMatchObject({
      ...{ schema: "vram-residency/attest-issue/v1", ok: false },
      error: { code: "INVALID_ARGUMENT", details: { envelope: ENVELOPE, evidence: REPLY.evidence } },
    });
  });

  it("is told how it is checked in words that a shell takes as they are", async () => {
    const out = join(await temporaryFolder(), `it's "s" $x.json`);
    const member = { ...REPLY, record: is.record({ shardIndex: 1, totalShards: 3 }) };
    const { err } = await vramAt({ "POST /v1/statements": { status: 201, json: member } }, [
      "attest",
      "m",
      "--out",
      out,
    ]);
    const quoted = `'${out.replaceAll("'", "'\\''")}'`;
    const command = `vram attest check ${quoted} --pub DIR/statement.pub.pem --model MODEL --part 2/3 --accept-backend`;
    expect(err).toContain(`check it with: ${command} emulated\nwhere DIR is that of \`vram attest keys --out DIR\`\n`);
  });
});

describe("vram attest keys", () => {
  it("shows both keys together, and writes them for --pub and --log-key", async () => {
    const { out, err, code } = await vramAt(SHOWN, ["attest", "keys"]);
    expect([code, err]).toEqual([0, ""]);
    const lines = [`statement key  ${KEYS.keyId}`, `log            ${KEYS.origin}`, `log key        ${KEYS.logKey}`];
    expect(out).toBe(`${lines.join("\n")}\n${KEYS.publicKey}`);
    const folder = join(await temporaryFolder(), "a/b");
    const [pub, log] = [join(folder, "statement.pub.pem"), join(folder, "log.vkey")];
    const written = await vramAt(SHOWN, ["attest", "keys", "--out", folder]);
    expect(written.out).toBe(`${lines.join("\n")}\nwritten        ${pub}, ${log}\n`);
    expect(readFileSync(pub, "utf8")).toBe(KEYS.publicKey);
    expect(readFileSync(log, "utf8")).toBe(`${KEYS.logKey}\n`);
    // The same once more; then what would replace a key, of which nothing is written.
    expect((await vramAt(SHOWN, ["attest", "keys", "--out", folder])).code).toBe(0);
    const other = await temporaryFolder();
    writeFileSync(join(other, "log.vkey"), "another");
    const kept = await vramAt(SHOWN, ["attest", "keys", "--out", other]);
    expect([kept.code, kept.out, readdirSync(other)]).toEqual([2, "", ["log.vkey"]]);
    expect(kept.err).toContain("log.vkey: is there, and is another key\nfix   if the key was rotated");
    expect((await vramAt(SHOWN, ["attest", "keys", "--out", join(pub, "x")])).code).toBe(2);
  });

  it("has another key made, for a reason; not if it could not be written", async () => {
    const folder = await temporaryFolder();
    const { stub, code, err, out } = await vramAt(SHOWN, ["attest", "keys", "--rotate", "yearly", "--out", folder]);
    expect(code).toBe(0);
    expect(stub.of("POST /v1/statement-keys").map(({ body }) => body)).toEqual([{ reason: "yearly" }]);
    expect(out).toContain(`statement key  ${"d".repeat(64)}\n`);
    expect(err).toContain("hand its public half to whoever checks statements\n");
    const again = await vramAt(SHOWN, ["attest", "keys", "--rotate", "yearly", "--out", folder]);
    expect([again.code, again.stub.of("POST /v1/statement-keys")]).toEqual([2, []]);
    expect(again.err).toContain("statement.pub.pem: is there, and is another key");
  });

  it.each(["/proc/none/x", "/proc/none"])("ends where no folder can be made: %s", async (out) => {
    const plain = await vramAt(SHOWN, ["attest", "keys", "--out", out]);
    expect([plain.code, plain.out]).toEqual([2, ""]);
    expect(plain.err).toContain(`${out}: ENOENT: no such file or directory\n`);
    const { code, stub } = await vramAt(SHOWN, ["attest", "keys", "--rotate", "yearly", "--out", out]);
    expect([code, stub.of("POST /v1/statement-keys")]).toEqual([2, []]);
  });

  it("shows a new key that can be written no more, and says that it signs", async () => {
    const words = ["attest", "keys", "--rotate", "yearly", "--out"];
    const [one, other] = [await temporaryFolder(), await temporaryFolder()];
    const text = await vramAt(gone(one, SHOWN, "POST /v1/statement-keys"), [...words, one]);
    expect([text.code, text.out.split("\n")[0]]).toEqual([2, `statement key  ${"d".repeat(64)}`]);
    expect(text.out).toContain(KEYS.publicKey);
    expect(text.err).toContain("the key was rotated, and could not be written: ");
    const json = jsonOf(await vramAt(gone(other, SHOWN, "POST /v1/statement-keys"), [...words, other, "--json"]));
    expect(json).toMatchObject({
      ...{ schema: "vram-residency/attest-keys/v1", ok: false },
      error: { details: { keyId: "d".repeat(64), publicKey: KEYS.publicKey } },
    });
  });
});
