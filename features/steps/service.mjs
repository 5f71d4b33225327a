/**
 * Steps about the service: `vram serve` in a process of its own, on its own state, asked over its socket. It is started
 * through `vram-residency/testing`, on an emulated device whose bytes can be changed; the command that ships has no such
 * way in. Commands that are run beside it are the ones that ship.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Given, Then, When } from "@cucumber/cucumber";
import { openClient } from "../../dist/client.js";
import { checkStatement } from "../../dist/offline.js";

const BIN = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));
const TESTING = new URL("../../dist/testing.js", import.meta.url).href;
/** Serves, and flips bits that it is told of: `NAME OFFSET BIT`, a line each. */
const TAMPERED = `import { createInterface } from "node:readline";
import { serveForTests } from ${JSON.stringify(TESTING)};
const code = await serveForTests(process.argv.slice(1), ({ flipBit }) => {
  createInterface({ input: process.stdin }).on("line", async (line) => {
    const [name, offset, bit] = line.split(" ");
    await flipBit(name, Number(offset), Number(bit));
    process.stderr.write("flipped\\n");
  });
});
// What is read from standard input would keep it here.
process.exit(code);`;

class Service {
  constructor(folder, options = []) {
    this.folder = folder;
    this.options = options;
    this.env = {
      ...process.env,
      ...{ HOME: folder, XDG_RUNTIME_DIR: join(folder, "run"), XDG_STATE_HOME: join(folder, "state"), NO_COLOR: "1" },
    };
    mkdirSync(this.env.XDG_RUNTIME_DIR, { mode: 0o700, recursive: true });
  }

  async start() {
    const args = ["--json", "--quiet", "--set", "emulated.bytes=64MiB", "--set", "hashThreads=0", ...this.options];
    this.child = spawn(process.execPath, ["--input-type=module", "-e", TAMPERED, "--", ...args], { env: this.env });
    this.child.stdin.on("error", () => undefined);
    const [said] = await once(this.child.stdout, "data");
    this.told = JSON.parse(String(said));
    this.client = openClient({ socket: this.told.socket });
    // What is wanted is sealed again; what is blocked stays so.
    const isUnderWay = ({ state }) => state === "waiting" || state === "restoring";
    while ((await this.client.list()).missing.some(isUnderWay));
  }

  async flip(name, offset, bit) {
    this.child.stdin.write(`${name} ${offset} ${bit}\n`);
    await once(this.child.stderr, "data");
  }

  async kill(signal) {
    this.client?.close();
    if (this.child.exitCode !== null || this.child.signalCode !== null) return this.child.exitCode;
    this.child.kill(signal);
    const [code] = await once(this.child, "exit");
    return code;
  }

  end() {
    return this.kill("SIGKILL");
  }

  vram(...args) {
    return spawnSync(process.execPath, [BIN, ...args], { env: this.env, encoding: "utf8", cwd: this.folder });
  }
}

Given("a service", async function () {
  this.service = new Service(this.folder);
  await this.service.start();
});
Given("a service that listens on TCP", async function () {
  this.service = new Service(this.folder, ["--listen", "127.0.0.1:0"]);
  await this.service.start();
});
Given("the service seals {string}", async function (name) {
  await this.service.client.seal({ path: this.path(name), wait: true });
});

When("I ask the service to seal {string}", async function (name) {
  await this.attempt(() => this.service.client.seal({ path: this.path(name), wait: true }));
});
When("I ask the service to verify {string}", async function (name) {
  await this.attempt(() => this.service.client.verify(name, { maxAgeMs: 0 }));
});
When("I ask the service for a lease on {string}", async function (name) {
  await this.attempt(() => this.service.client.grant({ shard: name, maxAgeMs: 0 }));
});
When("I ask the service to evict {string}", async function (name) {
  await this.attempt(() => this.service.client.evict(name));
});
When("I ask the service to resume because {string}", async function (reason) {
  await this.attempt(() => this.service.client.resume({ reason }));
});
When("bit {int} of byte {int} of {string} flips in the service's VRAM", async function (bit, offset, name) {
  await this.service.flip(name, offset, bit);
});
When("the service is killed and started again", async function () {
  await this.service.kill("SIGKILL");
  await this.service.start();
});
When("the service is told to end", async function () {
  this.exitCode = await this.service.kill("SIGTERM");
});
When("I run vram {string}", function (line) {
  this.ran = this.service.vram(...line.split(" "));
});
When("I attach to {string} expecting its digest", async function (name) {
  const expect = `fsverity:${this.digestByTool(name)}`;
  await this.attempt(async () => {
    this.attachment = await this.service.client.attach(name, { expect });
    return this.attachment;
  });
});
When("I attach to {string} expecting another digest", async function (name) {
  await this.attempt(() => this.service.client.attach(name, { expect: `fsverity:${"0".repeat(64)}` }));
});
When("I detach", async function () {
  await this.attachment.close();
  const { client } = this.service;
  while ((await client.list()).shards.some(({ exports }) => exports > 0));
});

Then("a leased shard is not evicted", async function () {
  const { lease } = this.result;
  await assert.rejects(this.service.client.evict(lease.shardId), { code: "SHARD_BUSY" });
  await this.service.client.release(lease.leaseId);
});
Then("the command exits with {int}", function (code) {
  assert.equal(this.ran.status, code, this.ran.stdout + this.ran.stderr);
});
Then("the service has ended in order", function () {
  assert.equal(this.exitCode, 0);
});
Then("the service lists {string} as {word}", async function (name, state) {
  const { shards } = await this.service.client.list();
  assert.equal(shards.find((record) => record.name === name)?.state, state);
});
Then("the service has {string} under the digest of its file", async function (name) {
  const { shards } = await this.service.client.list();
  assert.equal(shards.find((record) => record.name === name)?.digest, this.digestByTool(name));
});
Then("every tensor is what the file {string} has", function (name) {
  const file = this.bytes(name);
  const { attachment } = this;
  assert.ok(attachment.tensors.size > 10);
  for (const [tensor, { offset, byteLength }] of attachment.tensors) {
    assert.ok(file.subarray(offset, offset + byteLength).equals(attachment.tensor(tensor)), tensor);
  }
});
Then("{string} was handed out {int} time(s), and {int} have it now", async function (name, total, now) {
  const { shards } = await this.service.client.list();
  const { exports, exportsTotal } = shards.find((record) => record.name === name);
  assert.deepEqual([exportsTotal, exports], [total, now]);
});

/** What an auditor has: a statement, the keys that came another way, and a nonce. */
When("an auditor asks for a statement about {string}", async function (name) {
  this.nonce = randomBytes(32).toString("hex");
  this.keys ??= await this.service.client.statementKeys();
  await this.attempt(async () => {
    const { envelope } = await this.service.client.attest({ shard: name, nonce: this.nonce });
    this.statement = Buffer.from(JSON.stringify(envelope));
    return envelope;
  });
});
const check = (scene, terms) =>
  checkStatement(scene.statement, {
    ...{ publicKey: scene.keys.publicKey, nonce: scene.nonce, logKey: scene.keys.logKey, hashThreads: 0 },
    ...{ acceptBackends: ["emulated"], ...terms },
  });
Then("it holds for the file {string}, and shows possession, freshness and its place in the log", async function (name) {
  const checked = await check(this, { model: this.path(name) });
  assert.equal(checked.ok, true, checked.message);
  const shown = checked.findings.filter((one) => one.shown).map(({ property }) => property);
  assert.deepEqual(shown, ["signature", "content", "possession", "freshness", "logged"]);
});
Then("it is refused for the file {string} with {string}", async function (name, fault) {
  assert.equal((await check(this, { model: this.path(name) })).fault, fault);
});
Then("it is refused for a GPU with {string}", async function (fault) {
  assert.equal((await check(this, { digest: "0".repeat(64), acceptBackends: [] })).fault, fault);
});
Then("it is refused to an auditor with another nonce", async function () {
  const terms = { model: this.path("llama.safetensors"), nonce: randomBytes(32).toString("hex") };
  assert.equal((await check(this, terms)).fault, "nonce");
});
When("one bit of the statement is changed", function () {
  const envelope = JSON.parse(this.statement);
  const payload = Buffer.from(envelope.payload, "base64");
  payload[payload.byteLength >> 1] ^= 1;
  this.statement = Buffer.from(JSON.stringify({ ...envelope, payload: payload.toString("base64") }));
});
When("one byte of the file {string} is changed", function (name) {
  const bytes = readFileSync(this.path(name));
  bytes[bytes.byteLength - 1] ^= 1;
  writeFileSync(this.path(name), bytes);
});
