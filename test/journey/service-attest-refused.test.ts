/** When a service makes no statement: whatever is wrong, nothing is signed, and nothing is handed out that is not on record. */
import { promises } from "node:fs";
import { readdir } from "node:fs/promises";
import http from "node:http";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type CheckOptions, checkStatement } from "../../src/offline.ts";
import { stopWorker } from "../../src/residency/worker.ts";
import type { Problem, StatementReply } from "../../src/service/replies.ts";
import { type Served, serveModel } from "../helpers/attach-service.ts";
import { createDisk, type Disk, readLog, requireSoundLog } from "../helpers/audit-journey.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { CALLER, makeHome, NEVER, openFront, openTestService } from "../helpers/service.ts";
import { codeOf, MIB, randomFile } from "../helpers/vram.ts";

const NONCE = "5a".repeat(32);
const BODY = { shard: "m.safetensors", nonce: NONCE };

let served: Served;
let disk: Disk;

beforeEach(async () => {
  disk = createDisk();
  vi.spyOn(promises, "open").mockImplementation(disk.openFile as typeof promises.open);
  served = await serveModel();
});
afterEach(() => void vi.restoreAllMocks());

async function post(body: object, token?: string): Promise<{ status: number; json: unknown; text: string }> {
  const { status, text } = await served.front.ask("POST", "/v1/statements", body, token);
  return { status, text, json: JSON.parse(text) };
}

/** Asks, and is refused: nothing is signed, on record or otherwise. */
async function refuse(body: object, status: number, code: string): Promise<Problem> {
  const before = served.test.of("statement_issued").length;
  const reply = await post(body);
  expect(reply.json).toMatchObject({ status, code });
  expect(reply.text).not.toContain("payload");
  expect(served.test.of("statement_issued").length).toBe(before);
  return reply.json as Problem;
}

async function faultOf(json: unknown, terms: Partial<CheckOptions>): Promise<string> {
  const { publicKey } = served.test.service.statementKeys();
  const bytes = Buffer.from(JSON.stringify((json as StatementReply).envelope));
  const all = { publicKey, acceptBackends: ["emulated" as const], digest: served.digest, ...terms };
  const checked = await checkStatement(bytes, all);
  return checked.ok ? "none" : checked.fault;
}

describe("a question that is none", () => {
  it.each([
    ["a nonce of 15 bytes", { nonce: "5a".repeat(15) }],
    ["a nonce of 33 bytes", { nonce: "5a".repeat(33) }],
    ["a nonce of half a byte more", { nonce: `${"5a".repeat(16)}5` }],
    ["a nonce that is no hex", { nonce: "zz".repeat(16) }],
    ["a nonce and a line feed", { nonce: `${NONCE}\n` }],
    ["an empty nonce", { nonce: "" }],
    ["a number for a nonce", { nonce: 5 }],
    ["no shard", { shard: undefined }],
    ["a field that nobody knows", { salt: "ab" }],
  ])("is refused with 400: %s", async (_what, more) => {
    const before = served.test.of("seal_verified").length;
    await refuse({ ...BODY, ...more }, 400, "INVALID_ARGUMENT");
    expect(served.test.of("seal_verified").length).toBe(before);
  });

  it("is one about a shard that there is not", async () => {
    await refuse({ ...BODY, shard: "other" }, 404, "SHARD_NOT_FOUND");
  });
});

describe("[VR-API-02] who may ask", () => {
  it("a token of scope use has statements made and reads the keys; it makes no new key", async () => {
    const { ask, tokens } = served.front;
    expect((await post(BODY, tokens.use)).status).toBe(201);
    const { status, text } = await ask("GET", "/v1/statement-keys", undefined, tokens.use);
    expect(status).toBe(200);
    const before = served.test.service.statementKeys();
    expect(JSON.parse(text)).toEqual(before);
    const rotated = await ask("POST", "/v1/statement-keys", { reason: "mine" }, tokens.use);
    expect(JSON.parse(rotated.text)).toMatchObject({ status: 403, code: "FORBIDDEN" });
    expect(served.test.service.statementKeys()).toEqual(before);
    expect((await ask("POST", "/v1/statement-keys", { reason: "yearly" }, tokens.operate)).status).toBe(201);
    expect((await ask("POST", "/v1/statement-keys", { reason: "" }, tokens.operate)).status).toBe(400);
    expect((await post(BODY, `${tokens.use}x`)).status).toBe(401);
  });
});

describe("what does not lie there any more", () => {
  it("[VR-ATT-01] is evicted: no statement is made, and an old one answers no new nonce", async () => {
    const { json: old } = await post(BODY);
    expect(await faultOf(old, { nonce: NONCE })).toBe("none");
    await served.test.service.evict(served.shardId, { revoke: false });
    await refuse(BODY, 404, "SHARD_NOT_FOUND");
    expect(await faultOf(old, { nonce: "a5".repeat(32) })).toBe("nonce");
    // Without a nonce of his own a checker cannot tell.
    expect(await faultOf(old, {})).toBe("none");
  });

  it("[VR-ATT-01] has changed by one bit: that is found, and nothing is vouched for on this device any more", async () => {
    const { path } = await randomFile(MIB, "sound.bin");
    await (await served.test.service.seal({ path }, CALLER)).ended;
    await served.test.devices[0]?.flipBit(0, 100, 3);
    await refuse(BODY, 409, "MEASUREMENT_MISMATCH");
    await refuse(BODY, 409, "WORKER_STOPPED");
    await refuse({ ...BODY, shard: "sound.bin" }, 409, "WORKER_STOPPED");
    expect(served.test.of("seal_verification_failed")).toHaveLength(1);
    const log = await readLog(served.home.stateDir);
    expect(log.map(({ type }) => type)).not.toContain("statement_issued");
  });

  it("is on a device that is stopped while it is measured: nothing is signed about it", async () => {
    const { system, workers } = served.test.open;
    const gate = await holdMeasure();
    const asking = post(BODY);
    await gate.begun;
    await stopWorker(system, workers[0] ?? expect.fail(), "something else was found");
    gate.open();
    expect((await asking).json).toMatchObject({ status: 409, code: "WORKER_STOPPED" });
    expect(served.test.of("seal_verified").at(-1)).toMatchObject({ salt: NONCE });
    expect(served.test.of("statement_issued")).toEqual([]);
  });
});

/** Makes the next measurement of the device wait. */
async function holdMeasure() {
  const { device } = served.test.devices[0]?.opened ?? expect.fail();
  const measure = device.measure.bind(device);
  let [begin, open] = [(): void => undefined, (): void => undefined];
  const begun = new Promise<void>((resolve) => {
    begin = resolve;
  });
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  device.measure = async (...args) => {
    device.measure = measure;
    begin();
    await opened;
    return measure(...args);
  };
  return { begun, open };
}

describe("a caller who goes away", () => {
  it("while it is measured leaves no statement behind", async () => {
    const { service } = served.test;
    const gate = await holdMeasure();
    let left: AbortSignal | undefined;
    const settled = new Promise<string>((resolve) => {
      const attest = service.attest.bind(service);
      service.attest = (request, caller, signal) => {
        left = signal;
        const made = attest(request, caller, signal);
        resolve(codeOf(made));
        return made;
      };
    });
    const request = http.request({
      ...{ socketPath: served.front.socket, method: "POST", path: "/v1/statements" },
      headers: { "content-type": "application/json" },
    });
    request.on("error", () => undefined);
    request.end(JSON.stringify(BODY));
    await gate.begun;
    request.destroy();
    await until("the service hears of it", () => left?.aborted === true);
    gate.open();
    expect(await settled).toBe("ABORTED");
    expect(served.test.of("seal_verified").at(-1)).toMatchObject({ salt: NONCE });
    expect(served.test.of("statement_issued")).toEqual([]);
    expect((await post(BODY)).status).toBe(201);
  });
});

describe("[VR-AUD-03] an audit log", () => {
  it("that is full when the measurement is done: it is not handed out, and later ones are", async () => {
    disk.fill("statement_issued");
    const { text } = await post(BODY);
    expect(JSON.parse(text)).toMatchObject({ status: 503, code: "AUDIT_UNAVAILABLE" });
    expect(text).not.toContain("payload");
    const types = async (): Promise<string[]> => (await readLog(served.home.stateDir)).map(({ type }) => type);
    expect(await types()).toContain("seal_verified");
    expect(await types()).not.toContain("statement_issued");
    // The log asks again by itself whether there is room.
    await expect.poll(async () => (await post(BODY)).status, { timeout: 20_000 }).toBe(201);
    expect(await types()).toContain("statement_issued");
    await served.test.close();
    await requireSoundLog(served.home.stateDir);
  });

  it("that cannot be signed has no proof to give", async () => {
    const rename = vi.spyOn(promises, "rename").mockImplementation(async (from, to) => {
      const what = `ENOSPC: no space left on device, rename '${String(from)}' -> '${String(to)}'`;
      throw Object.assign(new Error(what), { code: "ENOSPC", syscall: "rename" });
    });
    const { detail } = await refuse(BODY, 503, "AUDIT_UNAVAILABLE");
    expect(detail).not.toContain(served.home.stateDir);
    expect(rename).toHaveBeenCalled();
    rename.mockRestore();
    await expect.poll(async () => (await post(BODY)).status, { timeout: 20_000 }).toBe(201);
  });

  it("that may have gaps has none where a statement is handed out", async () => {
    const home = await makeHome();
    const test = await openTestService(home, { "audit.mode": "best-effort" });
    const { path } = await randomFile(MIB, "m");
    await (await test.service.seal({ path }, CALLER)).ended;
    for (const type of ["statement_issued", "seal_verified"]) {
      disk.fill(type);
      expect(await codeOf(test.service.attest({ shard: "m" }, CALLER, NEVER)), type).toBe("AUDIT_UNAVAILABLE");
    }
  });

  it("that is off makes neither keys nor statements", async () => {
    const home = await makeHome();
    const test = await openTestService(home, { "audit.mode": "off" });
    const front = await openFront(test, home);
    const { path } = await randomFile(MIB, "m");
    await (await test.service.seal({ path }, CALLER)).ended;
    for (const [method, route, body] of [
      ["POST", "/v1/statements", { shard: "m" }],
      ["GET", "/v1/statement-keys", undefined],
      ["POST", "/v1/statement-keys", { reason: "r" }],
    ] as const) {
      const { text } = await front.ask(method, route, body);
      expect(JSON.parse(text)).toMatchObject({
        status: 503,
        code: "AUDIT_UNAVAILABLE",
        fix: expect.any(String) as string,
      });
    }
    expect((await readdir(home.stateDir)).filter((name) => name.includes("statement"))).toEqual([]);
  });
});

describe("a service that ends", () => {
  it("answers with SERVICE_STOPPING: its server, and what is behind it", async () => {
    served.front.server.drain();
    await refuse(BODY, 503, "SERVICE_STOPPING");
    await served.test.drain(AbortSignal.abort());
    expect(await codeOf(served.test.service.attest(BODY, CALLER, NEVER))).toBe("SERVICE_STOPPING");
    expect(await codeOf(served.test.service.rotateStatementKey({ reason: "late" }))).toBe("SERVICE_STOPPING");
    expect(served.test.service.statementKeys().keyId).toHaveLength(64);
    expect(await readdir(served.home.stateDir)).not.toContain("statement.key.next");
  });
});
