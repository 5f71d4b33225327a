/**
 * Going on with an audit log: what no crash explains is refused, and nothing is changed, neither log nor keys (VR-AUD-04).
 * And how long it takes to go on with a long one.
 */
import { appendFileSync, readdirSync, readFileSync, rmSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { EPOCH_KEY_FILE, SIGNING_KEY_FILE } from "../../src/audit/key-files.ts";
import { recoverLog } from "../../src/audit/recover.ts";
import { splitNotes } from "../../src/audit/stored-checkpoints.ts";
import { bytesOfState, type CrashState, createState, openLog, readEntries } from "../helpers/audit-writer.ts";
import { durable, openUnit } from "../helpers/audit-writer-unit.ts";
import { reportCount } from "../helpers/counts.ts";
import { codeOf, temporaryFolder } from "../helpers/vram.ts";

const OPTIONS = { segmentBytes: 140_000 };

/** A log of three segments and two starts, and the keys it had on the way. */
interface Made {
  readonly files: Map<string, Buffer>;
  readonly keys: readonly Buffer[];
}

async function make(): Promise<Made> {
  const state = await createState();
  const keys: Buffer[] = [];
  const keep = (): void => void keys.push(readFileSync(join(state.stateDir, EPOCH_KEY_FILE)));
  for (const start of [1, 2]) {
    const { log } = await openUnit(OPTIONS, state);
    for (let n = 0; n < (start === 1 ? 45 : 5); n += 1) {
      await log.reader.accept(durable("x".repeat(4000)));
      keep();
    }
    await log.close();
  }
  const files = new Map<string, Buffer>();
  for (const entry of readdirSync(state.stateDir, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isFile()) files.set(path.slice(state.stateDir.length + 1), readFileSync(path));
  }
  return { files, keys: keys.filter((key, index) => !keys[index + 1]?.equals(key)) };
}

let made: Made;
beforeAll(async () => {
  made = await make();
});

/** The log that was made, in a state directory of its own. */
async function lay(): Promise<CrashState> {
  const parent = await temporaryFolder();
  const state = {
    stateDir: join(parent, "state"),
    folder: join(parent, "state", "audit"),
    escrow: join(parent, "escrow"),
  };
  await mkdir(state.folder, { recursive: true, mode: 0o700 });
  for (const [name, bytes] of made.files) writeFileSync(join(state.stateDir, name), bytes, { mode: 0o600 });
  return state;
}

/** Changes one byte of a file. */
function change(path: string, at: number): void {
  const bytes = readFileSync(path);
  const index = at < 0 ? bytes.byteLength + at : at;
  bytes.writeUInt8((bytes[index] ?? 0) ^ 1, index);
  writeFileSync(path, bytes);
}

const cutBy = (path: string, count: number): void => truncateSync(path, readFileSync(path).byteLength - count);
const LAST = "000003.jsonl";
const LAST_LEAVES = "000003.leaves";

/** Whole lines from the end of the last segment, and whatever else says that they were there. */
function dropLines(folder: string, count: number): void {
  const lines = readFileSync(join(folder, LAST), "latin1").split("\n").slice(0, -1);
  writeFileSync(join(folder, LAST), `${lines.slice(0, -count).join("\n")}\n`);
  truncateSync(join(folder, LAST_LEAVES), (lines.length - count) * 32);
}

/** The log checkpoint over the epochs before the last one. */
const newestKept = (folder: string): Uint8Array =>
  splitNotes(readFileSync(join(folder, "checkpoints"))).at(-1) ?? new Uint8Array(0);

type Damage = (state: CrashState) => void;

const DAMAGES: readonly (readonly [what: string, damage: Damage])[] = [
  ["a changed line", ({ folder }) => change(join(folder, LAST), 400)],
  [
    "a changed line whose leaf hash is not there yet",
    ({ folder }) => {
      change(join(folder, LAST), 400);
      truncateSync(join(folder, LAST_LEAVES), 0);
    },
  ],
  [
    "a changed line that nothing has signed yet, without its leaf hash",
    ({ folder }) => {
      change(join(folder, LAST), -6000);
      truncateSync(join(folder, LAST_LEAVES), 0);
      writeFileSync(join(folder, "checkpoint"), newestKept(folder));
    },
  ],
  ["the last line with another mac", ({ folder }) => change(join(folder, LAST), -8)],
  [
    "the same, without leaf hashes and log checkpoint",
    ({ folder }) => {
      change(join(folder, LAST), -8);
      truncateSync(join(folder, LAST_LEAVES), 0);
      unlinkSync(join(folder, "checkpoint"));
    },
  ],
  ["a changed leaf hash of the last segment", ({ folder }) => change(join(folder, LAST_LEAVES), 40)],
  ["a changed leaf hash of a closed segment", ({ folder }) => change(join(folder, "000001.leaves"), 40)],
  ["more leaf hashes than lines", ({ folder }) => appendFileSync(join(folder, LAST_LEAVES), Buffer.alloc(32))],
  ["fewer leaf hashes in a closed segment", ({ folder }) => cutBy(join(folder, "000002.leaves"), 32)],
  ["half a leaf hash in a closed segment", ({ folder }) => cutBy(join(folder, "000002.leaves"), 7)],
  ["no leaf hashes of a closed segment", ({ folder }) => unlinkSync(join(folder, "000001.leaves"))],
  [
    "no segment in the middle",
    ({ folder }) => {
      unlinkSync(join(folder, "000002.jsonl"));
      unlinkSync(join(folder, "000002.leaves"));
    },
  ],
  ["no lines of a segment in the middle", ({ folder }) => unlinkSync(join(folder, "000002.jsonl"))],
  ["no first segment", ({ folder }) => removeAll(folder, /^000001/)],
  ["no last segment", ({ folder }) => removeAll(folder, /^000003/)],
  ["a log checkpoint beyond the end", ({ folder }) => dropLines(folder, 2)],
  [
    "the end cut off, with the log checkpoint on it",
    ({ folder }) => {
      dropLines(folder, 6);
      unlinkSync(join(folder, "checkpoint"));
    },
  ],
  ["a log checkpoint of another log", ({ folder }) => change(join(folder, "checkpoint"), -20)],
  ["no note in front of those that were kept", ({ folder }) => change(join(folder, "checkpoints"), -20)],
  ["a key two epochs behind", ({ stateDir }) => writeFileSync(join(stateDir, EPOCH_KEY_FILE), made.keys.at(-3) ?? "")],
  [
    "a key of an epoch ahead",
    ({ stateDir }) => {
      const path = join(stateDir, EPOCH_KEY_FILE);
      const [epoch, digits] = readFileSync(path, "latin1").split(" ");
      writeFileSync(path, `${Number(epoch) + 1} ${digits}`);
    },
  ],
  [
    "the same epoch with another key",
    ({ stateDir }) => {
      const path = join(stateDir, EPOCH_KEY_FILE);
      const [epoch] = readFileSync(path, "latin1").split(" ");
      writeFileSync(path, `${epoch} ${"ab".repeat(32)}\n`);
    },
  ],
  ["no epoch key", ({ stateDir }) => unlinkSync(join(stateDir, EPOCH_KEY_FILE))],
  ["no signing key", ({ stateDir }) => unlinkSync(join(stateDir, SIGNING_KEY_FILE))],
  ["no public key", ({ folder }) => unlinkSync(join(folder, "log.vkey"))],
  ["no log, and its keys there", ({ folder }) => rmSync(folder, { recursive: true })],
  ["no lines and no leaf hashes", ({ folder }) => removeAll(folder, /^\d{6}/)],
  [
    "a key one epoch behind, which a crash explains, and a log checkpoint that none does",
    ({ folder, stateDir }) => {
      writeFileSync(join(stateDir, EPOCH_KEY_FILE), made.keys.at(-2) ?? "");
      appendFileSync(join(folder, LAST), "torn");
      change(join(folder, "checkpoints"), -20);
    },
  ],
];

function removeAll(folder: string, pattern: RegExp): void {
  for (const name of readdirSync(folder)) if (pattern.test(name)) rmSync(join(folder, name));
}

describe("damage that no crash explains", () => {
  test.each(DAMAGES)("[VR-AUD-04] %s: refused, and nothing is changed", async (_what, damage) => {
    const state = await lay();
    damage(state);
    const before = await bytesOfState(state);
    expect(await codeOf(recoverLog(state.stateDir))).toBe("STATE_INVALID");
    expect(await codeOf(openLog(state))).toBe("STATE_INVALID");
    expect(await bytesOfState(state)).toEqual(before);
  });

  test("is told from the log as it was made, and from one whose key is an epoch behind", async () => {
    const sound = await lay();
    expect((await recoverLog(sound.stateDir)).position.tree.size).toBeGreaterThan(50);
    const behind = await lay();
    dropToEpochStart(behind);
    writeFileSync(join(behind.stateDir, EPOCH_KEY_FILE), made.keys.at(-2) ?? "");
    const { epochKey } = await recoverLog(behind.stateDir);
    expect(readFileSync(join(behind.stateDir, EPOCH_KEY_FILE))).toEqual(made.keys.at(-1));
    expect(epochKey.epoch).toBe(made.keys.length);
  });
});

/** The last line is `epoch_started`, as after a crash before the key was replaced. */
function dropToEpochStart({ folder }: CrashState): void {
  dropLines(folder, 5);
  writeFileSync(join(folder, "checkpoint"), newestKept(folder));
}

describe("a long log", () => {
  test("[VR-AUD-04] of 200,000 lines goes on within two seconds", { timeout: 120_000 }, async () => {
    const { log, state, closeSound } = await openUnit();
    for (let left = 200_000; left > 0; left -= 4000) {
      await Promise.all(Array.from({ length: 4000 }, async () => log.reader.accept(durable("one of many"))));
    }
    await closeSound();
    // The worst: nothing is closed, and no leaf hash is there.
    expect(readdirSync(state.folder).filter((name) => name.endsWith(".jsonl")).length).toBe(2);
    const milliseconds: number[] = [];
    for (const leaves of ["kept", "owed"]) {
      if (leaves === "owed") truncateSync(join(state.folder, "000002.leaves"), 0);
      const opened = await openLog(state, { writers: 0, entries: 0, segmentBytes: 64 * 1024 * 1024, speed: 1 });
      milliseconds.push(opened.milliseconds);
      await opened.log.close();
      // A watchdog of ten times the two seconds.
      expect(opened.milliseconds, leaves).toBeLessThan(20_000);
    }
    const [kept = 0, owed = 0] = milliseconds.map(Math.round);
    reportCount(`audit log: 200,000 lines go on in ${kept} ms, without the last segment's leaf hashes in ${owed} ms`);
    expect(await readEntries(state.folder)).toHaveLength(200_000 + 4);
  });
});
