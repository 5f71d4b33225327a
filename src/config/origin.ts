/** Where a value of the configuration comes from, as data and in words. */

/** The layers, the weakest first. */
export const LAYERS = ["default", "system", "user", "environment", "flags"] as const;

/** Where a value was set. */
export type Origin =
  | { readonly layer: "default" }
  | { readonly layer: "system" | "user"; readonly file: string; readonly line?: number }
  | { readonly layer: "environment"; readonly variable: string }
  | { readonly layer: "flags"; readonly flag: string };

/** Something that was set, before anybody looked whether it is a value of that key, or that key exists. */
export interface Setting {
  readonly key: string;
  readonly value: unknown;
  readonly origin: Origin;
}

/** An origin in words: `/etc/vram-residency/config.toml line 3`, `VRAM_LISTEN`, `--listen`, `default`. */
export function originWords(origin: Origin): string {
  switch (origin.layer) {
    case "default":
      return "default";
    case "system":
    case "user":
      return origin.line === undefined ? origin.file : `${origin.file} line ${origin.line}`;
    case "environment":
      return origin.variable;
    case "flags":
      return origin.flag;
  }
}
