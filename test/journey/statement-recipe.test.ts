/** The recipe of docs/statement.md, run exactly as it is printed, beside our own checker: what both find, and we alone. */
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { copyFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { signEnvelope } from "../../src/attest/envelope.ts";
import { createStatementSigner } from "../../src/attest/keys.ts";
import { checkStatement } from "../../src/offline.ts";
import { serveModel } from "../helpers/attach-service.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const PAGE = new URL("../../docs/statement.md", import.meta.url);
let recipe: string;
let folder: string;
let nonce: string;

beforeAll(async () => {
  const page = await readFile(PAGE, "utf8");
  const section = page.split("\n## Without our software\n")[1] ?? expect.fail("the section is gone");
  recipe = /```sh\n([\s\S]*?)```/.exec(section)?.[1] ?? expect.fail("the recipe is gone");
  for (const tool of ["jq", "fsverity", "openssl"]) {
    expect(spawnSync("sh", ["-c", `command -v ${tool}`]).status, `install the Debian package ${tool}`).toBe(0);
  }
});

beforeEach(async () => {
  const { front, bytes } = await serveModel();
  folder = await temporaryFolder();
  nonce = randomBytes(32).toString("hex");
  const { status, text } = await front.ask("POST", "/v1/statements", { shard: "m.safetensors", nonce });
  expect(status, text).toBe(201);
  const { envelope } = JSON.parse(text) as { envelope: unknown };
  const keys = JSON.parse((await front.ask("GET", "/v1/statement-keys")).text) as { publicKey: string };
  await writeFile(join(folder, "statement.json"), JSON.stringify(envelope));
  await writeFile(join(folder, "statement.pub.pem"), keys.publicKey);
  await writeFile(join(folder, "model.safetensors"), bytes);
});

/** What the recipe says, and what our checker does. */
async function verdicts(): Promise<{ readonly recipe: boolean; readonly ours: boolean; readonly said: string }> {
  const env = { ...process.env, NONCE: nonce, BACKEND: "emulated" };
  const { status, stdout, stderr } = spawnSync("sh", ["-c", recipe], { cwd: folder, env, encoding: "utf8" });
  const checked = await checkStatement(await readFile(join(folder, "statement.json")), {
    publicKey: await readFile(join(folder, "statement.pub.pem"), "utf8"),
    ...{ model: join(folder, "model.safetensors"), nonce, acceptBackends: ["emulated"], hashThreads: 0 },
  });
  return { recipe: status === 0, ours: checked.ok, said: stdout + stderr };
}

describe("[VR-ATT-01] the recipe with openssl and fsverity", () => {
  it("has thirteen lines, and accepts what our checker accepts", async () => {
    expect(recipe.trim().split("\n").length).toBe(13);
    const { said, ...both } = await verdicts();
    expect(both, said).toEqual({ recipe: true, ours: true });
    expect(said).toMatch(/Verified OK[\s\S]*holds: measured at 20.* on EMU-/);
  });

  it.each<[string, () => Promise<void>]>([
    [
      "one byte of the file is another",
      async () => {
        const path = join(folder, "model.safetensors");
        const bytes = await readFile(path);
        bytes[bytes.byteLength - 1] = (bytes.at(-1) ?? 0) ^ 1;
        await writeFile(path, bytes);
      },
    ],
    [
      "the nonce is another",
      async () => {
        nonce = randomBytes(32).toString("hex");
      },
    ],
    ["the key is another", () => writeFile(join(folder, "statement.pub.pem"), createStatementSigner().publicPem)],
    [
      "the statement was altered",
      async () => {
        const path = join(folder, "statement.json");
        const envelope = JSON.parse(await readFile(path, "utf8")) as { payload: string };
        const payload = Buffer.from(envelope.payload, "base64").toString().replace('"total":0', '"total":1');
        await writeFile(path, JSON.stringify({ ...envelope, payload: Buffer.from(payload).toString("base64") }));
      },
    ],
    ["the statement is none", () => copyFile(join(folder, "statement.pub.pem"), join(folder, "statement.json"))],
  ])("refuses when %s, as our checker does", async (_what, change) => {
    await change();
    const { said, ...both } = await verdicts();
    expect(both, said).toEqual({ recipe: false, ours: false });
  });

  const forged: readonly [string, boolean, (payload: string) => string][] = [
    ["a key stands twice in it", false, (text) => text.replace(/"issuedAt":"[^"]+",/, "$&$&")],
    ["the service chose the nonce", false, (text) => text.replace('"caller"', '"service"')],
    ["the measurement is another", false, (text) => text.replace(/("digest":")[0-9a-f]{64}/g, `$1${"a".repeat(64)}`)],
    ["its policy has another digest", true, (text) => text.replace(/("policyDigest":")./, "$1-")],
    ["it is from a time to come", true, (text) => text.replace(/("issuedAt":")..../, "$19000")],
    ["its line in the log is gone", true, (text) => text.replace(/("proof":")c2sp/, "$1none")],
    ["it has a field more", true, (text) => text.replace('"sourceOffset":0', '"sourceOffset":0,"spare":0')],
  ];
  it.each(forged)(
    "where its own key signed that %s: it is refused by us, and held by the recipe: %s",
    async (_what, held, change) => {
      const path = join(folder, "statement.json");
      const { payload } = JSON.parse(await readFile(path, "utf8")) as { payload: string };
      const text = Buffer.from(payload, "base64").toString();
      expect(change(text)).not.toBe(text);
      const signer = createStatementSigner();
      const envelope = signEnvelope(Buffer.from(change(text)), signer.privateKey, signer.keyId);
      await writeFile(path, JSON.stringify(envelope));
      await writeFile(join(folder, "statement.pub.pem"), signer.publicPem);
      const { said, ...both } = await verdicts();
      expect(both, said).toEqual({ recipe: held, ours: false });
    },
  );
});
