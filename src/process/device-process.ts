/** Entry of the process of a device: nothing but the wiring. The logic is in `device-run.ts`. */
import { runDeviceProcess } from "./device-run.ts";
import { openProcessDevice } from "./open-device.ts";

runDeviceProcess(Number(process.argv[2]), openProcessDevice);
