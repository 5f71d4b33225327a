/** What must hold between keys of the configuration, after all layers are put together. */
import { VramError } from "../errors.ts";
import { isLoopback, parseAddress } from "./kinds.ts";
import { type Origin, originWords } from "./origin.ts";
import type { ConfigKey, ConfigValues } from "./table.ts";
import { showDuration } from "./units.ts";

type Origins = Readonly<Record<ConfigKey, Origin>>;

function refuse(keys: readonly ConfigKey[], origins: Origins, why: string, fix: string): never {
  const where = keys.map((key) => `${key}: ${originWords(origins[key])}`).join("; ");
  throw new VramError("INVALID_ARGUMENT", `${why} (${where})`, { fix, details: { argument: keys[0], keys } });
}

function checkTls({ "tls.certFile": cert, "tls.keyFile": key }: ConfigValues, origins: Origins): void {
  if ((cert === undefined) === (key === undefined)) return;
  const missing = cert === undefined ? "tls.certFile" : "tls.keyFile";
  refuse(["tls.certFile", "tls.keyFile"], origins, `TLS takes both its keys, and ${missing} is missing`, "set both");
}

/** Without TLS tokens would cross the network in the clear. */
function checkAddress(key: "listen" | "metricsListen", values: ConfigValues, origins: Origins): void {
  const address = parseAddress(values[key]);
  if (address === undefined || isLoopback(address) || values["tls.certFile"] !== undefined) return;
  refuse(
    [key],
    origins,
    `${key} is ${values[key]}, which others reach, and there is no TLS`,
    ["listen on 127.0.0.1 or [::1], or set tls.certFile and tls.keyFile"].join(),
  );
}

/** Throws `INVALID_ARGUMENT` for values that contradict each other. */
export function requireConsistent(values: ConfigValues, origins: Origins): void {
  checkTls(values, origins);
  checkAddress("listen", values, origins);
  checkAddress("metricsListen", values, origins);
  const { listen, metricsListen, backend, requireGpu } = values;
  if (listen !== "off" && listen === metricsListen && parseAddress(listen)?.port !== 0) {
    const why = `listen and metricsListen are both ${listen}`;
    refuse(["listen", "metricsListen"], origins, why, "give each an address of its own");
  }
  if (requireGpu && backend === "emulated") {
    const why = "a GPU is required, and the emulated device was asked for";
    refuse(["requireGpu", "backend"], origins, why, "remove one of both");
  }
  const [usual, longest] = [values["lease.defaultMs"], values["lease.maxMs"]];
  if (usual > longest) {
    const why = `lease.defaultMs is ${showDuration(usual)}, and lease.maxMs only ${showDuration(longest)}`;
    refuse(["lease.defaultMs", "lease.maxMs"], origins, why, "set both, the first not longer than the second");
  }
}
