/**
 * What a value of the configuration may be. Each kind has a zod schema for what a TOML file holds, says in words what it
 * accepts, and how the text of a variable or flag is read. Nothing is coerced: `"true"` in a file is not true.
 */
import { BlockList, isIP } from "node:net";
import { isAbsolute, normalize, resolve } from "node:path";
import { z } from "zod";
import { BYTE_UNITS, DURATION_UNITS, parseBytes, parseDuration, showBytes, showDuration } from "./units.ts";

export interface Kind<T> {
  /** What is accepted, for errors and the documentation. */
  readonly accepts: string;
  readonly schema: z.ZodType<T>;
  /** The value that the text of a variable or flag stands for, as a file would hold it. */
  readonly fromText: (text: string, cwd: string) => unknown;
  /** A value for people. */
  readonly show: (value: T) => string;
}

const asIs = (text: string): unknown => text;
/** Digits are a number; anything else is left for the schema to judge. */
const numberOrText = (text: string): unknown => (/^(0|[1-9][0-9]{0,15})$/.test(text) ? Number(text) : text);

/** One of some words. */
export function choice<const T extends string>(words: readonly [T, ...T[]]): Kind<T> {
  return {
    accepts: words.map((word) => `"${word}"`).join(", "),
    schema: z.enum(words),
    fromText: asIs,
    show: (value) => value,
  };
}

const BOOLEANS: Readonly<Record<string, boolean>> = { true: true, false: false, 1: true, 0: false };

export const boolean: Kind<boolean> = {
  accepts: "true or false",
  schema: z.boolean(),
  fromText: (text) => new Map(Object.entries(BOOLEANS)).get(text) ?? text,
  show: String,
};

/** A whole number. */
export const integer = (min: number, max: number): Kind<number> => ({
  accepts: `a whole number from ${min} to ${max}`,
  schema: z.int().min(min).max(max),
  fromText: numberOrText,
  show: String,
});

function quantity(
  min: number,
  max: number,
  parse: (text: string) => number | undefined,
  words: { readonly what: string; readonly show: (value: number) => string },
): Kind<number> {
  const named = z.string().transform((text, context) => {
    const value = parse(text);
    if (value !== undefined) return value;
    context.addIssue({ code: "custom", message: "not a number and a unit" });
    return z.NEVER;
  });
  return {
    accepts: `${words.what}, from ${words.show(min)} to ${words.show(max)}`,
    schema: z.union([z.number(), named]).pipe(z.int().min(min).max(max)),
    fromText: numberOrText,
    show: words.show,
  };
}

/** What a size and a duration accept, in full: documented once. */
export const SIZE_WORDS = `bytes as a whole number, or text like "64 GiB" (${BYTE_UNITS.join(", ")})`;
export const DURATION_WORDS = `milliseconds as a whole number, or text like "15 min" (${DURATION_UNITS.join(", ")})`;

/** A size in bytes. */
export const size = (min: number, max: number): Kind<number> =>
  quantity(min, max, parseBytes, { what: 'a size like "64 GiB"', show: showBytes });

/** A duration in milliseconds. */
export const duration = (min: number, max: number): Kind<number> =>
  quantity(min, max, parseDuration, { what: 'a duration like "15 min"', show: showDuration });

/** Text that the system takes as it is: no NUL, which would end it early. */
const systemText = z
  .string()
  .min(1)
  .max(4096)
  .refine((text) => !text.includes("\0"));
const absolutePath = systemText.refine((path) => isAbsolute(path)).transform((path) => withoutSlash(normalize(path)));
const withoutSlash = (path: string): string => (path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path);
const absolute = (text: string, cwd: string): string => (text === "" ? text : resolve(cwd, text));

/** Where something is. In a file it has to be absolute; variables and flags are relative to the working directory. */
export const path: Kind<string> = {
  accepts: "an absolute path",
  schema: absolutePath,
  fromText: absolute,
  show: (value) => value,
};

/** A library as the loader takes it: a path, or a name to be searched for. */
export const library: Kind<string> = {
  accepts: "a path, or a name that the loader searches for",
  schema: systemText,
  fromText: asIs,
  show: (value) => value,
};

/** `sun_path` has 108 bytes, one of them for the NUL at its end (unix(7)). */
const SOCKET_PATH_BYTES = 107;

export const socketPath: Kind<string> = {
  accepts: `an absolute path of at most ${SOCKET_PATH_BYTES} bytes`,
  schema: absolutePath.refine((text) => Buffer.byteLength(text) <= SOCKET_PATH_BYTES),
  fromText: absolute,
  show: (value) => value,
};

const shown = (values: readonly (string | number)[]): string => (values.length === 0 ? "none" : values.join(", "));
const areDistinct = (values: readonly (string | number)[]): boolean => new Set(values).size === values.length;
/** Empty text is an empty list. */
const split = (text: string, separator: string): string[] => (text === "" ? [] : text.split(separator));

/** Folders. In a variable or flag with `:` between them. */
export const paths: Kind<readonly string[]> = {
  accepts: "a list of absolute paths, each once",
  schema: z.array(absolutePath).max(64).refine(areDistinct),
  fromText: (text, cwd) => split(text, ":").map((part) => absolute(part, cwd)),
  show: shown,
};

const DEVICES_MAX = 64;
const deviceUuid = z.string().regex(/^(?:GPU|MIG|EMU)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
const deviceName = z.union([z.int().min(0).max(1023), deviceUuid]);

/** Devices, all or some. In a variable or flag with `,` between them. */
export const devices: Kind<"all" | readonly (number | string)[]> = {
  accepts: '"all", or a list of ordinals and UUIDs, each once',
  schema: z.union([z.literal("all"), z.array(deviceName).min(1).max(DEVICES_MAX).refine(areDistinct)]),
  fromText: (text) => (text === "all" ? text : split(text, ",").map(numberOrText)),
  show: (value) => (value === "all" ? value : shown(value)),
};

/** A group of the machine by name (as `groupadd` accepts it) or number, or nobody. */
export const group: Kind<string | number> = {
  accepts: 'the name or number of a group, or "" for none',
  schema: z.union([
    z.literal(""),
    z.string().regex(/^[a-z_][a-z0-9_-]{0,31}$/),
    z
      .int()
      .min(0)
      .max(2 ** 32 - 2),
  ]),
  fromText: numberOrText,
  show: (value) => (value === "" ? "none" : String(value)),
};

const hostName = z.string().regex(/^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$/);

/** Names of hosts. In a variable or flag with `,` between them. */
export const hosts: Kind<readonly string[]> = {
  accepts: "a list of host names in lower case, without ports, each once",
  schema: z.array(hostName.max(253)).max(64).refine(areDistinct),
  fromText: (text) => split(text, ","),
  show: shown,
};

/** An address to listen on. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

/** The two parts of `HOST:PORT`; undefined if it is none. Hosts are numbers: a name may lead anywhere tomorrow. */
export function parseAddress(text: string): Address | undefined {
  const [, six, four, digits = ""] = /^(?:\[([0-9a-f:.]+)\]|([0-9.]+)):(0|[1-9][0-9]{0,4})$/.exec(text) ?? [];
  const host = six ?? four ?? "";
  const isValid = isIP(host) === (six === undefined ? 4 : 6) && Number(digits) <= 65_535;
  return isValid ? { host, port: Number(digits) } : undefined;
}

const loopback = new BlockList();
loopback.addSubnet("127.0.0.0", 8, "ipv4");
loopback.addAddress("::1", "ipv6");

/** Whether only this machine reaches an address. */
export const isLoopback = ({ host }: Address): boolean => loopback.check(host, isIP(host) === 6 ? "ipv6" : "ipv4");

export const address: Kind<string> = {
  accepts: '"off", or an address and a port like "127.0.0.1:7790" or "[::1]:7790"',
  schema: z.string().refine((text) => text === "off" || parseAddress(text) !== undefined),
  fromText: asIs,
  show: (value) => value,
};
