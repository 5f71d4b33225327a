/** The contract of the border, kept by the native driver over the fake libcuda. */
import { closeSync } from "node:fs";
import { describe } from "vitest";
import { openNativeDriver } from "../../src/cuda/native/driver.ts";
import { readKernelImage } from "../../src/cuda/native/kernel-image.ts";
import type { Subject } from "../helpers/driver-bench.ts";
import { describeDriver } from "../helpers/driver-contract.ts";
import { configureFakeCuda, fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { readHardwareAnswers } from "../helpers/hardware-answers.ts";

const fake = fakeCuda();

function open(): Subject {
  configureFakeCuda({ DEVICES: 2, NOT_READY: 2 });
  const driver = openNativeDriver(fake?.library ?? "");
  return { driver, image: readKernelImage(), ordinal: 1, closeFd: closeSync };
}

describe.skipIf(fake === undefined)(`the contract of the border${whyNoFakeCuda()}`, () => {
  describeDriver("the native driver over the fake", open, {
    hardware: readHardwareAnswers(),
    standIn: true,
    deviations: {},
    realFds: true,
    fatalInProcess: true,
    slackBytes: 0,
    eventsAreLate: true,
  });
});
