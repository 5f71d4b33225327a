/**
 * The key that signs statements, in the service only: `STATE/statement.key`. A new one is written beside it, then put on
 * record, then takes its place, in this order: a key that signed anything is on record, and one that was put on record and
 * could not take its place is told of by the next start, which finishes it.
 */
import { promises } from "node:fs";
import { join } from "node:path";
import {
  createStatementSigner,
  encodeStatementKey,
  readStatementKey,
  STATEMENT_KEY_BYTES_MAX,
  STATEMENT_KEY_FILE,
  type StatementSigner,
} from "../attest/keys.ts";
import { Mutex } from "../dispose.ts";
import { systemReason, toVramError, VramError } from "../errors.ts";
import { createFile, discard, readPrivate, replaceFile, syncFolder } from "../files.ts";
import type { Journal } from "../journal/journal.ts";

/** Runs `tell`, and throws unless the change to the key of this id is on record afterwards. */
export type Recorder = (tell: () => Promise<void>, keyId: string) => Promise<void>;

export interface StatementKeys {
  /** The key of now. */
  readonly signer: StatementSigner;
  /**
   * Makes a key and signs with it from then on. Nothing changes if it cannot be put on record; `record` has it told and
   * throws unless it then finds the key of this id there.
   */
  rotate(reason: string, record: Recorder): Promise<StatementSigner>;
  /** Tells of a change that the process before this one did not finish. */
  record(): Promise<void>;
}

const NEXT_KEY_FILE = `${STATEMENT_KEY_FILE}.next`;
const UNFINISHED = "the service ended before the change was finished";

async function readSigner(path: string): Promise<StatementSigner | undefined> {
  const pem = await readPrivate(path, STATEMENT_KEY_BYTES_MAX);
  if (pem === undefined) return undefined;
  try {
    return readStatementKey(pem, path);
  } finally {
    pem.fill(0);
  }
}

/** Writes a key with `write`, which must keep none of its bytes. */
async function store(signer: StatementSigner, path: string, write: (pem: Uint8Array) => Promise<unknown>) {
  const pem = encodeStatementKey(signer);
  try {
    await write(pem);
  } catch (cause) {
    const reason = systemReason(cause);
    throw new VramError("STATE_INVALID", `${path}: cannot be made${reason === undefined ? "" : `: ${reason}`}`, {
      cause,
    });
  } finally {
    pem.fill(0);
  }
}

class OpenStatementKeys implements StatementKeys {
  readonly #stateDir: string;
  readonly #journal: Journal;
  readonly #turn = new Mutex();
  /** The key that was signed with before, if an earlier process put another on record and did not finish. */
  #unfinished: StatementSigner | undefined;
  /** Whether the key of now still lies beside its place: nothing may be written there before it was moved. */
  #isAside = false;
  signer: StatementSigner;

  constructor(stateDir: string, journal: Journal, signer: StatementSigner, unfinished: StatementSigner | undefined) {
    this.#stateDir = stateDir;
    this.#journal = journal;
    this.signer = signer;
    this.#unfinished = unfinished;
  }

  rotate(reason: string, record: Recorder): Promise<StatementSigner> {
    return this.#turn.run(async () => {
      await this.#settle();
      const next = createStatementSigner();
      const path = join(this.#stateDir, NEXT_KEY_FILE);
      await store(next, path, (pem) => replaceFile(path, pem));
      try {
        await record(() => this.#tell(this.signer, next, reason), next.keyId);
      } catch (error) {
        // It may have been written all the same: then the log tells of a key that never signs anything.
        await discard(path);
        throw error;
      }
      // On record it is the key of now, and the next start finds it whether or not this succeeds.
      this.signer = next;
      this.#isAside = true;
      await this.#settle().catch((error: unknown) => {
        const message = toVramError(error).message;
        this.#journal.note({ type: "entry_unrecorded", lost: "the new key's place in the state directory", message });
      });
      return next;
    });
  }

  /** Moves the key of now to its place, if it is not there. `STATE_INVALID` if it cannot be moved. */
  async #settle(): Promise<void> {
    if (!this.#isAside) return;
    const path = join(this.#stateDir, STATEMENT_KEY_FILE);
    try {
      await promises.rename(join(this.#stateDir, NEXT_KEY_FILE), path);
      await syncFolder(this.#stateDir);
    } catch (cause) {
      const reason = systemReason(cause);
      throw new VramError("STATE_INVALID", `${path}: cannot be replaced${reason === undefined ? "" : `: ${reason}`}`, {
        cause,
        fix: "mend the state directory; until then the key in force lies beside it, and the next start finds it there",
      });
    }
    this.#isAside = false;
  }

  async record(): Promise<void> {
    if (this.#unfinished === undefined) return;
    await this.#tell(this.#unfinished, this.signer, UNFINISHED);
    this.#isAside = true;
    await this.#settle();
    this.#unfinished = undefined;
  }

  #tell(from: StatementSigner, to: StatementSigner, reason: string): Promise<void> {
    const keys = { from: from.keyId, to: to.keyId, publicKey: to.publicPem };
    return this.#journal.append({ type: "key_rotated", purpose: "statement", ...keys, reason });
  }
}

/** The keys of a state, made at the first start. `STATE_INVALID` if what is there is no key. */
export async function openStatementKeys(stateDir: string, journal: Journal): Promise<StatementKeys> {
  const path = join(stateDir, STATEMENT_KEY_FILE);
  let signer = await readSigner(path);
  if (signer === undefined) {
    const made = createStatementSigner();
    await store(made, path, (pem) => createFile(path, pem));
    signer = made;
  }
  const next = await readSigner(join(stateDir, NEXT_KEY_FILE));
  return new OpenStatementKeys(stateDir, journal, next ?? signer, next === undefined ? undefined : signer);
}
