/** Where configuration, state and socket of a service are unless somebody says otherwise (design §5, "HTTP", "CLI"). */
import { isAbsolute, join } from "node:path";

const NAME = "vram-residency";

/** Policy and settings of the machine: the lowest layer, which others can only tighten. */
export const SYSTEM_CONFIG = `/etc/${NAME}/config.toml`;

type Env = Readonly<Record<string, string | undefined>>;

/** What defaults depend on. */
export interface Place {
  readonly env: Env;
  /** What relative paths in variables and flags are relative to. */
  readonly cwd: string;
  readonly uid: number;
  /** Whether there is something at a path. */
  readonly exists: (path: string) => boolean;
  /** A path with its links resolved; undefined if it does not lead anywhere. */
  readonly realpath: (path: string) => string | undefined;
}

/** `$variable/vram-residency`, else `~/fallback…/vram-residency`; a relative path counts as unset (XDG specification). */
function xdgFolder(env: Env, variable: string, fallback: readonly string[]): string | undefined {
  const named = env[variable] ?? "";
  const home = env["HOME"] ?? "";
  if (isAbsolute(named)) return join(named, NAME);
  return isAbsolute(home) ? join(home, ...fallback, NAME) : undefined;
}

/** The state directory of this user; undefined if the environment does not say where the user's files are. */
export const defaultStateDir = (env: Env): string | undefined => xdgFolder(env, "XDG_STATE_HOME", [".local", "state"]);

/** The configuration file of this user; undefined as for the state directory. */
export function userConfig(env: Env): string | undefined {
  const folder = xdgFolder(env, "XDG_CONFIG_HOME", [".config"]);
  return folder === undefined ? undefined : join(folder, "config.toml");
}

/** The socket: of the user's session, of the machine's service, or in a folder for temporary files. */
export function defaultSocket({ env, uid, exists }: Place): string {
  const { XDG_RUNTIME_DIR: runtime = "", TMPDIR: temporary = "" } = env;
  if (isAbsolute(runtime)) return join(runtime, NAME, "vram.sock");
  if (uid === 0 || exists(`/run/${NAME}`)) return `/run/${NAME}/vram.sock`;
  return join(isAbsolute(temporary) ? temporary : "/tmp", `${NAME}-${uid}`, "vram.sock");
}
