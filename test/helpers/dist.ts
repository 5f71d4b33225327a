/** `dist` for tests that start processes: built anew unless it is newer than every source. */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

function isStale(): boolean {
  const built = `${ROOT}dist/cli/bin.js`;
  if (!existsSync(built)) return true;
  const sources = readdirSync(`${ROOT}src`, { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".ts"),
  );
  return sources.some((name) => statSync(`${ROOT}src/${name}`).mtimeMs > statSync(built).mtimeMs);
}

export function buildIfStale(): void {
  if (isStale()) execFileSync("npm", ["run", "-s", "build"], { cwd: ROOT, stdio: "inherit" });
}
