/** The journey as a person can follow it: one sentence an entry. A reader of the journal, and its first. */
import { formatBytes, printable } from "../bytes.ts";
import type { Entry } from "../journal/entry.ts";

/** A line of the story: a word for what happened, and the sentence. */
export interface StoryLine {
  readonly word: string;
  readonly sentence: string;
  readonly tone: "plain" | "good" | "bad";
}

/** `1.9 GB/s`; empty when the time was too short to say. */
export function formatRate(byteLength: number, durationMs: number): string {
  return durationMs < 1 ? "" : ` (${(byteLength / durationMs / 1e6).toFixed(2)} GB/s)`;
}

const line = (word: string, sentence: string, tone: StoryLine["tone"] = "plain"): StoryLine => ({
  word,
  sentence: printable(sentence),
  tone,
});

const ms = (durationMs: number): string => `${durationMs.toFixed(durationMs < 10 ? 1 : 0)} ms`;

type Sentences = {
  readonly [Type in Entry["type"]]?: (entry: Extract<Entry, { readonly type: Type }>) => StoryLine | undefined;
};

const SENTENCES: Sentences = {
  device_opened: ({ device, name, bytesTotal, backend }) =>
    line("device", `${device.ordinal}: ${name}, ${formatBytes(bytesTotal)}, ${device.uuid}, backend ${backend}`),
  device_lost: ({ device, code }) => line("lost", `device ${device.ordinal} is lost: ${code}`, "bad"),
  source_opened: ({ name, format, tensorCount, byteLength }) => {
    const tensors = tensorCount === 1 ? "1 tensor" : `${tensorCount} tensors`;
    return line("source", `${name}: ${format}, ${tensors}, ${formatBytes(byteLength)}`);
  },
  capacity_reserved: ({ byteLength, bytesFree }) =>
    line("reserved", `${formatBytes(byteLength)}; ${formatBytes(bytesFree)} stay free`),
  vram_allocated: ({ byteLength, device }) =>
    line("allocated", `${formatBytes(byteLength)} on device ${device.ordinal}, mapped read-only`),
  vram_allocation_failed: ({ bytesNeeded, bytesAvailable }) =>
    line("refused", `${bytesNeeded} bytes needed, ${bytesAvailable} available`, "bad"),
  vram_deallocated: ({ byteLength, zeroed, reason, because }) => {
    const how = zeroed ? "zeroed and freed" : `freed without zeroing: ${reason ?? "unknown"}`;
    return line("freed", `${formatBytes(byteLength)} ${how} (${because})`, zeroed ? "plain" : "bad");
  },
  upload_progressed: () => undefined,
  uploaded: ({ byteLength, durationMs, comparedWith }) => {
    const how = comparedWith === "witnessed" ? "digested on the way" : "not hashed on the host";
    return line(
      "uploaded",
      `${formatBytes(byteLength)} in ${ms(durationMs)}${formatRate(byteLength, durationMs)}, ${how}`,
    );
  },
  facts_checked: ({ access }) => line("facts", `the driver says: device memory, not managed, access ${access}`),
  measured: ({ digest, bytesCovered, durationMs }) =>
    line("measured", `fsverity:${digest} in VRAM, in ${ms(durationMs)}${formatRate(bytesCovered, durationMs)}`),
  vram_sealed: ({ shardId, sequence, comparedWith }) => {
    const how = comparedWith === "expected" ? "the digest you gave" : "the digest of the bytes that were read";
    return line("sealed", `as ${shardId}, seal ${sequence}; the measurement equals ${how}`, "good");
  },
  set_sealed: ({ name, totalShards }) => line("set", `${name}: ${totalShards} shards sealed as one model`, "good"),
  seal_verified: ({ bytesCovered }) =>
    line("verified", `mac, facts and ${formatBytes(bytesCovered)} in VRAM: unchanged`, "good"),
  seal_verification_failed: ({ message, tensors }) => {
    const where = tensors.length === 0 ? "" : `; the damaged range holds ${tensors.slice(0, 3).join(", ")}`;
    return line("caught", `${message}${where}`, "bad");
  },
  seal_refused: ({ reason }) => line("refused", reason, "bad"),
  policy_violation: ({ rule, actual, expected }) => line("policy", `${rule}: is ${actual}, must be ${expected}`, "bad"),
  worker_stopped: ({ device }) =>
    line("stopped", `device ${device.ordinal} seals nothing more until it is resumed`, "bad"),
  worker_resumed: ({ device, reason }) => line("resumed", `device ${device.ordinal}: ${reason}`),
  release_failed: ({ what, message }) => line("leaked", `${what} could not be released: ${message}`, "bad"),
  entry_unrecorded: ({ lost, message }) => line("unrecorded", `${lost}: ${message}`, "bad"),
};

/** The line for an entry; undefined for entries that are figures only (progress). */
export function storyLine(entry: Entry): StoryLine | undefined {
  // The table has a sentence for each type; TypeScript cannot follow the pairing through the lookup.
  return (SENTENCES[entry.type] as ((one: Entry) => StoryLine | undefined) | undefined)?.(entry);
}
