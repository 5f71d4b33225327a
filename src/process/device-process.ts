/** Entry of the process of a device: nothing but the wiring. The logic is in `device-run.ts`. */
import { runDeviceProcess } from "./device-run.ts";
import { listProcessDevices, openProcessDevice } from "./open-device.ts";

runDeviceProcess(Number(process.argv[2]), { open: openProcessDevice, list: listProcessDevices });
