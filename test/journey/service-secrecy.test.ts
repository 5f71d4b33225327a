/** Keys and tokens that are known beforehand are looked for in all that a service answers, tells and writes. */
import { createHash, randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { recordingNarrator } from "../helpers/narration.ts";
import { everyForm, findSecrets, plantState, secretsOf, textOfFolder } from "../helpers/secrets.ts";
import { type Front, type Home, makeHome, NEVER, openFront, openTestService } from "../helpers/service.ts";
import { MIB, randomFile } from "../helpers/vram.ts";

/** Asks every route, with and without right; what comes back, headers left out. */
async function askEverything({ ask, tokens }: Front, path: string): Promise<string> {
  const texts: string[] = [];
  const say = async (...args: Parameters<Front["ask"]>): Promise<string> => {
    const { status, text } = await ask(...args);
    texts.push(`${args[0]} ${args[1]}: ${status} ${text}`);
    return text;
  };
  await say("POST", "/v1/shards", { path, name: "m", sha256: true, wait: true });
  await say("POST", "/v1/shards", { path, name: "s", format: "raw", expected: "0".repeat(64), wait: true });
  const granted = await say("POST", "/v1/leases", { shard: "m", salt: "ab", holder: "engine" }, tokens.use);
  const { lease } = JSON.parse(granted) as { lease: { leaseId: string } };
  await say("POST", `/v1/leases/${lease.leaseId}/renewals`, {}, tokens.use);
  for (const route of [
    ...["/v1/shards", "/v1/shards/m", "/v1/shards/none", "/v1/leases", `/v1/leases/${lease.leaseId}`, "/v1/ready"],
    ...["/v1/devices", "/metrics", "/healthz", "/readyz", "/v1/openapi.json", "/v1/operations/op-none"],
    ...["/v1/audit/checkpoint", "/v1/audit/entries?last=500", "/v1/audit/proofs/0", "/v1/audit/proofs/99999"],
  ]) {
    await say("GET", route);
    await say("GET", route, undefined, tokens.use);
    await say("GET", route, undefined, tokens.operate);
    await say("GET", route, undefined, `${tokens.use}x`);
  }
  await say("POST", "/v1/plan", { path });
  await say("POST", "/v1/shards/m/verifications", { salt: "00ff" });
  await say("DELETE", "/v1/shards/m");
  await say("DELETE", `/v1/leases/${lease.leaseId}`, undefined, tokens.use);
  await say("POST", "/v1/resume", { reason: "nothing is stopped" }, tokens.use);
  return texts.join("\n");
}

/** Tokens as they are shown once, as they are kept, and what is random in them. */
async function tokenSecrets({ tokens }: Front, { stateDir }: Home) {
  const texts = Object.entries(tokens).flatMap(([name, token]) => {
    const random = Buffer.from(token.replace(/^vram_[a-z]+_/, ""), "base64url");
    const hash = createHash("sha256").update(token).digest();
    return [
      { name: `token ${name}`, bytes: random },
      { name: `hash of token ${name}`, bytes: hash },
    ];
  });
  const kept = await readFile(join(stateDir, "tokens.json"), "utf8");
  expect(findSecrets(kept, texts)).toEqual(["hash of token use: hex", "hash of token operate: hex"]);
  return texts;
}

it("[VR-API-02] [VR-SEAL-03] [VR-NAR-02] a service shows no key and no token: answers, feed, narration, metrics, log, state", async () => {
  const home = await makeHome();
  const [root, k0] = [randomBytes(32), randomBytes(32)];
  await plantState(home.stateDir, root, k0);
  const [json, text] = [await recordingNarrator({ level: "debug" }), await recordingNarrator({ format: "text" })];
  const test = await openTestService(home, {}, { readers: [json.narrator, text.narrator] });
  const front = await openFront(test, home);
  const { path, bytes } = await randomFile(2 * MIB);
  const answers = await askEverything(front, path);
  await test.devices[0]?.flipBit(0, 5, 5);
  const failed = await test.service.verify("m", {}, NEVER).catch((error: unknown) => error);
  const feed: unknown[] = [];
  const stop = new AbortController();
  for await (const item of test.service.feed.read(0, stop.signal)) {
    feed.push(item);
    if (item.kind === "entry" && item.entry.type === "worker_stopped") stop.abort();
  }
  await test.close();

  const shown = [answers, everyForm(failed), everyForm(feed), everyForm(test.entries), json.text(), text.text()];
  const log = await textOfFolder(join(home.stateDir, "audit"));
  for (const type of ["lease_granted", "auth_failed", "seal_refused", "worker_stopped"]) expect(log).toContain(type);
  const secrets = [...(await secretsOf(home.stateDir, root, k0)), ...(await tokenSecrets(front, home))];
  const state = await Promise.all(
    ["state.json", "wanted.json"].map((name) => readFile(join(home.stateDir, name), "utf8")),
  );
  const all = [...shown, log, ...state].join("\n");
  expect(findSecrets(all, secrets)).toEqual([]);
  expect(all).not.toContain(bytes.subarray(0, 24).toString("hex"));
  // What is private to the service's machine is in its state, and in what its own user asked about.
  expect(feed.map(everyForm).join("")).not.toContain(home.stateDir);
  // The search finds what is there.
  await writeFile(join(home.folder, "planted"), Buffer.from(root).toString("base64"));
  expect(findSecrets(await readFile(join(home.folder, "planted"), "utf8"), secrets)).toEqual(["root key: base64"]);
});
