/** The checker's own copy of the weights, on disk: digests of a part of a file, as `fsverity digest` gives them for it. */
import { VramError } from "../errors.ts";
import type { HashPool } from "../hash/pool.ts";
import { nodeFileSystem, openFile } from "../source/file.ts";
import { fileReader } from "../source/readers.ts";
import { type DigestWatch, digestOpened } from "../staging/digest.ts";
import type { DigestModel } from "./check.ts";

/** Digests parts of the file at `path`. Errors are those of reading a source. */
export function modelFile(path: string, pool: HashPool, watch: DigestWatch = {}): DigestModel {
  return async ({ offset, byteLength }, { salt, sha256 = false }) => {
    const file = await openFile(path, ["/"], nodeFileSystem);
    if (offset + byteLength > file.byteLength) {
      await file.close();
      return undefined;
    }
    const reader = fileReader(file, offset, byteLength);
    try {
      const info = { name: reader.baseName, format: "raw" as const, byteLength, tensors: [] };
      const wanted = { tree: true, sha256, ...(salt === undefined ? {} : { salt }) };
      const rawFd = reader.fd === undefined ? {} : { rawFd: reader.fd };
      const found = await digestOpened({ ...reader, ...rawFd, info }, pool, wanted, watch);
      const plain = found.sha256 === undefined ? {} : { sha256: found.sha256 };
      if (found.tree !== undefined) return { digest: found.tree.digest, ...plain, fileBytes: file.byteLength };
      throw new VramError("INTERNAL", "a digest was asked for, and there is none");
    } finally {
      await reader.close();
    }
  };
}
