/**
 * `vram serve` as tests have it: the command of `dist`, whose devices are in processes that can be told to misbehave
 * (`device-process.mjs`), with shorter deadlines, or in a time that passes as fast as somebody waits for it. The shipped
 * command has none of it. `VRAM_TEST_SERVICE` holds the set-up as JSON.
 */
import { join } from "node:path";
import { processHost } from "../../dist/cli/host.js";
import { main } from "../../dist/cli/main.js";
import { systemClock } from "../../dist/clock.js";
import { openRemoteDevice } from "../../dist/process/remote-device.js";
import { startFrom } from "../../dist/process/start-process.js";

const { folder, sizes, floorMs, isHasty } = JSON.parse(process.env.VRAM_TEST_SERVICE ?? "{}");
const start = startFrom(new URL("device-process.mjs", import.meta.url));

/** @param {import("../../dist/process/remote-device.js").RemoteDeviceOptions} options */
const openDevice = (options) => {
  const [control, stalled] = ["control", "stalled"].map((name) => join(folder, `${name}-${options.ordinal}`));
  const env = { VRAM_TEST_DEVICE: JSON.stringify({ control, stalled, sizes }) };
  return openRemoteDevice({ ...options, start, env, ...(floorMs === undefined ? {} : { floorMs }) });
};

let skippedMs = 0;
/** Nobody waits for a back-off: it is over, and so much later. */
const hasty = {
  ...systemClock,
  monotonicMs: () => systemClock.monotonicMs() + skippedMs,
  /** @param {number} ms */
  sleep: async (ms) => {
    skippedMs += ms;
  },
};

// Nothing is spread: whoever reads `signal` of a host listens for signals from then on.
const host = Object.assign(processHost(), { service: { openDevice, ...(isHasty === true ? { clock: hasty } : {}) } });
process.exitCode = await main(process.argv.slice(2), host);
if (host.urgent?.aborted === true) process.exit();
