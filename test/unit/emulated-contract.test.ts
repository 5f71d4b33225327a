/** The contract of the border, kept by the emulated driver, whether or not its memory can be shared. */
import { randomUUID } from "node:crypto";
import { closeSync } from "node:fs";
import { expect } from "vitest";
import type { OpenStore } from "../../src/cuda/emulated/backing.ts";
import { openEmulatedDriver } from "../../src/cuda/emulated/driver.ts";
import { EMULATED_MODULE_IMAGE } from "../../src/cuda/emulated/kernels.ts";
import { openShareable } from "../../src/cuda/emulated/shareable.ts";
import { openHashPool } from "../../src/hash/pool.ts";
import type { Subject } from "../helpers/driver-bench.ts";
import { describeDriver, type Terms } from "../helpers/driver-contract.ts";
import { device, MIB } from "../helpers/emulated.ts";
import { readHardwareAnswers } from "../helpers/hardware-answers.ts";

function open(shareable?: OpenStore): Subject {
  // What others have of a device whose memory can be shared is not free: it is nobody else's.
  const own = shareable === undefined ? () => ({}) : () => ({ uuid: `EMU-${randomUUID()}`, shareable });
  const devices = [device(0), device(1, 96 * MIB)].map((spec) => ({ ...spec, ...own() }));
  const driver = openEmulatedDriver({ devices, pool: openHashPool(0) });
  return {
    driver,
    image: EMULATED_MODULE_IMAGE,
    ordinal: 1,
    closeFd: shareable === undefined ? (fd) => driver.emulation.closeExportedFd(fd) : closeSync,
    audit: () => {
      expect(driver.emulation.live()).toEqual({});
      expect(driver.emulation.pendingLint()).toBeUndefined();
    },
  };
}

const terms: Terms = {
  hardware: readHardwareAnswers(),
  standIn: true,
  deviations: { freshMemoryIsZero: "dirty on purpose: it finds code that relies on zeros" },
  realFds: false,
  fatalInProcess: true,
  slackBytes: 0,
  eventsAreLate: true,
};

describeDriver("the emulated driver", open, terms);
describeDriver("the emulated driver with memory to share", () => open(openShareable), { ...terms, realFds: true });
