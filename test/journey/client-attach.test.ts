/** `client.attach` against a stub: what it asks, and what it reads in place. */
import { closeSync, readSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { openClient } from "../../src/client.ts";
import { duplicate } from "../../src/ffi/descriptors.ts";
import { encodeMessage } from "../../src/service/attach/protocol.ts";
import {
  attachHost,
  byteAt,
  grant,
  grantTo,
  MEMORY_BYTES,
  mappingCount,
  openAttachStub,
  SHARD_BYTES,
  TENSORS,
  weights,
} from "../helpers/stub-attach.ts";
import * as is from "../helpers/stub-replies.ts";

const { shardId, name } = is.record();

describe("attaching", () => {
  it("reads the tensors where they lie, until it is closed", async () => {
    const stub = await openAttachStub((peer) => grantTo(peer));
    const attachment = await attachHost(stub);
    const { record, seal, lease, verification } = grant();
    expect(attachment).toMatchObject({ record, seal, lease, verification, exportId: "export-1" });
    expect([...attachment.tensors.values()]).toEqual(TENSORS);
    expect(stub.peers.map(({ request }) => request)).toEqual([{ v: 1, shard: name, expect: is.DIGEST }]);
    expect(mappingCount()).toBe(0);
    for (const { name: tensor, offset, byteLength } of TENSORS) {
      const view = attachment.tensor(tensor);
      expect([...view]).toEqual(Array.from({ length: byteLength }, (_, index) => byteAt(offset + index)));
    }
    const view = attachment.tensor("far");
    expect(attachment.tensor("far")).toBe(view);
    expect(attachment.bytes(0, SHARD_BYTES)[SHARD_BYTES - 1]).toBe(byteAt(SHARD_BYTES - 1));
    expect(mappingCount()).toBeGreaterThanOrEqual(3);
    await attachment.close();
    await attachment.close();
    expect([view.length, view[0], mappingCount()]).toEqual([0, undefined, 0]);
    expect(await attachment.ended).toBeUndefined();
    await stub.expectNothingLeft();
    for (const read of [() => attachment.tensor("far"), () => attachment.bytes(0, 1)]) {
      expect(read).toThrow(expect.objectContaining({ code: "CLOSED" }));
    }
  });

  it("keeps what is written to a view in this process, and in that view", async () => {
    const mine = weights();
    const stub = await openAttachStub((peer) => grantTo(peer, grant(), duplicate(mine)));
    {
      await using attachment = await attachHost(stub);
      const view = attachment.tensor("embed");
      const { offset } = TENSORS[0];
      view.fill(0xff);
      expect(attachment.tensor("embed")[0]).toBe(0xff);
      const sealed = Buffer.alloc(32);
      readSync(mine, sealed, 0, 32, offset);
      expect([...sealed]).toEqual(Array.from({ length: 32 }, (_, index) => byteAt(offset + index)));
      expect(attachment.bytes(offset, 1)[0]).toBe(byteAt(offset));
    }
    await stub.expectNothingLeft();
    closeSync(mine);
  });

  it("refuses a tensor that is not there, and a range beyond the shard, also within the memory", async () => {
    const stub = await openAttachStub((peer) => grantTo(peer));
    await using attachment = await attachHost(stub);
    expect(() => attachment.tensor("none")).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
    expect(SHARD_BYTES).toBeLessThan(MEMORY_BYTES);
    for (const [offset, byteLength] of [
      [SHARD_BYTES, 1],
      [0, SHARD_BYTES + 1],
      [-1, 1],
      [0.5, 1],
      [0, -1],
      [SHARD_BYTES + 1, 0],
    ] as const) {
      expect(() => attachment.bytes(offset, byteLength)).toThrow(expect.objectContaining({ code: "OUT_OF_BOUNDS" }));
    }
  });

  it("reads behind 4 GiB, though no view is longer than that", async () => {
    const byteLength = 5 * 2 ** 30;
    const granted = grant(({ record, memory }) => ({
      ...{ record: { ...record, byteLength }, memory: { ...memory, byteLength } },
      tensors: [{ name: "last", dtype: "U8", shape: [5], offset: byteLength - 5, byteLength: 5 }],
    }));
    const stub = await openAttachStub((peer) => grantTo(peer, granted, weights(byteLength)));
    await using attachment = await attachHost(stub);
    expect([...attachment.tensor("last")]).toEqual([0, 0, 0, 0, 0]);
    expect(() => attachment.bytes(0, byteLength)).toThrow(/more than one view can have/);
  });

  it("takes a table of many tensors, in many pieces", async () => {
    const tensors = Array.from({ length: 5000 }, (_, index) => ({
      ...{ name: `layers.${index}.weight`, dtype: "F32", shape: [1] },
      ...{ offset: index * 4, byteLength: 4 },
    }));
    const granted = grant(() => ({ tensors }));
    expect(encodeMessage(granted).byteLength).toBeGreaterThan(4 * 64 * 1024);
    const stub = await openAttachStub((peer) => grantTo(peer, granted));
    await using attachment = await attachHost(stub);
    expect([...attachment.tensors.values()]).toEqual(tensors);
    expect([...attachment.tensor("layers.4999.weight")]).toEqual([0, 1, 2, 3].map((at) => byteAt(4999 * 4 + at)));
  });

  it("asks by name or id, with a lease, an age and a salt", async () => {
    const salted = { salt: "0aff", digest: "c".repeat(64) };
    const stub = await openAttachStub((peer) =>
      grantTo(
        peer,
        grant(({ record }) => ({
          record: { ...record, sha256: "d".repeat(64) },
          verification: is.verification({ record, salted }),
        })),
      ),
    );
    const asked = {
      expect: `sha256:${"d".repeat(64)}`,
      lease: is.lease().leaseId,
      maxAgeMs: 0,
      salt: "0AFF",
      holder: "engine",
    };
    const attachment = await openClient({ socket: stub.socket }).attach(shardId, asked);
    expect(stub.peers[0]?.request).toEqual({ v: 1, shard: shardId, ...asked });
    await attachment.close();
  });
});
