/** Configuration for tests: a machine of its own, with its own /etc and home. */
import { mkdir, realpath, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type Config, loadConfig } from "../../src/config/config.ts";
import type { GivenFlag } from "../../src/config/layers.ts";
import type { Place } from "../../src/config/places.ts";
import { temporaryFolder } from "./vram.ts";

/** A place where nothing is set, and every path leads where it says. */
export const EMPTY_PLACE: Place = {
  env: {},
  cwd: "/srv",
  uid: 1000,
  exists: () => false,
  realpath: (path) => path,
};

/** What the layers of a test hold. */
export interface Layers {
  readonly system?: string;
  readonly user?: string;
  readonly named?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly flags?: readonly GivenFlag[];
  readonly place?: Partial<Place>;
}

/** Where the files of a test's layers are. */
export interface Machine {
  readonly folder: string;
  readonly system: string;
  readonly user: string;
  readonly named: string;
}

/** A folder with an /etc, a home and a site's file; nothing in them yet. */
export async function machine(): Promise<Machine> {
  const folder = await realpath(await temporaryFolder());
  return {
    folder,
    system: join(folder, "etc/vram-residency/config.toml"),
    user: join(folder, "home/.config/vram-residency/config.toml"),
    named: join(folder, "site.toml"),
  };
}

/** Writes a file that nobody else may write to, in folders that nobody else may write to. */
export async function write(path: string, text: string | Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o755 });
  await writeFile(path, text, { mode: 0o644 });
}

/** The configuration that these layers give. */
export async function load(layers: Layers, at?: Machine): Promise<Config> {
  const { folder, system, user, named } = at ?? (await machine());
  if (layers.system !== undefined) await write(system, layers.system);
  if (layers.user !== undefined) await write(user, layers.user);
  if (layers.named !== undefined) await write(named, layers.named);
  return loadConfig({
    systemFile: system,
    ...(layers.named === undefined ? {} : { namedFile: named }),
    flags: layers.flags ?? [],
    place: { ...EMPTY_PLACE, env: { HOME: join(folder, "home"), ...layers.env }, ...layers.place },
  });
}

/** `--set key=text`. */
export const set = (key: string, text: string): GivenFlag => ({ key, text, flag: `--set ${key}` });
