/** The contract of the border, kept by the native driver over this GPU's own driver. */
import { closeSync } from "node:fs";
import { readKernelImage } from "../../src/cuda/native/kernel-image.ts";
import type { Subject } from "../helpers/driver-bench.ts";
import { describeDriver } from "../helpers/driver-contract.ts";
import { gpu, hasGpu, isHardware, onGpu, slackBytes } from "../helpers/gpu.ts";
import { readHardwareAnswers } from "../helpers/hardware-answers.ts";

const open = (): Subject => ({ driver: gpu().driver, image: readKernelImage(), ordinal: 0, closeFd: closeSync });

onGpu("the contract of the border", () => {
  describeDriver("the native driver", open, {
    hardware: readHardwareAnswers(),
    standIn: !isHardware,
    deviations: {},
    realFds: true,
    // What ends a context is asked in processes of their own: faults.test.ts.
    fatalInProcess: false,
    slackBytes: hasGpu ? slackBytes() : 0,
    eventsAreLate: false,
  });
});
