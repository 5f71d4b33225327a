/** What a statement shows, in plain words: put together from what was verified. What it does not show is said as well. */
import type { Statement } from "./statement.ts";

/** One thing that a reader could want to rely on. */
export interface Finding {
  readonly property:
    | "signature"
    | "content"
    | "possession"
    | "freshness"
    | "device"
    | "location"
    | "exposure"
    | "logged"
    | "hardware";
  /** Whether it was verified here. What is not rests on the signer's word, or on nothing. */
  readonly shown: boolean;
  readonly words: string;
}

/** What the steps of the check verified. */
export interface Shown {
  readonly keyId: string;
  readonly terms: {
    readonly digest?: string;
    readonly model?: unknown;
    readonly deviceUuid?: string;
    readonly nonce?: string;
    readonly maxAgeMs?: number;
    readonly nowMs: number;
  };
  readonly logged: { readonly seq: number; readonly entries: number; readonly origin: string };
  readonly hasLogKey: boolean;
  /** Bytes of a report that is bound to the statement. */
  readonly evidence: number | undefined;
}

const finding = (property: Finding["property"], shown: boolean, words: string): Finding => ({ property, shown, words });

function content({ predicate: { measurement, shard } }: Statement, { terms: { digest, model } }: Shown): Finding {
  const what = `fsverity:${measurement.digest}`;
  if (model !== undefined) {
    const { sourceOffset, byteLength, shardIndex, totalShards } = shard;
    const end = sourceOffset + byteLength;
    const part =
      totalShards === 1 ? "the bytes" : `bytes ${sourceOffset} to ${end} (shard ${shardIndex + 1} of ${totalShards})`;
    return finding("content", true, `about ${part} of your file: ${what}`);
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

function freshness({ predicate: { measurement } }: Statement, { terms: { nonce, maxAgeMs, nowMs } }: Shown): Finding {
  const seconds = Math.max(0, Math.round((nowMs - Date.parse(measurement.measuredAt)) / 1000));
  const clocks = `measured ${seconds} s ago, by its clock and yours`;
  if (nonce !== undefined) return finding("freshness", true, `issued after your nonce; ${clocks}`);
  if (maxAgeMs !== undefined) {
    return finding(
      "freshness",
      false,
      `${clocks}; without a nonce of yours the signer could have dated it as it liked`,
    );
  }
  return finding("freshness", false, `freshness not shown: it says ${measurement.measuredAt}`);
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
  const where = `${device.name} (${device.uuid})`;
  const place =
    backend === "cuda"
      ? "that they lay in VRAM, on this GPU, is the signer's word"
      : `nothing here is about a GPU: the backend is ${backend}`;
  const line = `line ${logged.seq} of the log ${logged.origin}, signed over ${logged.entries}`;
  return [
    finding("signature", true, `signed by this key: ${keyId}`),
    content(statement, shown),
    possession(shown),
    freshness(statement, shown),
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
        : `hardware evidence: a report of ${evidence} bytes made for this statement; NVIDIA's signature on it is not judged here`,
    ),
  ];
}
