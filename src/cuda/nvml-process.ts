/** Entry of the process that talks to NVML: nothing but the wiring. The logic is in `nvml-serve.ts`. */
import { dieWithParent } from "../ffi/process.ts";
import { type NvmlRequest, nvmlServer } from "./nvml-serve.ts";

dieWithParent(Number(process.argv[3]));
const serve = nvmlServer(process.argv[2] ?? "libnvidia-ml.so.1");
process.on("message", (request: NvmlRequest) => process.send?.(serve(request)));
process.on("disconnect", () => process.exit());
// Ctrl-C reaches every process of the terminal; when this one ends is the parent's to say.
process.on("SIGINT", () => undefined);
