/** What tests of a real service ask it again and again: what it has, what is on record, what it answers meanwhile. */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, rmSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { expect } from "vitest";
import { takeLock } from "../../src/residency/lock.ts";
import { readEntries } from "./audit-writer.ts";
import { vram } from "./cli.ts";
import { ask } from "./http.ts";
import { until } from "./nvml-monitor.ts";
import type { Home, Running } from "./service-run.ts";

/** A file in the folder of a service. */
export async function modelFile({ folder }: Home, name: string, byteLength: number): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, randomBytes(byteLength));
  return path;
}

/** Seals a file; rejects with the reason if it is not sealed. */
export async function seal({ client }: Running, path: string, more: object = {}): Promise<void> {
  const operation = await client.seal({ path, wait: true, ...more });
  expect(operation.error, path).toBeUndefined();
}

/** Names, ids and digests of what is listed, in the order of their names. */
export async function listed({ client }: Running): Promise<readonly object[]> {
  const { shards } = await client.list();
  return shards
    .map(({ name, shardId, digest, sealed }) => ({ name, shardId, digest, sealed }))
    .toSorted((a, b) => a.name.localeCompare(b.name));
}

/** Free bytes of each device, and those that were freed and are not back. */
export async function roomOf({ client }: Running): Promise<readonly unknown[]> {
  return (await client.devices()).map(({ capacity }) => [capacity?.bytesFree, capacity?.bytesUnreclaimed]);
}

/** Measures every shard of these names. */
export async function verifyAll({ client }: Running, ...names: readonly string[]): Promise<void> {
  for (const name of names) expect((await client.verify(name)).basis, name).toBe("measured");
}

export const statusOf = async ({ home }: Running, path: string): Promise<number> =>
  (await ask({ socketPath: home.socket }, path)).status;

/** Whether a process has the lock on this file. */
export async function isLocked(path: string): Promise<boolean> {
  const lock = await takeLock(path);
  if (lock.taken) await lock.file.close();
  return !lock.taken;
}

/** SIGTERM; it has to end in order. */
export async function stop(service: Running): Promise<void> {
  service.signal("SIGTERM");
  expect(await service.ended()).toEqual({ code: 0, signal: null });
}

/** Types and data of the audit log, which `vram audit verify` finds intact and covered by its last log checkpoint. */
export async function onRecord({ stateDir }: Home): Promise<Awaited<ReturnType<typeof readEntries>>> {
  const { code, out } = await vram(["audit", "verify", "--json", "--state-dir", stateDir]);
  const { verdict, entries, problems, checkpoints } = JSON.parse(out) as {
    readonly verdict: string;
    readonly entries: number;
    readonly problems: unknown;
    readonly checkpoints: { readonly covered: number };
  };
  expect({ code, verdict, problems, covered: checkpoints.covered }).toEqual({
    ...{ code: 0, verdict: "intact", problems: [], covered: entries },
  });
  return readEntries(join(stateDir, "audit"));
}

/** Tells the process of a device something (`device-process.mjs`). */
export async function tell({ home }: Running, ordinal: number, ...command: readonly unknown[]): Promise<unknown> {
  const socket = connect(join(home.folder, `control-${ordinal}`));
  socket.write(JSON.stringify(command));
  const [line] = (await once(socket, "data")) as [Buffer];
  socket.destroy();
  return JSON.parse(line.toString());
}

/** Waits until some work on a device has stalled. */
export async function untilStalled({ home }: Running, ordinal: number): Promise<void> {
  const stalled = join(home.folder, `stalled-${ordinal}`);
  await until("the device stalls", () => existsSync(stalled));
  rmSync(stalled);
}
