/**
 * A process that writes an audit log as fast as it goes, to be killed: `node audit-writer-process.mjs STATE_DIR LOAD`.
 * Runs on `dist`. Tells on stdout, one line each and before anything else happens:
 *
 *     opened MS        the log is open, after so many milliseconds
 *     ack ID           the entry ID is acknowledged
 *     refused CODE     an entry was not
 *     closed           everything was written, or the log has ended, and it was closed
 *     failed CODE      the log could not be opened
 *
 * LOAD is JSON: `writers` that each append `entries` in turn. Its clock runs `speed` times as fast, so that epochs end
 * every few milliseconds.
 */
import { randomBytes, randomUUID } from "node:crypto";
import { writeSync } from "node:fs";
import { openAuditLog } from "../../dist/audit/audit-log.js";
import { createJournal } from "../../dist/journal/journal.js";

const [, , stateDir = "", json = "{}"] = process.argv;
const { writers, entries, segmentBytes, speed } = JSON.parse(json);

/** Tells, whatever is still queued elsewhere: a kill right after it does not take it back. */
const tell = (line) => writeSync(1, `${line}\n`);

const clock = {
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now() * speed,
  sleep: () => Promise.resolve(),
};

/** An entry that is never counted instead of written. `id` is ours: the log keeps what it is given. */
const entry = (id, filling) => ({
  type: "worker_resumed",
  device: { ordinal: 0, uuid: "EMU-6f1c9a52-0b7e-4d38-9c41-5e2a8f70d3b6" },
  reason: "x".repeat(filling),
  id,
});

/** Appends one entry after the other. After a refusal it tries twice more: nothing must be acknowledged then. */
async function write(journal) {
  let refusals = 0;
  for (let n = 0; n < entries && refusals < 3; n += 1) {
    const id = randomUUID();
    try {
      await journal.append(entry(id, (n * 37) % 700));
      tell(`ack ${id}`);
    } catch (error) {
      refusals += 1;
      tell(`refused ${error.code}`);
    }
  }
}

const startMs = performance.now();
try {
  const journal = createJournal(clock);
  const log = await openAuditLog({
    stateDir,
    clock,
    boot: randomBytes(16),
    mode: "required",
    note: journal.note,
    retentionDays: 365,
    maxBytes: 2 ** 30,
    segmentBytes,
  });
  tell(`opened ${performance.now() - startMs}`);
  journal.attach(log.reader);
  await Promise.all(Array.from({ length: writers }, () => write(journal)));
  await log.close();
  tell("closed");
} catch (error) {
  tell(`failed ${error.code} ${error.message}`);
  process.exitCode = 1;
}
