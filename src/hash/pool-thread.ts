/** Entry of a hashing thread: nothing but the wiring. The logic is `serveRequest` in `pool.ts`. */
import { parentPort } from "node:worker_threads";
import { serveRequest, type ThreadRequest } from "./pool.ts";

const port = parentPort;
port?.on("message", (request: ThreadRequest) => serveRequest(request, (ticket) => port.postMessage(ticket)));
