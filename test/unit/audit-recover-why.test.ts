/** Refusing to go on with an audit log, and why: another reason would mean that another check refused it. */
import { randomBytes } from "node:crypto";
import { appendFileSync, readFileSync, rmSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { EPOCH_KEY_FILE, SIGNING_KEY_FILE } from "../../src/audit/key-files.ts";
import { createNoteSigner, encodeVkey, noteKeyOf } from "../../src/audit/note.ts";
import { recoverLog } from "../../src/audit/recover.ts";
import { splitNotes } from "../../src/audit/stored-checkpoints.ts";
import { VramError } from "../../src/errors.ts";
import {
  all,
  change,
  epochIn,
  LAST,
  LEAVES,
  lay,
  linesOf,
  makeFiles,
  remove,
  type State,
  setLines,
} from "../helpers/audit-recover.ts";

beforeAll(makeFiles);

/** What is refused, and the reason. */
const REFUSALS: readonly (readonly [what: string, damage: (state: State) => void, reason: string])[] = [
  ["a changed line", ({ folder }) => change(join(folder, LAST), 100), "line LINE3 was changed"],
  [
    "a changed line without leaf hashes",
    ({ folder }) => {
      change(join(folder, LAST), 100);
      truncateSync(join(folder, LEAVES), 0);
    },
    "line LINE3+1 does not follow the one before",
  ],
  [
    "a line that is too short to follow anything",
    ({ folder }) => {
      setLines(folder, [...linesOf(LAST), "short"]);
    },
    "line SIZE does not follow the one before",
  ],
  [
    "leaf hashes without their lines",
    ({ folder }) => appendFileSync(join(folder, LEAVES), Buffer.alloc(32, 1)),
    `${LAST} has fewer lines than there are leaf hashes`,
  ],
  [
    "another mac in the last line",
    ({ folder }) => {
      change(join(folder, LAST), -8);
      truncateSync(join(folder, LEAVES), 0);
      writeFileSync(join(folder, "checkpoint"), splitNotes(readFileSync(join(folder, "checkpoints"))).at(-1) ?? "");
    },
    "its last line, LAST, does not carry our mac",
  ],
  [
    "no leaf hashes of a closed segment",
    ({ folder }) => unlinkSync(join(folder, "000001.leaves")),
    "000001.leaves is missing or incomplete",
  ],
  [
    "half a leaf hash of one",
    ({ folder }) => appendFileSync(join(folder, "000002.leaves"), "x"),
    "000002.leaves is missing or incomplete",
  ],
  [
    "empty leaf hashes of one",
    ({ folder }) => truncateSync(join(folder, "000002.leaves"), 0),
    "000002.leaves is missing or incomplete",
  ],
  ["no first segment", ({ folder }) => remove(folder, /^000001/), "segment 1 is missing"],
  ["no second segment", ({ folder }) => remove(folder, /^000002/), "segment 2 is missing"],
  ["no lines in the middle", ({ folder }) => unlinkSync(join(folder, "000002.jsonl")), "000002.jsonl is missing"],
  ["no epoch key", ({ stateDir }) => unlinkSync(join(stateDir, EPOCH_KEY_FILE)), "the epoch key beside it is gone"],
  [
    "a key of another epoch",
    ({ stateDir }) => writeFileSync(join(stateDir, EPOCH_KEY_FILE), `99 ${"ab".repeat(32)}\n`),
    "its last line is of epoch EPOCH, and the key beside it is of epoch 99",
  ],
  [
    "another key of the same epoch",
    ({ stateDir }) => writeFileSync(join(stateDir, EPOCH_KEY_FILE), `${epochIn(all().at(-1))} ${"ab".repeat(32)}\n`),
    "its last line, LAST, does not carry our mac",
  ],
  [
    "no signing key",
    ({ stateDir }) => unlinkSync(join(stateDir, SIGNING_KEY_FILE)),
    "the key that signs its log checkpoints is gone",
  ],
  [
    "no public key",
    ({ folder }) => unlinkSync(join(folder, "log.vkey")),
    "the key that signs its log checkpoints is gone",
  ],
  [
    "the public key of another",
    ({ folder }) => {
      const name = /^[^+]+/.exec(readFileSync(join(folder, "log.vkey"), "latin1"))?.[0] ?? "";
      writeFileSync(join(folder, "log.vkey"), `${encodeVkey(noteKeyOf(createNoteSigner(name)))}\n`);
    },
    "log.vkey is not the public half of the key in the state directory",
  ],
  [
    "a note with another signature",
    ({ folder }) => change(join(folder, "checkpoint"), -20),
    "the last log checkpoint in checkpoint is not ours (signature)",
  ],
  [
    "a kept note that is none",
    ({ folder }) => writeFileSync(join(folder, "checkpoints"), "junk\n\nmore\n\n"),
    "the last log checkpoint in checkpoints is not ours (malformed)",
  ],
  [
    "fewer lines than were signed",
    ({ folder }) => {
      setLines(folder, linesOf(LAST).slice(0, -1));
      truncateSync(join(folder, LEAVES), (linesOf(LAST).length - 1) * 32);
    },
    "the log checkpoint in checkpoint covers SIZE entries: more than there are",
  ],
  [
    "another leaf hash than was signed",
    ({ folder }) => change(join(folder, "000001.leaves"), 3),
    "its first SIZE entries are not those that were signed",
  ],
  [
    "no kept log checkpoints",
    ({ folder }) => truncateSync(join(folder, "checkpoints"), 0),
    "checkpoints has no log checkpoint over the CLOSED entries of closed epochs",
  ],
  ["no newest log checkpoint", ({ folder }) => unlinkSync(join(folder, "checkpoint")), "checkpoint is gone"],
  [
    "no log, and its notes there",
    ({ folder, stateDir }) => {
      remove(folder, /^0|vkey/);
      unlinkSync(join(stateDir, EPOCH_KEY_FILE));
    },
    "checkpoint is there, and the log is gone",
  ],
  [
    "no log, and its key there",
    ({ folder }) => rmSync(folder, { recursive: true }),
    "the log is gone, and the key beside it is of epoch EPOCH",
  ],
];

describe("[VR-AUD-04] a log is refused", () => {
  it.each(REFUSALS)("for %s", async (_what, damage, reason) => {
    const state = await lay();
    damage(state);
    const error = await recoverLog(state.stateDir).then(
      () => "nothing was refused",
      (thrown: unknown) => thrown,
    );
    if (!(error instanceof VramError)) throw new Error(String(error));
    const size = all().length;
    const lines3 = size - linesOf(LAST).length;
    const epoch = epochIn(all().at(-1));
    const closed = all().filter((line) => epochIn(line) !== epoch).length;
    const said = reason
      .replace("LINE3+1", String(lines3 + 1))
      .replace("LINE3", String(lines3))
      .replace("SIZE", String(size))
      .replace("CLOSED", String(closed))
      .replace("EPOCH", String(epoch))
      .replace("LAST", String(size - 1));
    expect(error.message).toBe(`${state.folder}: ${said}, which no crash explains`);
    expect([error.code, error.fix]).toEqual([
      "STATE_INVALID",
      "`vram audit verify` says what is wrong; to go on, move the state directory away (it is evidence) and begin anew",
    ]);
  });

  it("and is as it was afterwards, the key as well", async () => {
    const state = await lay();
    const path = join(state.stateDir, EPOCH_KEY_FILE);
    const junk = randomBytes(9);
    appendFileSync(join(state.folder, LAST), junk);
    unlinkSync(join(state.folder, "checkpoint"));
    const key = readFileSync(path);
    await expect(recoverLog(state.stateDir)).rejects.toMatchObject({ code: "STATE_INVALID" });
    expect(readFileSync(path)).toEqual(key);
    expect(readFileSync(join(state.folder, LAST)).subarray(-9)).toEqual(junk);
  });
});
