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

/** The entries of the capacity account and the memory itself. */
function memoryLine(entry: Entry): StoryLine | undefined {
  switch (entry.type) {
    case "capacity_reserved":
      return line("reserved", `${formatBytes(entry.byteLength)}; ${formatBytes(entry.bytesFree)} stay free`);
    case "vram_allocated":
      return line("allocated", `${formatBytes(entry.byteLength)} on device ${entry.device.ordinal}, mapped read-only`);
    case "vram_allocation_failed":
      return line("refused", `${entry.bytesNeeded} bytes needed, ${entry.bytesAvailable} available`, "bad");
    case "vram_deallocated": {
      const zeroed = entry.zeroed ? "zeroed and freed" : `freed without zeroing: ${entry.reason ?? "unknown"}`;
      return line(
        "freed",
        `${formatBytes(entry.byteLength)} ${zeroed} (${entry.because})`,
        entry.zeroed ? "plain" : "bad",
      );
    }
    default:
      return undefined;
  }
}

/** The entries of a seal and its verifications. */
function sealLine(entry: Entry): StoryLine | undefined {
  switch (entry.type) {
    case "vram_sealed": {
      const how = entry.comparedWith === "expected" ? "the digest you gave" : "the digest of the bytes that were read";
      return line("sealed", `as ${entry.shardId}, seal ${entry.sequence}; the measurement equals ${how}`, "good");
    }
    case "seal_verified":
      return line("verified", `mac, facts and ${formatBytes(entry.bytesCovered)} in VRAM: unchanged`, "good");
    case "seal_verification_failed": {
      const where = entry.tensors.length === 0 ? "" : `; damaged: ${entry.tensors.slice(0, 3).join(", ")}`;
      return line("caught", `${entry.message}${where}`, "bad");
    }
    case "seal_refused":
      return line("refused", entry.reason, "bad");
    case "policy_violation":
      return line("policy", `${entry.rule}: is ${entry.actual}, must be ${entry.expected}`, "bad");
    case "worker_stopped":
      return line("stopped", `device ${entry.device.ordinal} seals nothing more until resumed: ${entry.reason}`, "bad");
    case "worker_resumed":
      return line("resumed", `device ${entry.device.ordinal}: ${entry.reason}`);
    default:
      return undefined;
  }
}

/** The entries of reading, copying and measuring. */
function workLine(entry: Entry): StoryLine | undefined {
  switch (entry.type) {
    case "device_opened": {
      const { device, name, backend, bytesTotal } = entry;
      return line(
        "device",
        `${device.ordinal}: ${name}, ${formatBytes(bytesTotal)}, ${device.uuid}, backend ${backend}`,
      );
    }
    case "device_lost":
      return line("lost", `device ${entry.device.ordinal} is lost: ${entry.code}`, "bad");
    case "source_opened": {
      const tensors = entry.tensorCount === 1 ? "1 tensor" : `${entry.tensorCount} tensors`;
      return line("source", `${entry.name}: ${entry.format}, ${tensors}, ${formatBytes(entry.byteLength)}`);
    }
    case "uploaded": {
      const how = entry.comparedWith === "witnessed" ? ", digested on the way" : ", not hashed on the host";
      const rate = formatRate(entry.byteLength, entry.durationMs);
      return line("uploaded", `${formatBytes(entry.byteLength)} in ${ms(entry.durationMs)}${rate}${how}`);
    }
    case "facts_checked":
      return line("facts", `the driver says: device memory, not managed, access ${entry.access}`);
    case "measured": {
      const rate = formatRate(entry.bytesCovered, entry.durationMs);
      return line("measured", `fsverity:${entry.digest} in VRAM, in ${ms(entry.durationMs)}${rate}`);
    }
    case "release_failed":
      return line("leaked", `${entry.what} could not be released: ${entry.message}`, "bad");
    case "entry_unrecorded":
      return line("unrecorded", `${entry.lost}: ${entry.message}`, "bad");
    default:
      return undefined;
  }
}

/** The line for an entry; undefined for entries that are figures only (progress). */
export function storyLine(entry: Entry): StoryLine | undefined {
  return workLine(entry) ?? memoryLine(entry) ?? sealLine(entry);
}
