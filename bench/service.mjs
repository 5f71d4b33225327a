/**
 * `npm run bench -- service`: how many requests a service answers on its socket, how long they take while it seals, and
 * what a seal costs through it. On the EMULATED device: the service, its device and this load generator share the cores.
 */
import { mkdtempSync, rmSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openClient } from "../dist/client.js";
import { openTestVram } from "../dist/testing.js";
import { alternate, environment, median, randomFile, report, round, timeProcess } from "./measure.mjs";
import { BIN, startService } from "./serve.mjs";

const CONNECTIONS = 16;
const SECONDS = 4;

/** One request on a kept connection; resolves to its status. */
function ask(agent, socketPath, method, path, body) {
  return new Promise((resolve, reject) => {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers = text === undefined ? {} : { "content-type": "application/json", "content-length": text.length };
    const request = http.request(
      { socketPath, method, path, agent, headers: { host: "vram", ...headers } },
      (reply) => {
        const parts = [];
        reply.on("data", (part) => parts.push(part));
        reply.on("end", () => resolve({ status: reply.statusCode, text: Buffer.concat(parts).toString() }));
      },
    );
    request.on("error", reject);
    request.end(text);
  });
}

/** How often `once` is done in `seconds` by so many at a time, and how long each took, in ms. */
async function load(once, seconds, workers = CONNECTIONS) {
  const times = [];
  const start = performance.now();
  const until = start + seconds * 1000;
  const work = async () => {
    while (performance.now() < until) {
      const begun = performance.now();
      await once();
      times.push(performance.now() - begun);
    }
  };
  await Promise.all(Array.from({ length: workers }, work));
  times.sort((a, b) => a - b);
  return { perSecond: times.length / ((performance.now() - start) / 1000), times };
}

const quantile = (times, q) => times[Math.min(times.length - 1, Math.floor(times.length * q))];

function expectStatus(status, { status: found, text }) {
  if (found !== status) throw new Error(`expected ${status}, found ${found}: ${text}`);
  return text;
}

/** Requests per second, and the time of the API while something is sealed. */
async function measureApi(socket, file, client, runs) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  const list = async () => expectStatus(200, await ask(agent, socket, "GET", "/v1/shards"));
  const lease = async () => {
    const body = { shard: "small", maxAgeMs: 3_600_000, durationMs: 60_000 };
    const granted = JSON.parse(expectStatus(201, await ask(agent, socket, "POST", "/v1/leases", body)));
    return granted.lease.leaseId;
  };
  const leaseAndRelease = async () => {
    expectStatus(200, await ask(agent, socket, "DELETE", `/v1/leases/${await lease()}`));
  };
  await load(list, 1);
  const [lists, leases, whileSealing, idle] = [[], [], [], []];
  for (let run = 0; run < runs; run += 1) {
    lists.push((await load(list, SECONDS)).perSecond);
    leases.push((await load(leaseAndRelease, SECONDS)).perSecond);
    idle.push(quantile((await load(list, SECONDS, 1)).times, 0.99));
    const sealing = client.seal({ path: file.path, name: "large", format: "raw", wait: true });
    let done = false;
    void sealing.finally(() => {
      done = true;
    });
    const times = [];
    while (!done) times.push(...(await load(list, 0.25, 1)).times);
    await sealing;
    whileSealing.push(
      quantile(
        times.sort((a, b) => a - b),
        0.99,
      ),
    );
    await client.evict("large");
  }
  agent.destroy();
  return {
    [`GET /v1/shards per second, ${CONNECTIONS} connections`]: Math.round(median(lists)),
    [`leases granted on a fresh measurement and released, per second, ${CONNECTIONS} connections`]: Math.round(
      median(leases),
    ),
    "p99 of GET /v1/shards, one connection, nothing else, ms": round(median(idle)),
    [`p99 of GET /v1/shards, one connection, while ${file.byteLength / 2 ** 20} MiB are sealed, ms`]: round(
      median(whileSealing),
    ),
  };
}

export async function benchService({ mib, runs, json }) {
  const folder = mkdtempSync(join(tmpdir(), "vram-bench-"));
  const file = randomFile(mib);
  const small = randomFile(1);
  const capacityBytes = 2 * file.byteLength + 2 ** 28;
  const service = await startService(folder, capacityBytes);
  const client = openClient({ socket: service.socket });
  const { vram } = await openTestVram({
    stateDir: join(folder, "in-process"),
    emulated: { byteLength: capacityBytes },
  });
  try {
    await client.seal({ path: small.path, name: "small", format: "raw", wait: true });
    const figures = await measureApi(service.socket, file, client, Math.min(runs, 3));
    const inProcess = async () => {
      const start = performance.now();
      const { record } = await vram.seal(file.path, { format: "raw" });
      const seconds = (performance.now() - start) / 1000;
      await vram.evict(record.shardId);
      return seconds;
    };
    const through = async () => {
      const start = performance.now();
      await client.seal({ path: file.path, name: "large", format: "raw", wait: true });
      const seconds = (performance.now() - start) / 1000;
      await client.evict("large");
      return seconds;
    };
    await inProcess();
    await through();
    const contenders = [
      { name: "seal, in this process", byteLength: file.byteLength, run: inProcess },
      { name: "seal, through the service", byteLength: file.byteLength, run: through },
      { name: "vram --help", run: () => timeProcess(process.execPath, [BIN, "--help"]) },
      { name: "node -e 0", run: () => timeProcess(process.execPath, ["-e", "0"]) },
    ];
    const results = await alternate(contenders, Math.max(runs, 7));
    const [here, there] = results.map(({ medianSeconds }) => medianSeconds);
    figures["seal through the service, times in process"] = round(there / here);
    report({ bench: "service", backend: "emulated", ...environment(), mib, runs, results, figures }, json);
  } finally {
    client.close();
    await vram.close();
    await service.stop();
    rmSync(folder, { recursive: true, force: true });
    file.remove();
    small.remove();
  }
}
