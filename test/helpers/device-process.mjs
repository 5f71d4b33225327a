/**
 * The process of a device as tests have it: the one of `dist`, with faults to inject, bits to flip, and a way to misbehave.
 * The shipped entry has none of it. `VRAM_TEST_DEVICE` holds the set-up as JSON; commands come by a socket, one JSON
 * line each, and are answered with a line.
 */
import { rmSync, writeFileSync, writeSync } from "node:fs";
import { createServer } from "node:net";
import { createFaultPlan } from "../../dist/cuda/emulated/faults.js";
import { CHANNEL_FD, runDeviceProcess } from "../../dist/process/device-run.js";
import { listProcessDevices, openProcessDevice } from "../../dist/process/open-device.js";

const { control, stalled, sizes } = JSON.parse(process.env.VRAM_TEST_DEVICE ?? "{}");
const plan = createFaultPlan();
const faults = {
  ...plan,
  /** @param {() => void} resume */
  onStall: (resume) => {
    plan.onStall?.(resume);
    writeFileSync(stalled, "");
  },
};

/** @type {import("../../dist/device/local.js").LocalDevice | undefined} */
let device;
/** Ids of allocations, oldest first. @type {number[]} */
const allocations = [];

/** @type {Record<string, (...args: any[]) => unknown>} */
const COMMANDS = {
  // Faults count from now on.
  fault: (name, ...args) => {
    plan.reset();
    plan[name](...args);
  },
  flip: (index, offset, bit) => device?.flipBit(allocations[index] ?? 0, offset, bit),
  // Into the channel, past everything that writes there.
  write: (hex) => writeSync(CHANNEL_FD, Buffer.from(hex, "hex")),
  allocations: () => allocations.length,
};

if (control !== undefined) {
  // Of a process that was killed.
  rmSync(control, { force: true });
  createServer((socket) => {
    socket.setEncoding("utf8").on("data", async (line) => {
      const [name, ...args] = JSON.parse(line);
      const answer = await COMMANDS[name]?.(...args);
      socket.write(`${JSON.stringify(answer ?? null)}\n`);
    });
    socket.on("error", () => undefined);
  }).listen(control);
}

/** @type {import("../../dist/process/device-run.js").OpenDevice} */
const open = async (request, report) => {
  const opened = await openProcessDevice(request, report, { faults, sizes });
  device = opened.device;
  const { allocate } = opened.device;
  opened.device.allocate = async (byteLength) => {
    const id = await allocate.call(opened.device, byteLength);
    allocations.push(id);
    return id;
  };
  return opened;
};

runDeviceProcess(Number(process.argv[2]), { open, list: listProcessDevices });
