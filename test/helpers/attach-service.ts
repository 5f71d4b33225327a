/** A service under test with one safetensors file sealed, and the sockets in front of it: what tests of attaching begin with. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "vitest";
import { buildSafetensors } from "./model-files.ts";
import { CALLER, type Front, type Home, makeHome, openFront, openTestService, type TestService } from "./service.ts";

export interface Served {
  readonly home: Home;
  readonly test: TestService;
  readonly front: Front;
  /** Of the file, which is sealed as `m.safetensors`. */
  readonly bytes: Buffer;
  readonly digest: string;
  readonly shardId: string;
  readonly record: () => ReturnType<TestService["service"]["list"]>["shards"][number];
  /** Exports, exports in all, leases. */
  readonly counts: () => readonly number[];
}

export async function serveModel(): Promise<Served> {
  const home = await makeHome();
  const test = await openTestService(home);
  const front = await openFront(test, home);
  const data = new Uint8Array(300_000).map((_, index) => index % 251);
  const tensors = ["a", "b"].map((name) => ({ name, dtype: "U8", shape: [data.length], data }));
  const bytes = Buffer.from(buildSafetensors(tensors));
  const path = join(home.folder, "m.safetensors");
  await writeFile(path, bytes);
  const { ended } = await test.service.seal({ path, sha256: true }, CALLER);
  const { digest, shardId } = (await ended).result?.shards[0]?.record ?? expect.fail();
  const record: Served["record"] = () => test.service.list().shards[0] ?? expect.fail();
  const counts: Served["counts"] = () => [record().exports, record().exportsTotal, record().leases];
  return { home, test, front, bytes, digest, shardId, record, counts };
}
