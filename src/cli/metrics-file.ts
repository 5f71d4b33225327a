/**
 * `--metrics FILE`: the figures of one command in the Prometheus text format, as node_exporter's textfile collector reads
 * them. The file is replaced as a whole when the command ends, also when it fails.
 */
import { toVramError, VramError } from "../errors.ts";
import { replaceFile } from "../files.ts";
import type { JournalReader } from "../journal/journal.ts";

export interface MetricsFile {
  /** What the journal is read with: nothing, if no file was asked for. */
  readonly readers: readonly JournalReader[];
  /** Writes the file. `INVALID_ARGUMENT` if it cannot be written. */
  write(): Promise<void>;
}

/** Readable by others: whoever collects metrics is another user. Nothing in them is secret. */
const MODE = 0o644;

/** Collects figures if `path` is given. */
export async function openMetricsFile(path: string | undefined): Promise<MetricsFile> {
  if (path === undefined) return { readers: [], write: async () => undefined };
  const { createMetrics } = await import("../metrics/metrics.ts");
  const metrics = await createMetrics();
  return {
    readers: [metrics.reader],
    write: async () => {
      await replaceFile(path, await metrics.text(), MODE).catch((cause: unknown) => {
        throw new VramError("INVALID_ARGUMENT", `--metrics: ${path} cannot be written: ${toVramError(cause).message}`, {
          cause,
          details: { argument: "metrics" },
        });
      });
    },
  };
}
