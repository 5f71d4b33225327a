/** Steps about what came of it. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Then } from "@cucumber/cucumber";
import { verifyLog } from "../../dist/offline.js";

const MIB = 2 ** 20;

Then("it succeeds", function () {
  assert.equal(this.error, undefined, String(this.error));
});
Then("it is refused with {word}", function (code) {
  assert.equal(this.error?.code, code, `refused with ${this.error?.code}: ${this.error?.message}`);
  assert.notEqual(this.error.fix, "");
});
Then("the message names {string}", function (text) {
  assert.ok(this.error.message.includes(text), this.error.message);
});
Then("{int} of them succeed, and the others are refused with {word}", function (count, code) {
  const failed = this.outcomes.filter(({ status }) => status === "rejected");
  assert.equal(this.outcomes.length - failed.length, count);
  assert.deepEqual([...new Set(failed.map(({ reason }) => reason.code))], [code]);
});

Then("as many succeed as fit into the memory, and the others are refused with {word}", async function (code) {
  const failed = this.outcomes.filter(({ status }) => status === "rejected");
  assert.deepEqual([...new Set(failed.map(({ reason }) => reason.code))], [code]);
  const { bytesFree } = await (await this.vram()).capacity();
  const each = this.outcomes.find(({ status }) => status === "fulfilled").value.record.byteLength;
  assert.ok(bytesFree < each, `${bytesFree} bytes are free, and one more would have fitted`);
});

Then("its digest is what fsverity says of {string}", function (name) {
  const { record } = this.result;
  assert.equal(record.digest, this.digestByTool(name));
});
Then("its SHA-256 is on record", function () {
  assert.match(this.result.record.sha256, /^[0-9a-f]{64}$/);
});
Then("it was compared with what was {word}", function (how) {
  assert.equal(this.result.record.comparedWith, how);
});
Then("every byte of {string} was measured", function (name) {
  assert.equal(this.result.basis, "measured");
  assert.equal(this.result.bytesCovered, this.bytes(name).byteLength);
});
Then("nothing was measured now", function () {
  assert.equal(this.result.basis, "fresh-enough");
  assert.equal(this.result.bytesCovered, 0);
});
Then("the salted answer is what fsverity says of {string} with {word}", function (name, salt) {
  assert.equal(this.result.salted.digest, this.digestByTool(name, `--salt=${salt}`));
});
Then("the report says that it read from {word}", function (where) {
  assert.equal(this.result.readFrom, where);
});
Then("the damage is named to byte {int}", function (offset) {
  const { damage } = this.error.details;
  assert.equal(damage.precision, "block");
  assert.equal(damage.blockCount, 1);
  assert.ok(damage.blocks[0].byteOffsets.includes(offset), JSON.stringify(damage.blocks[0]));
});
Then("the damage is in {string}", function (tensor) {
  assert.ok(this.error.details.damage.tensors.includes(tensor), this.error.details.damage.tensors.join());
});

Then("nothing is listed", async function () {
  assert.deepEqual((await this.vram()).list(), []);
});
Then("{int} shards are listed", async function (count) {
  assert.equal((await this.vram()).list().length, count);
});
Then("{string} is listed as {word}", async function (name, state) {
  const records = (await this.vram()).list().filter((record) => record.name === name);
  assert.deepEqual(
    records.map((record) => record.state),
    [state],
  );
});
Then("{string} is not listed", async function (name) {
  assert.ok(!(await this.vram()).list().some((record) => record.name === name));
});
Then("all of the memory is free again", async function () {
  const { bytesFree, bytesTotal, bytesHeadroom, bytesUsed, bytesReserved } = await (await this.vram()).capacity();
  assert.deepEqual({ bytesUsed, bytesReserved }, { bytesUsed: 0, bytesReserved: 0 });
  assert.ok(bytesFree > 0 && bytesFree <= bytesTotal - bytesHeadroom);
});
Then("{int} MiB are used", async function (mib) {
  assert.equal((await (await this.vram()).capacity()).bytesUsed, mib * MIB);
});
Then("the memory was zeroed", function () {
  assert.equal(this.result.zeroed, true);
});
Then("the worker is {word}", async function (state) {
  assert.equal((await this.vram()).devices()[0].state, state);
});
Then("device {int} is {word}", async function (ordinal, state) {
  assert.equal((await this.vram()).devices()[ordinal].state, state);
});
Then("it would fit", function () {
  assert.equal(this.result.fits, true);
});
Then("it would not fit", function () {
  assert.equal(this.result.fits, false);
});
Then("no rule of it is broken", function () {
  assert.deepEqual(
    this.result.map(({ violations }) => violations),
    this.result.map(() => []),
  );
});
Then("the policy of its seal is the one in force", async function () {
  const [{ policyDigest }] = (await this.vram()).checkPolicy();
  assert.equal(this.result.seal.policyDigest, policyDigest);
});
Then("the seal says that the device is EMULATED", function () {
  assert.equal(this.result.seal.backend, "emulated");
  assert.match(this.result.seal.deviceUuid, /^EMU-/);
});
Then("neither an address nor a key nor the path of the file is in what was handed out", function () {
  const text = JSON.stringify(this.result) + String(this.result.record);
  assert.ok(!text.includes(this.folder), "a path");
  assert.doesNotMatch(text, /0x[0-9a-f]{6,}|root\.key|"(?:pointer|address|cuDevicePtr)"/i);
});
Then("it covers {int} shards with one mac", function (count) {
  assert.equal(this.result.members.length, count);
  assert.match(this.result.set.mac, /^[0-9a-f]{64}$/);
});
Then("their bytes together are those of {string}", function (name) {
  const { members } = this.result;
  const total = members.reduce((sum, { record }) => sum + record.byteLength, 0);
  assert.equal(total, this.bytes(name).byteLength);
});

Then("the audit log has {word}", async function (type) {
  const lines = logLines(this);
  assert.ok(
    lines.some((line) => line.type === type),
    lines.map((line) => line.type).join(),
  );
});
Then("the audit log has no {word}", async function (type) {
  assert.ok(!logLines(this).some((line) => line.type === type));
});
Then("the audit log gives the reason {string}", function (reason) {
  assert.ok(logLines(this).some(({ data }) => data.reason === reason));
});
Then("the audit log is intact", async function () {
  const report = await verifyLog(join(this.folder, "state", "audit"));
  assert.equal(report.verdict, "intact", JSON.stringify(report.problems));
});
Then("the audit log is not intact, and line {int} is named", async function (seq) {
  const report = await verifyLog(join(this.folder, "state", "audit"));
  assert.notEqual(report.verdict, "intact");
  assert.ok(JSON.stringify(report).includes(`"seq":${seq}`), JSON.stringify(report.problems));
});

function logLines({ folder }) {
  const text = readFileSync(join(folder, "state", "audit", "000001.jsonl"), "utf8");
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}
