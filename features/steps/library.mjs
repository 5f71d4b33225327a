/** Steps about the library: what is given, and what is done. */
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Given, When } from "@cucumber/cucumber";

const MIB = 2 ** 20;
const STATUS = { OUT_OF_MEMORY: 2, ECC: 214, LAUNCH_FAILED: 719 };

Given("a model {string} of {int} MiB", function (name, mib) {
  this.makeModel(name, mib);
});
Given("a file {string} of {int} byte(s)", function (name, byteLength) {
  this.makeFile(name, byteLength);
});
Given("a copy of {string} called {string}", function (from, to) {
  this.copy(from, to);
});
Given("{int} device(s) of {int} MiB", function (devices, mib) {
  this.options.emulated = { devices, byteLength: mib * MIB };
});
Given("a state directory", function () {
  this.options.stateDir = join(this.folder, "state");
});
Given("files may be read under {string} only", function (root) {
  this.options.modelRoots = [join(this.folder, root)];
});
Given("a mismatch stops the shard alone", function () {
  this.options.onMismatch = "quarantine";
});
Given("models of at most {int} MiB", function (mib) {
  this.options.maxModelBytes = mib * MIB;
});
Given("a driver that says {string} is {int}", function (attribute, value) {
  this.faults.overrideAttribute(attribute, value);
});
Given("a driver that grants more than read access", function () {
  this.faults.overrideAccess(3);
});
Given("byte {int} of the file {string} is {int}", function (offset, name, value) {
  const bytes = this.bytes(name);
  bytes[offset] = value;
  writeFileSync(this.path(name), bytes);
});
Given("{string} is sealed", async function (name) {
  const { seal } = await (await this.vram()).seal(this.path(name));
  this.seals.set(name, seal);
});
Given("{string} is sealed in {int} shards", async function (name, shards) {
  this.sets.set(name, await (await this.vram()).sealSet(this.path(name), { shards }));
});

/** cucumber compares how many parameters a step has with how many it names. */
const taking = (count, step) => Object.defineProperty(step, "length", { value: count });

const seal = (how, count = 1) =>
  taking(count, async function (name, ...words) {
    const options = await how.call(this, name, ...words);
    const vram = await this.vram();
    await this.attempt(async () => {
      const sealed = await vram.seal(this.path(name), options);
      this.seals.set(options.name ?? name, sealed.seal);
      return sealed;
    });
  });
const sha256Of = (bytes) => createHash("sha256").update(bytes).digest("hex");

When(
  "I seal {string}",
  seal(() => ({})),
);
When(
  "I seal {string} as {string}",
  seal((_name, other) => ({ name: other }), 2),
);
When(
  "I seal {string} on device {int}",
  seal((_name, device) => ({ device }), 2),
);
When(
  "I seal {string} as {string} on device {int}",
  seal((_name, name, device) => ({ name, device }), 3),
);
When(
  "I seal {string} expecting its fs-verity digest",
  seal(function (name) {
    return { expected: `fsverity:${this.digestByTool(name)}` };
  }),
);
When(
  "I seal {string} expecting its SHA-256",
  seal(function (name) {
    return { expected: `sha256:${sha256Of(this.bytes(name))}` };
  }),
);
When(
  "I seal {string} expecting another digest",
  seal(() => ({ expected: `fsverity:${"0".repeat(64)}` })),
);
When(
  "I seal {string} with a maximum age of {int} ms",
  seal((_name, maxAgeMs) => ({ maxAgeMs }), 2),
);
When(
  "I seal {string} expecting the digest {string}",
  seal((_name, expected) => ({ expected }), 2),
);
When("I seal {string} in {int} shards", async function (name, shards) {
  const vram = await this.vram();
  await this.attempt(async () => {
    const set = await vram.sealSet(this.path(name), { shards });
    this.sets.set(name, set);
    return set;
  });
});
When("I seal {string} {int} times at once", async function (name, times) {
  const vram = await this.vram();
  const names = Array.from({ length: times }, (_, index) => `${name}-${index}`);
  this.outcomes = await Promise.allSettled(names.map((one) => vram.seal(this.path(name), { name: one })));
});
When("I seal {string} {int} times at once under one name", async function (name, times) {
  const vram = await this.vram();
  this.outcomes = await Promise.allSettled(Array.from({ length: times }, () => vram.seal(this.path(name))));
});
When("I seal, verify and evict {string} {int} times", async function (name, times) {
  const vram = await this.vram();
  for (let round = 0; round < times; round += 1) {
    const { record } = await vram.seal(this.path(name));
    await vram.verify(record.shardId);
    await vram.evict(record.shardId);
  }
});

When("bit {int} of byte {int} of {string} flips in VRAM", async function (bit, offset, name) {
  await (await this.system()).flipBit(name, offset, bit);
});
When("the driver fails its next {string} with {word}", function (call, status) {
  this.faults.reset();
  this.faults.failCall(call, 1, STATUS[status]);
});
When("the next launch of the kernel is dropped", function () {
  this.faults.reset();
  this.faults.dropLaunch(1);
});
When("the next launch of the kernel breaks the device", function () {
  this.faults.reset();
  this.faults.breakExecution("launch", 1, STATUS.LAUNCH_FAILED);
});
When("the memory of {string} has an uncorrectable error", function (_name) {
  this.faults.markUncorrectable({ allocation: 1, offset: 0, byteLength: 4096 });
});

const verify = (how, count = 1) =>
  taking(count, async function (name, ...words) {
    const options = how.call(this, name, ...words);
    const vram = await this.vram();
    await this.attempt(() => vram.verify(name, options));
  });
When(
  "I verify {string}",
  verify(() => ({})),
);
When(
  "I verify {string} with the salt {word}",
  verify((_name, salt) => ({ salt }), 2),
);
When(
  "I verify {string} settling for the last {int} ms",
  verify((_name, maxAgeMs) => ({ maxAgeMs }), 2),
);
When(
  "I verify {string} presenting its seal",
  verify(function (name) {
    return { seal: this.seals.get(name) };
  }),
);
When(
  "I verify {string} presenting the seal of {string}",
  verify(function (_name, other) {
    return { seal: this.seals.get(other) };
  }, 2),
);
When(
  "I verify {string} presenting its seal with another {word}",
  verify(function (name, field) {
    const sealed = this.seals.get(name);
    const value = sealed[field];
    const isHex = typeof value === "string" && /^[0-9a-f]+$/.test(value);
    const other =
      typeof value === "number"
        ? value + 1
        : isHex
          ? value.replace(/^./, (one) => (one === "0" ? "1" : "0"))
          : `${value}x`;
    return { seal: { ...sealed, [field]: other } };
  }, 2),
);
When("I verify every member of {string}", async function (name) {
  const vram = await this.vram();
  await this.attempt(() => vram.verifySet(this.sets.get(name).set));
});

When("I evict {string}", async function (name) {
  const vram = await this.vram();
  await this.attempt(() => vram.evict(name));
});
When("I lease {string}", async function (name) {
  const vram = await this.vram();
  await this.attempt(async () => {
    const granted = await vram.acquire(name, { durationMs: 60_000, maxAgeMs: 0, holder: "engine" });
    this.leases.push(granted.lease.leaseId);
    return granted;
  });
});
When("I release the lease", async function () {
  const vram = await this.vram();
  await this.attempt(() => vram.release(this.leases.at(-1)));
});
When("I resume because {string}", async function (reason) {
  const vram = await this.vram();
  await this.attempt(() => vram.resume(reason));
});
When("I ask what {string} would need", async function (name) {
  const vram = await this.vram();
  await this.attempt(() => vram.plan(this.path(name)));
});
When("the program starts again", async function () {
  await this.close();
});
When("somebody changes line {int} of the audit log", async function (seq) {
  const path = join(this.folder, "state", "audit", "000001.jsonl");
  const lines = readFileSync(path, "utf8").split("\n");
  lines[seq] = lines[seq].replace('"name":"weights.bin"', '"name":"weights.bim"');
  writeFileSync(path, lines.join("\n"));
});
When("I open the device", async function () {
  await this.attempt(() => this.vram());
});
When("I ask what the policy says", async function () {
  const vram = await this.vram();
  await this.attempt(async () => vram.checkPolicy());
});
