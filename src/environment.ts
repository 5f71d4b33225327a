/** Options from environment variables. Apart, so that a command that opens no device loads nothing for one. */
import { requireInteger } from "./assert.ts";
import { VramError } from "./errors.ts";
import type { VramOptions } from "./open.ts";

/** Options the environment gives: `VRAM_BACKEND`, `VRAM_EMULATED_BYTES`, `VRAM_HASH_THREADS`, `LD_LIBRARY_PATH`. */
export function optionsFromEnvironment(env: Readonly<Record<string, string | undefined>>): VramOptions {
  const integer = (name: string, max: number): number | undefined => {
    const text = env[name];
    if (text === undefined || text === "") return undefined;
    if (!/^\d+$/.test(text)) throw new VramError("INVALID_ARGUMENT", `${name} must be a whole number`);
    return requireInteger(Number(text), name, 0, max);
  };
  const backend = env["VRAM_BACKEND"];
  if (backend !== undefined && backend !== "" && backend !== "auto" && backend !== "cuda" && backend !== "emulated") {
    throw new VramError("INVALID_ARGUMENT", "VRAM_BACKEND must be auto, cuda or emulated");
  }
  const byteLength = integer("VRAM_EMULATED_BYTES", Number.MAX_SAFE_INTEGER);
  const hashThreads = integer("VRAM_HASH_THREADS", 256);
  const libraryPath = env["LD_LIBRARY_PATH"];
  return {
    ...(libraryPath === undefined ? {} : { libraryPath }),
    ...(backend === undefined || backend === "" ? {} : { backend }),
    ...(byteLength === undefined ? {} : { emulated: { byteLength } }),
    ...(hashThreads === undefined ? {} : { hashThreads }),
  };
}
