/** The contract of the border, kept by the emulated driver. */
import { expect } from "vitest";
import { openEmulatedDriver } from "../../src/cuda/emulated/driver.ts";
import { EMULATED_MODULE_IMAGE } from "../../src/cuda/emulated/kernels.ts";
import { openHashPool } from "../../src/hash/pool.ts";
import type { Subject } from "../helpers/driver-bench.ts";
import { describeDriver } from "../helpers/driver-contract.ts";
import { device, MIB } from "../helpers/emulated.ts";
import { readHardwareAnswers } from "../helpers/hardware-answers.ts";

function open(): Subject {
  const driver = openEmulatedDriver({ devices: [device(0), device(1, 96 * MIB)], pool: openHashPool(0) });
  return {
    driver,
    image: EMULATED_MODULE_IMAGE,
    ordinal: 1,
    closeFd: (fd) => driver.emulation.closeExportedFd(fd),
    audit: () => {
      expect(driver.emulation.live()).toEqual({});
      expect(driver.emulation.pendingLint()).toBeUndefined();
    },
  };
}

describeDriver("the emulated driver", open, {
  hardware: readHardwareAnswers(),
  standIn: true,
  deviations: { freshMemoryIsZero: "dirty on purpose: it finds code that relies on zeros" },
  realFds: false,
  fatalInProcess: true,
  slackBytes: 0,
  eventsAreLate: true,
});
