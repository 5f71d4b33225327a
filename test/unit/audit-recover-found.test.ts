/** Going on with an audit log, in numbers: what was found of a sound one, what a crash left, and how that is mended. */
import { randomUUID } from "node:crypto";
import { appendFileSync, existsSync, readdirSync, readFileSync, statSync, unlinkSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { EPOCH_KEY_FILE, SIGNING_KEY_FILE } from "../../src/audit/key-files.ts";
import { encodeVkey, noteKeyOf } from "../../src/audit/note.ts";
import { recoverLog } from "../../src/audit/recover.ts";
import { leafHash } from "../../src/audit/tree.ts";
import { toHex } from "../../src/bytes.ts";
import { all, epochIn, files, LAST, LEAVES, lay, linesOf, makeFiles, sizeOf } from "../helpers/audit-recover.ts";
import { temporaryFolder } from "../helpers/vram.ts";

beforeAll(makeFiles);

describe("[VR-AUD-04] a sound log", () => {
  it("is gone on with where it ends", async () => {
    const { stateDir, folder } = await lay();
    const log = await recoverLog(stateDir);
    const [lines, last] = [all(), linesOf(LAST)];
    const epoch = epochIn(lines.at(-1));
    expect(log.position).toMatchObject({
      ...{ epoch, segmentEntries: last.length },
      epochEntries: last.filter((line) => epochIn(line) === epoch).length,
    });
    expect(log.position.tree.size).toBe(lines.length);
    expect(toHex(log.position.prev)).toBe(toHex(leafHash(Buffer.from(lines.at(-1) ?? ""))));
    expect(log.ends).toEqual({
      ...{ segment: 3, segmentBytes: sizeOf(LAST), leavesBytes: last.length * 32 },
      checkpointsBytes: sizeOf("checkpoints"),
    });
    const segments = ["000001", "000002", "000003"].map((number) => sizeOf(`${number}.jsonl`));
    expect(log.bytes).toBe(segments.reduce((sum, size) => sum + size, 0) + lines.length * 32);
    expect([log.folder, log.torn, log.signedSize]).toEqual([folder, [], lines.length]);
    expect(log.keptSize).toBe(lines.filter((line) => epochIn(line) !== epoch).length);
    expect(log.epochKey.epoch).toBe(epoch);
    expect(encodeVkey(noteKeyOf(log.signer))).toBe(files.get("audit/log.vkey")?.toString().trim());
  });

  it("[VR-AUD-05] is gone on with when its first segments were pruned, which have no bytes of lines then", async () => {
    const { stateDir, folder } = await lay();
    const whole = (await recoverLog(stateDir)).bytes;
    unlinkSync(join(folder, "000001.jsonl"));
    const log = await recoverLog(stateDir);
    expect(log.position.tree.size).toBe(all().length);
    expect(log.bytes).toBe(whole - sizeOf("000001.jsonl"));
  });

  it("is made where there is none, for its owner only", async () => {
    const stateDir = join(await temporaryFolder(), "state");
    await mkdir(stateDir, { mode: 0o700 });
    const log = await recoverLog(stateDir);
    expect(log).toMatchObject({ signedSize: 0, keptSize: 0, bytes: 0, torn: [], epochKey: { epoch: 0 } });
    expect(log.ends).toEqual({ segment: 1, segmentBytes: 0, leavesBytes: 0, checkpointsBytes: 0 });
    expect(statSync(log.folder).mode & 0o777).toBe(0o700);
    expect(readdirSync(stateDir).sort()).toEqual(["audit", EPOCH_KEY_FILE, SIGNING_KEY_FILE]);
    expect(readFileSync(join(log.folder, "log.vkey"), "latin1")).toBe(`${encodeVkey(noteKeyOf(log.signer))}\n`);
    // Again, before anything was written: the keys are those that were made.
    const again = await recoverLog(stateDir);
    expect(encodeVkey(noteKeyOf(again.signer))).toBe(encodeVkey(noteKeyOf(log.signer)));
    expect(again.epochKey).toEqual(log.epochKey);
  });
});

describe("[VR-AUD-04] what a crash left", () => {
  it("of a last line is set aside and cut off; of files for a moment nothing stays", async () => {
    const { stateDir, folder } = await lay();
    appendFileSync(join(folder, LAST), '{"v":1,"se');
    const temporary = join(folder, `checkpoint.${randomUUID()}.tmp`);
    writeFileSync(temporary, "x");
    const log = await recoverLog(stateDir);
    expect(log.torn).toEqual([{ segment: 3, byteLength: 10, file: "000003.torn.new" }]);
    expect(readFileSync(join(folder, "000003.torn.new"), "latin1")).toBe('{"v":1,"se');
    expect(readFileSync(join(folder, LAST))).toEqual(files.get(`audit/${LAST}`));
    expect(existsSync(temporary)).toBe(false);
    expect(log.ends.segmentBytes).toBe(sizeOf(LAST));
  });

  it("of leaf hashes is written again: cut off within one, missing, or grown and not written", async () => {
    const whole = files.get(`audit/${LEAVES}`) ?? Buffer.alloc(0);
    for (const kept of [0, 7, 32, 45, whole.byteLength - 1, whole.byteLength + 9]) {
      const { stateDir, folder } = await lay();
      const bytes = Buffer.concat([whole, Buffer.alloc(32, 9)]).subarray(0, kept);
      writeFileSync(join(folder, LEAVES), bytes);
      await recoverLog(stateDir);
      expect(readFileSync(join(folder, LEAVES)).toString("hex"), `${kept} bytes`).toBe(whole.toString("hex"));
    }
    const { stateDir, folder } = await lay();
    const zeros = Buffer.from(whole);
    // What is behind the first one that was not written is not looked at.
    zeros.fill(0, 32, 64).fill(7, 64, 96);
    writeFileSync(join(folder, LEAVES), zeros);
    await recoverLog(stateDir);
    expect(readFileSync(join(folder, LEAVES)).toString("hex")).toBe(whole.toString("hex"));
    const gone = await lay();
    unlinkSync(join(gone.folder, LEAVES));
    await recoverLog(gone.stateDir);
    expect(readFileSync(join(gone.folder, LEAVES)).toString("hex")).toBe(whole.toString("hex"));
  });

  it("of a kept log checkpoint is cut off", async () => {
    const { stateDir, folder } = await lay();
    appendFileSync(join(folder, "checkpoints"), "vram-residency/0123");
    const log = await recoverLog(stateDir);
    expect(readFileSync(join(folder, "checkpoints"))).toEqual(files.get("audit/checkpoints"));
    expect(log.ends.checkpointsBytes).toBe(sizeOf("checkpoints"));
  });

  it("of a segment that was just begun is an empty one, behind the last line of the one before", async () => {
    const { stateDir, folder } = await lay();
    appendFileSync(join(folder, "checkpoints"), `${readFileSync(join(folder, "checkpoint"), "utf8")}\n`);
    for (const name of ["000004.jsonl", "000004.leaves"]) writeFileSync(join(folder, name), "", { mode: 0o600 });
    const log = await recoverLog(stateDir);
    expect(log.ends).toMatchObject({ segment: 4, segmentBytes: 0, leavesBytes: 0 });
    expect(log.position).toMatchObject({ segmentEntries: 0, epoch: epochIn(all().at(-1)) });
    expect(log.epochKey.epoch).toBe(epochIn(all().at(-1)));
  });
});
