/**
 * `client.attach` against the service itself: what is sealed is read in place, what the service counts, and what both hear
 * of each other's end. What a client makes of a service that lies is in `client-attach-refused.test.ts`.
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { type Client, type HostAttachment, openClient } from "../../src/client.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { until } from "../helpers/nvml-monitor.ts";
import {
  CALLER,
  type Front,
  makeHome,
  NEVER,
  openFront,
  openTestService,
  type TestService,
} from "../helpers/service.ts";
import { descriptorCount } from "../helpers/stub-attach.ts";
import { codeOf } from "../helpers/vram.ts";

const NAME = "m.safetensors";
const BYTES = 300_000;
const dataOf = (seed: number): Uint8Array => new Uint8Array(BYTES).map((_, index) => (index * seed) % 251);

let test: TestService;
let front: Front;
let client: Client;
let file: Buffer;
let digest: string;
let sha256: string;

beforeEach(async () => {
  const home = await makeHome();
  test = await openTestService(home);
  front = await openFront(test, home);
  const tensors = [3, 5].map((seed) => ({ name: `t${seed}`, dtype: "U8", shape: [BYTES], data: dataOf(seed) }));
  file = Buffer.from(buildSafetensors(tensors));
  const path = join(home.folder, NAME);
  await writeFile(path, file);
  const { ended } = await test.service.seal({ path, sha256: true }, CALLER);
  const record = (await ended).result?.shards[0]?.record ?? expect.fail();
  [digest, sha256] = [record.digest, record.sha256 ?? ""];
  client = openClient({ socket: front.socket });
});

const exportsNow = (): number => test.service.list().shards[0]?.exports ?? -1;

async function attachTo(terms: object = {}, shard = NAME): Promise<HostAttachment> {
  const attachment = await client.attach(shard, { expect: digest, ...terms });
  if (attachment.kind !== "memfd") throw new Error(attachment.kind);
  return attachment;
}

describe("an engine and a service", () => {
  it("[VR-API-05] reads what is sealed, in place, and is counted while it does", async () => {
    const before = descriptorCount();
    const attachment = await attachTo({ maxAgeMs: 0, salt: "0a", holder: "engine" });
    expect(attachment.verification).toMatchObject({ basis: "measured", digest, salted: { salt: "0a" } });
    expect(attachment.lease.holder).toBe("engine");
    expect([...attachment.tensors.keys()]).toEqual(["t3", "t5"]);
    expect(Buffer.from(attachment.tensor("t3")).equals(dataOf(3))).toBe(true);
    expect(Buffer.from(attachment.tensor("t5")).equals(dataOf(5))).toBe(true);
    expect(Buffer.from(attachment.bytes(0, file.byteLength)).equals(file)).toBe(true);
    expect(exportsNow()).toBe(1);
    attachment.bytes(0, file.byteLength).fill(0);
    await test.service.verify(NAME, { maxAgeMs: 0 }, NEVER);
    await attachment.close();
    await until("the export is ended", () => exportsNow() === 0);
    expect(test.of("export_ended")).toMatchObject([{ exportId: attachment.exportId, because: "closed", held: false }]);
    expect(descriptorCount()).toBe(before);
  });

  it("[VR-API-05] is refused other weights than it expects, by either digest, and gets them by both", async () => {
    const other = "0".repeat(64);
    for (const expected of [other, `sha256:${other}`, `sha256:${digest}`]) {
      expect(await codeOf(attachTo({ expect: expected })), expected).toBe("DIGEST_MISMATCH");
    }
    expect(await codeOf(attachTo({}, "another"))).toBe("SHARD_NOT_FOUND");
    expect(await codeOf(attachTo({ lease: "lease-none" }))).toBe("LEASE_NOT_FOUND");
    expect(test.of("shard_exported")).toEqual([]);
    for (const expected of [digest, `fsverity:${digest}`, `sha256:${sha256}`, null]) {
      await (await attachTo({ expect: expected })).close();
    }
  });

  it("attaches under a lease of its own, without a measurement, and hears that it was revoked", async () => {
    const { lease } = await client.grant({ shard: NAME });
    await using attachment = await attachTo({ lease: lease.leaseId });
    expect(attachment.verification).toBeUndefined();
    const ended = new Promise((resolve) => attachment.onLeaseEnded(resolve));
    const evicted = client.evict(NAME, { revoke: true });
    expect(await ended).toEqual({ leaseId: lease.leaseId, because: expect.any(String) as string });
    await attachment.close();
    await evicted;
  });

  it("hears that the service ends", async () => {
    const attachment = await attachTo();
    await front.server.close(0);
    expect(await attachment.ended).toMatchObject({ code: "SERVICE_UNREACHABLE" });
    expect(Buffer.from(attachment.tensor("t3")).equals(dataOf(3))).toBe(true);
    await attachment.close();
  });
});
