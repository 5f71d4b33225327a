/** What a statement shows, in plain words: put together from what was verified. What it does not show is said as well. */
import { type Statement, said } from "./statement.ts";

/** One thing that a reader could want to rely on. */
export interface Finding {
  /** What it is about; every accepted statement has one finding of each. */
  readonly property:
    | "signature"
    | "content"
    | "possession"
    | "freshness"
    | "age"
    | "device"
    | "location"
    | "exposure"
    | "logged"
    | "hardware";
  /** Whether it was verified here. What is not rests on the signer's word, or on nothing. */
  readonly shown: boolean;
  /** One line in plain words, without anything that the signer could have forged a line of. */
  readonly words: string;
}

/** What the steps of the check verified. */
export interface Shown {
  readonly keyId: string;
  readonly terms: {
    readonly digest?: string;
    readonly model?: unknown;
    readonly part?: unknown;
    readonly deviceUuid?: string;
    readonly nonce?: string;
    readonly nowMs: number;
  };
  readonly logged: { readonly seq: number; readonly entries: number; readonly origin: string };
  readonly hasLogKey: boolean;
  /** Bytes of a report that has the statement's hash as its nonce. */
  readonly evidence: number | undefined;
}

const finding = (property: Finding["property"], shown: boolean, words: string): Finding => ({ property, shown, words });

function content({ predicate: { measurement, shard } }: Statement, { terms: { digest, model, part } }: Shown): Finding {
  const what = `fsverity:${measurement.digest}`;
  if (model !== undefined) {
    const { sourceOffset, byteLength, shardIndex, totalShards } = shard;
    const range = `bytes ${sourceOffset} to ${sourceOffset + byteLength} of your file`;
    const name = `the signer calls them part ${shardIndex + 1} of ${totalShards}`;
    const about = part === undefined ? "the bytes of your file" : `${range} (${name})`;
    return finding("content", true, `about ${about}: ${what}`);
  }
  if (digest?.startsWith("sha256:") !== true) return finding("content", true, `about the digest you expect: ${what}`);
  return finding(
    "content",
    false,
    `that ${digest} and ${what}, which was measured, are of the same bytes is the signer's word`,
  );
}

function possession({ terms: { model, nonce } }: Shown): Finding {
  if (model !== undefined && nonce !== undefined) {
    return finding("possession", true, "whoever answered had these bytes at hand after your nonce (not: where)");
  }
  const missing =
    nonce === undefined ? "you sent no nonce" : "without the file the answer to your nonce is not checked";
  return finding("possession", false, `that anybody had these bytes at hand is the signer's word: ${missing}`);
}

function freshness({ terms: { nonce } }: Shown): Finding {
  if (nonce !== undefined) return finding("freshness", true, "issued after your nonce");
  return finding(
    "freshness",
    false,
    "freshness not shown: you sent no nonce, and it could be dated as its signer liked",
  );
}

function age({ predicate: { measurement } }: Statement, { terms, hasLogKey }: Shown): Finding {
  const seconds = Math.max(0, Math.round((terms.nowMs - Date.parse(measurement.measuredAt)) / 1000));
  const whose = hasLogKey ? "as its log has it" : "on the signer's word";
  return finding(
    "age",
    false,
    `measured at ${measurement.measuredAt}, ${seconds} s ago: by the signer's clock, ${whose}`,
  );
}

function exposure({ predicate: { exports, measurement } }: Statement): Finding {
  const since = `since ${measurement.measuredAt} nothing here says what became of the bytes`;
  const handed =
    exports.total === 0
      ? "the signer handed the memory to no other process"
      : `the signer handed the memory to other processes ${exports.total} times, ${exports.now} had it then; each could write`;
  return finding("exposure", false, `${handed}; ${since}`);
}

/** The properties of a statement that was accepted, always all of them and in this order. */
export function findingsOf(statement: Statement, shown: Shown): readonly Finding[] {
  const { keyId, terms, logged, hasLogKey, evidence } = shown;
  const { device, backend } = statement.predicate;
  const where = `${said(device.name)} (${said(device.uuid)})`;
  const place =
    backend === "cuda"
      ? "that they lay in VRAM, on this GPU, is the signer's word"
      : `nothing here is about a GPU: the backend is ${backend}`;
  // With its key the log is one that the reader named.
  const origin = hasLogKey ? logged.origin : said(logged.origin);
  const line = `line ${logged.seq} of the log ${origin}, signed over ${logged.entries}`;
  return [
    finding("signature", true, `signed by this key: ${keyId}`),
    content(statement, shown),
    possession(shown),
    freshness(shown),
    age(statement, shown),
    finding(
      "device",
      false,
      terms.deviceUuid === undefined
        ? `on which device: the signer names ${where}`
        : `on which device: the signer names yours, ${where}`,
    ),
    finding("location", false, place),
    exposure(statement),
    finding("logged", hasLogKey, hasLogKey ? `logged: ${line}` : `logged: not checked (it says: ${line})`),
    finding(
      "hardware",
      false,
      evidence === undefined
        ? "hardware evidence: none"
        : `hardware evidence: a report of ${evidence} bytes with this statement's hash where its nonce stands; who made it is not verified here`,
    ),
  ];
}
