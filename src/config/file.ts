/**
 * One configuration file: opened with care, parsed as TOML, flattened to dotted keys with the lines they stand in.
 *
 * A file of the machine or of the user must not be one that others may write to: it is owned by root or this user, and
 * so is its folder, and nobody else may write to either. What `--config` names is the caller's own choice.
 */
import type { Stats } from "node:fs";
import { constants, promises } from "node:fs";
import { dirname } from "node:path";
import { parse, TomlError } from "smol-toml";
import { VramError } from "../errors.ts";
import { isSystemError } from "../files.ts";
import { LIMITS } from "../limits.ts";
import type { Origin, Setting } from "./origin.ts";
import { CONFIG_KEYS } from "./table.ts";

/** `system` and `user` are where we look by ourselves, and may be absent; `named` was asked for. */
export type FileRole = "system" | "user" | "named";

const refused = (path: string, why: string, options: { readonly fix?: string; readonly cause?: unknown } = {}) =>
  new VramError("INVALID_ARGUMENT", `${path}: ${why}`, {
    fix: options.fix ?? "mend the file that the message names; docs/config.md lists the keys",
    details: { argument: "config", file: path },
    ...(options.cause === undefined ? {} : { cause: options.cause }),
  });

/** Why others may write to what has these stats; undefined if only root and this user may. */
function othersMayWrite({ uid, mode }: Stats): string | undefined {
  if (uid !== 0 && uid !== process.getuid?.()) return "it belongs to another user";
  return (mode & 0o022) === 0 ? undefined : "its group or everybody may write to it";
}

/** Whether a folder takes no writes at all from here: what is mounted read-only is nobody's to change. */
const isReadOnly = (folder: string): Promise<boolean> =>
  promises.access(folder, constants.W_OK).then(
    () => false,
    (error: unknown) => isSystemError(error, "EROFS"),
  );

async function requireOurs(path: string, file: Stats): Promise<void> {
  const why = othersMayWrite(file);
  if (why !== undefined) {
    throw refused(path, `refused: ${why}`, { fix: `run chown and chmod go-w on ${path}, once you know what it says` });
  }
  const folder = dirname(await promises.realpath(path));
  const stats = await promises.stat(folder);
  // In a folder with the sticky bit others cannot replace what is not theirs.
  const isSticky = (stats.mode & 0o1000) !== 0;
  if (isSticky || othersMayWrite(stats) === undefined || (await isReadOnly(folder))) return;
  const fix = `run chown and chmod go-w on ${folder}, once you know what the file says`;
  throw refused(path, "refused: others may replace it, because they may write to its folder", { fix });
}

async function readOpen(path: string, file: promises.FileHandle, role: FileRole): Promise<string> {
  const stats = await file.stat();
  if (!stats.isFile()) throw refused(path, "not a regular file");
  if (role !== "named") await requireOurs(path, stats);
  // One more than may be: a file that grows meanwhile is seen.
  const bytes = Buffer.alloc(LIMITS.configBytes + 1);
  let length = 0;
  for (let got = -1; got !== 0 && length < bytes.byteLength; length += got) {
    got = (await file.read(bytes, length, bytes.byteLength - length, length)).bytesRead;
  }
  if (length > LIMITS.configBytes) throw refused(path, `larger than ${LIMITS.configBytes} bytes`);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, length));
  } catch (cause) {
    throw refused(path, "not UTF-8", { cause });
  }
}

/** The text of a file; undefined if there is none where there need not be one. */
export async function readConfigFile(path: string, role: FileRole): Promise<string | undefined> {
  // Not blocking: a FIFO is refused, not waited for. Links are followed: that is how many systems lay out /etc.
  const file = await promises.open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((cause: unknown) => {
    const isAbsent = isSystemError(cause, "ENOENT") || (role === "user" && isSystemError(cause, "ENOTDIR"));
    if (isAbsent && role !== "named") return undefined;
    throw refused(path, isAbsent ? "no such file" : "cannot be read", { cause });
  });
  if (file === undefined) return undefined;
  try {
    return await readOpen(path, file, role);
  } catch (error) {
    if (error instanceof VramError) throw error;
    throw refused(path, "cannot be read", { cause: error });
  } finally {
    await file.close();
  }
}

function parseToml(text: string, path: string): Readonly<Record<string, unknown>> {
  try {
    return parse(text, { maxDepth: LIMITS.configDepth, unsafeKeyBehaviour: "throw" });
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw refused(path, "not TOML", { cause });
    // Behind the first line the message shows the text around, which may be anything.
    const [what = ""] = cause.message.replace("Invalid TOML document: ", "").split("\n");
    throw refused(path, `not TOML: line ${cause.line}, column ${cause.column}: ${what}`);
  }
}

const isTable = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);

/** Whether a table may have this name: `lease`, because there is `lease.maxMs`. */
const isOurTable = (name: string): boolean => CONFIG_KEYS.some((key) => key.startsWith(`${name}.`));

/** Every value with its dotted key. An empty table that is none of ours counts as a value: nobody should overlook it. */
function flatten(table: Readonly<Record<string, unknown>>, prefix = ""): [key: string, value: unknown][] {
  return Object.entries(table).flatMap(([name, value]): [string, unknown][] => {
    // A quoted key with a dot in it is not the key of a table: it stays what it is, and is none of ours.
    const key = prefix + (/^[A-Za-z0-9_-]+$/.test(name) ? name : JSON.stringify(name));
    if (!isTable(value)) return [[key, value]];
    return Object.keys(value).length > 0 || isOurTable(key) ? flatten(value, `${key}.`) : [[key, value]];
  });
}

const HEADER = /^[ \t]*\[[ \t]*([A-Za-z0-9_.-]+)[ \t]*\]/;
const ASSIGNMENT = /^[ \t]*([A-Za-z0-9_.-]+)[ \t]*=/;

/**
 * The lines that keys seem to stand in. The parser does not tell, so the text is looked at once more: what is not found,
 * or twice (in a text of several lines, say), has no line. For messages only.
 */
function linesOf(text: string): ReadonlyMap<string, number | undefined> {
  const lines = new Map<string, number | undefined>();
  let table = "";
  for (const [index, line] of text.split("\n").entries()) {
    const header = HEADER.exec(line)?.[1];
    if (header !== undefined) table = `${header}.`;
    const name = ASSIGNMENT.exec(line)?.[1] ?? header;
    if (name === undefined) continue;
    const key = header === undefined ? table + name : header;
    lines.set(key, lines.has(key) ? undefined : index + 1);
  }
  return lines;
}

/** What a file sets, in its order. */
export function parseConfigFile(text: string, path: string, layer: "system" | "user"): Setting[] {
  const lines = linesOf(text);
  return flatten(parseToml(text, path)).map(([key, value]) => {
    const line = lines.get(key);
    const origin: Origin = { layer, file: path, ...(line === undefined ? {} : { line }) };
    return { key, value, origin };
  });
}
