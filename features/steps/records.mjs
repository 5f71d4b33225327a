/** Steps about commands without a service, about callers with a token, and about what is told of all that. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, promises, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Given, Then, When } from "@cucumber/cucumber";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const BIN = join(ROOT, "dist/cli/bin.js");

/** A command as it ships, in the scene's folder, with a home of its own. */
function run({ folder }, args) {
  const { VRAM_BACKEND: _, ...env } = process.env;
  const home = { HOME: folder, XDG_STATE_HOME: join(folder, "state-home"), XDG_RUNTIME_DIR: folder, NO_COLOR: "1" };
  return spawnSync(process.execPath, [BIN, ...args], { env: { ...env, ...home }, cwd: folder, encoding: "utf8" });
}
const said = ({ ran }) => ran.stdout + ran.stderr;

When("I run the command {string}", function (line) {
  this.ran = run(this, line.split(" "));
});
Then("it says {string}", function (text) {
  assert.ok(said(this).includes(text), said(this));
});
Then("its JSON document names the backend {string} and a device {string}", function (backend, prefix) {
  const text = JSON.stringify(JSON.parse(this.ran.stdout));
  assert.ok(text.includes(`"backend":"${backend}"`) && text.includes(`"uuid":"${prefix}`), text);
});
Then("its checks are, among others, {string}", function (ids) {
  const { checks } = JSON.parse(this.ran.stdout);
  for (const id of ids.split(" ")) assert.ok(checks.find((check) => check.id === id)?.what, id);
});

Given("a file whose name has an escape sequence", function () {
  this.odd = "weights\u001b[2J\u001b]0;title\u0007.bin";
  this.makeFile(this.odd, 5000);
});
When("I run the command on it", function () {
  this.ran = run(this, ["try", "--backend", "emulated", "--log-format", "text", this.odd]);
});
Then("nothing that it says moves the cursor", function () {
  assert.ok(said(this).includes("weights"), said(this));
  const moves = [...said(this)].filter((char) => /\p{Cc}/u.test(char) && char !== "\n");
  assert.deepEqual(moves, []);
});

const narration = ({ ran }) =>
  ran.stderr
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line));
Then("each line of narration has actor, action, target and a sentence", function () {
  assert.ok(narration(this).length > 10, this.ran.stderr);
  for (const line of narration(this)) {
    for (const field of ["actor", "action", "target", "human"]) assert.ok(line[field], JSON.stringify(line));
  }
});
Then("these are told: {string}", function (actions) {
  const told = new Set(narration(this).map(({ action }) => action));
  for (const action of actions.split(" ")) assert.ok(told.has(action), `${action} is not among ${[...told].join()}`);
});
Then("{string} counts a seal and a verification", function (name) {
  const text = readFileSync(this.path(name), "utf8");
  assert.match(text, /^# HELP vram_residency_/m);
  assert.match(text, /^vram_residency_seals_total\{[^}]*\} 1$/m);
  assert.match(text, /^vram_residency_verifications_total\{[^}]*\} [1-9]/m);
});

/** The audit log's files, on a disk that is full once a scenario says so. */
const auditFilesOf = (scene) => async (path, flags, mode) => {
  const file = await promises.open(path, flags, mode);
  const full = () => Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
  return new Proxy(file, {
    get: (target, key) => {
      if (scene.diskIsFull && (key === "write" || key === "writev" || key === "appendFile")) {
        return () => Promise.reject(full());
      }
      const value = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
};
Given("a disk that may fill up", function () {
  this.overrides.auditFiles = auditFilesOf(this);
});
When("the disk of the audit log is full", function () {
  this.diskIsFull = true;
});
const logOf = ({ folder }) =>
  readFileSync(join(folder, "state", "vram-residency", "audit", "000001.jsonl"), "utf8")
    .trim()
    .split("\n");
Then("the service's audit log has {word}", function (type) {
  assert.ok(logOf(this).some((line) => JSON.parse(line).type === type));
});
Then("it has two starts", function () {
  assert.equal(logOf(this).filter((line) => JSON.parse(line).type === "service_started").length, 2);
});

Then("its device has the UUID of the seal of {string}", async function (name) {
  const [{ uuid }] = (await this.vram()).devices();
  assert.equal(uuid, this.seals.get(name).deviceUuid);
});

/** Asks the service over TCP as somebody with a token, or without. */
async function ask({ service, token }, method, path, body) {
  const headers = {
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    ...(body === undefined ? {} : { "content-type": "application/json" }),
  };
  const init = { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) };
  const { host, port } = service.told.listen;
  const response = await fetch(`http://${host}:${port}${path}`, init);
  return { status: response.status, text: await response.text() };
}
Given("a token of scope {word}", function (scope) {
  const ran = this.service.vram("token", "add", "engine", "--scope", scope);
  assert.equal(ran.status, 0, ran.stderr);
  this.token = ran.stdout.trim();
});
When("somebody with that token verifies {string}", async function (name) {
  this.answer = await ask(this, "POST", `/v1/shards/${name}/verifications`, {});
});
When("somebody with that token evicts {string}", async function (name) {
  this.answer = await ask(this, "DELETE", `/v1/shards/${name}`);
});
When("somebody without a token asks for {string}", async function (path) {
  this.answer = await ask({ service: this.service }, "GET", path);
});
Then("the answer is {int}", function (status) {
  assert.equal(this.answer.status, status, this.answer.text);
});
Then("the answer is {int} {word}", function (status, code) {
  assert.equal(this.answer.status, status, this.answer.text);
  assert.equal(JSON.parse(this.answer.text).code, code);
});

Then("the root key is in no file but its own, and in nothing that was said", function () {
  const state = join(this.folder, "state", "vram-residency");
  const key = readFileSync(join(state, "root.key"), "utf8").trim();
  assert.match(key, /^[0-9a-f]{64}$/);
  const forms = [key, Buffer.from(key, "hex"), Buffer.from(key, "hex").toString("base64")];
  const files = readdirSync(this.folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const texts = files.map(({ parentPath, name }) => [name, readFileSync(join(parentPath, name))]);
  texts.push(["what the command said", Buffer.from(said(this))], ["the statement", this.statement]);
  const holders = texts.filter(([, text]) => forms.some((form) => text.includes(form))).map(([name]) => name);
  assert.deepEqual(holders, ["root.key"]);
});

Given("a copy of the proof bundle that is committed", function () {
  const [run] = readdirSync(join(ROOT, "docs/proof"), { withFileTypes: true }).filter((entry) => entry.isDirectory());
  cpSync(join(ROOT, "docs/proof", run.name), this.path("bundle"), { recursive: true });
});
