/** Metrics that a test feeds by hand, and their figures. */
import type { Entry, EntryBody } from "../../src/journal/entry.ts";
import { createMetrics, type Metrics } from "../../src/metrics/metrics.ts";
import { PREFIX } from "../../src/metrics/table.ts";
import { DEVICE } from "./metric-moves.ts";
import { seriesOf } from "./promtool.ts";

export const TIME_MS = 1_700_000_000_000;
export const OPENED: EntryBody = {
  type: "device_opened",
  device: DEVICE,
  name: "n",
  backend: "emulated",
  bytesTotal: 1000,
};

export const entryOf = (body: EntryBody, more: Partial<Entry> = {}): Entry =>
  ({ ...body, seq: 1, timeMs: TIME_MS, durability: "transient", gates: false, ...more }) as Entry;

/** Metrics of a system whose one device is open. */
export async function opened(): Promise<Metrics & { take(body: EntryBody, more?: Partial<Entry>): void }> {
  const metrics = await createMetrics();
  const take = (body: EntryBody, more: Partial<Entry> = {}): void => metrics.reader.accept(entryOf(body, more));
  take(OPENED);
  return { ...metrics, take };
}

/** All series, without the prefix of their names. */
export const figuresOf = async (metrics: Metrics): Promise<Map<string, number>> =>
  new Map([...seriesOf(await metrics.text())].map(([series, value]) => [series.slice(PREFIX.length), value]));
