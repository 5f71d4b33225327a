/** `npm run bench -- digest`: `vram digest` end to end against other tools and the bare read; and the start-up time. */
import { fileURLToPath } from "node:url";
import { alternate, environment, has, randomFile, report, round, timeProcess } from "./measure.mjs";

const BIN = fileURLToPath(new URL("../dist/cli/bin.js", import.meta.url));

export async function benchDigest({ mib, runs, json }) {
  const file = randomFile(mib);
  const { path, byteLength } = file;
  const process_ = (name, command, ...args) => ({ name, byteLength, run: () => timeProcess(command, args) });
  try {
    const contenders = [
      process_("vram digest", process.execPath, BIN, "digest", path),
      ...(has("fsverity") ? [process_("fsverity digest", "fsverity", "digest", path)] : []),
      ...(has("openssl") ? [process_("openssl dgst -sha256", "openssl", "dgst", "-sha256", path)] : []),
      ...(has("sha256sum") ? [process_("sha256sum", "sha256sum", path)] : []),
      process_("bare read (cat)", "sh", "-c", `cat '${path}' > /dev/null`),
      { name: "vram --version", run: () => timeProcess(process.execPath, [BIN, "--version"]) },
      { name: "node -e 0", run: () => timeProcess(process.execPath, ["-e", "0"]) },
    ];
    const results = await alternate(contenders, runs);
    const of = (name) => results.find((result) => result.name === name)?.medianSeconds;
    const reference = of("fsverity digest");
    const figures =
      reference === undefined ? {} : { "times as fast as fsverity digest": round(reference / of("vram digest")) };
    report({ bench: "digest", ...environment(), mib, runs, results, figures }, json);
  } finally {
    file.remove();
  }
}
