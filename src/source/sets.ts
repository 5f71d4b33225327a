/**
 * A model in several files: a directory, or a `*.safetensors.index.json` as Hugging Face writes it. The members are
 * plain base names beside the index; each is then opened with the same care as any file.
 */
import { promises } from "node:fs";
import { basename, dirname, join } from "node:path";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { type FileSystem, openFailure, openFile, resolveUnderRoots } from "./file.ts";

const INDEX_SUFFIX = ".safetensors.index.json";

const refuse = (path: string, why: string): VramError =>
  new VramError("MODEL_MALFORMED", `${path}: ${why}`, { details: { format: "safetensors-index", path } });

async function readIndex(path: string, roots: readonly string[], fs: FileSystem): Promise<unknown> {
  const file = await openFile(path, roots, fs);
  try {
    if (file.byteLength > LIMITS.safetensorsHeaderBytes) throw refuse(path, "the index is too large");
    const bytes = new Uint8Array(file.byteLength);
    await file.readAt(bytes, 0);
    await file.requireUnchanged();
    try {
      return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    } catch {
      throw refuse(path, "the index is not JSON");
    }
  } finally {
    await file.close();
  }
}

/** The member files an index names, sorted, without repetitions. */
async function membersOfIndex(path: string, roots: readonly string[], fs: FileSystem): Promise<string[]> {
  const index = await readIndex(path, roots, fs);
  const map: unknown =
    typeof index === "object" && index !== null && "weight_map" in index ? index.weight_map : undefined;
  if (typeof map !== "object" || map === null) throw refuse(path, "the index has no weight_map");
  const names = new Set<string>();
  for (const name of Object.values(map)) {
    if (typeof name !== "string" || name !== basename(name) || name === "" || name === "." || name === "..") {
      throw refuse(path, "a member of the index is not a plain file name");
    }
    names.add(name);
  }
  return [...names].sort().map((name) => join(dirname(path), name));
}

async function membersOfDirectory(path: string, roots: readonly string[], fs: FileSystem): Promise<string[]> {
  const resolved = await resolveUnderRoots(path, roots, fs);
  const names = await promises.readdir(resolved).catch((error: unknown) => {
    throw openFailure(path, error);
  });
  names.sort();
  const [index, second] = names.filter((name) => name.endsWith(INDEX_SUFFIX));
  if (second !== undefined) throw refuse(path, "the directory has more than one index; name one");
  if (index !== undefined) return membersOfIndex(join(path, index), roots, fs);
  return names
    .filter((name) => name.endsWith(".safetensors") || name.endsWith(".gguf"))
    .map((name) => join(path, name));
}

/**
 * The files a path stands for, in order: itself, or the members of the directory or index it names. Throws
 * `SOURCE_NOT_FOUND` for a directory without model files.
 */
export async function expandSource(path: string, roots: readonly string[], fs: FileSystem): Promise<string[]> {
  const isDirectory = await promises
    .stat(path)
    .then((stats) => stats.isDirectory())
    .catch(() => false);
  if (!isDirectory && !path.endsWith(INDEX_SUFFIX)) return [path];
  const members = isDirectory ? await membersOfDirectory(path, roots, fs) : await membersOfIndex(path, roots, fs);
  if (members.length === 0) {
    throw new VramError("SOURCE_NOT_FOUND", `${path}: no safetensors or GGUF file in it`, { details: { path } });
  }
  if (members.length > LIMITS.setMembers) {
    throw refuse(path, `a set has at most ${LIMITS.setMembers} members`);
  }
  return members;
}
