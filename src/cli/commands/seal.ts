/** `vram seal`: has a service seal files, one after the other, and with `--wait` sees it through. */
import { resolve } from "node:path";
import { formatBytes, printable } from "../../bytes.ts";
import type { Client, OperationReply, SealRequestBody } from "../../client.ts";
import { throwIfAborted, VramError } from "../../errors.ts";
import { EXIT } from "../exit.ts";
import { formatAge, shortDigest } from "../figures.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";
import { forEachName, worstOf } from "../outcomes.ts";
import { createProgress, type Progress } from "../progress.ts";
import { readSmallFile } from "../read-file.ts";
import { type Column, NONE, printRecords } from "../records.ts";
import { warnOfBackend, withService } from "../service-address.ts";
import { type PlacedOptions, placedRequest } from "./placed.ts";
import { requireSucceeded, waitForEnd } from "./seal-wait.ts";
import { parseSums, type SumsLine } from "./sums.ts";

export interface SealOptions extends PlacedOptions {
  readonly expect?: string;
  readonly sums?: string;
  readonly sha256?: true;
  readonly wait?: true;
}

/** About 40,000 lines. */
const SUMS_BYTES_MAX = 4 * 1024 * 1024;

const invalid = (message: string, fix: string): VramError => new VramError("INVALID_ARGUMENT", message, { fix });

/** What a list says about a file; its own digest of the tree goes before its SHA-256. */
function listedDigest(lines: readonly SumsLine[], path: string, file: string, sums: string): string {
  const isPlain = (digest: string): boolean => digest.startsWith("sha256:");
  const listed = lines.filter((line) => resolve(line.path) === path).map(({ digest }) => digest);
  const trees = new Set(listed.filter((digest) => !isPlain(digest)).map((digest) => digest.replace("fsverity:", "")));
  const plain = new Set(listed.filter(isPlain));
  if (trees.size > 1 || plain.size > 1) {
    throw invalid(`${sums} lists ${file} with different digests`, "keep the right one");
  }
  const [digest] = [...trees, ...plain];
  if (digest !== undefined) return digest;
  throw invalid(`${sums} does not list ${file}`, "`vram digest FILE…` prints such a list; names are as they are given");
}

/** The requests of all files, before anything is asked of the service. */
async function requestsOf(files: readonly string[], options: SealOptions): Promise<readonly SealRequestBody[]> {
  const { expect, sums, sha256, name } = options;
  if (files.length > 1 && (expect !== undefined || name !== undefined)) {
    throw invalid("--expect and --name belong to a single file", "seal the files one by one, or give --sums");
  }
  const lines =
    sums === undefined ? undefined : parseSums(Buffer.from(await readSmallFile(sums, SUMS_BYTES_MAX)).toString(), sums);
  return files.map((file): SealRequestBody => {
    const placed = placedRequest(file, options);
    const expected = lines === undefined ? expect : listedDigest(lines, placed.path, file, sums ?? "");
    return {
      ...placed,
      ...(expected === undefined ? {} : { expected }),
      ...(sha256 === undefined ? {} : { sha256 }),
    };
  });
}

const COLUMNS: readonly Column[] = [
  { title: "NAME" },
  { title: "DIGEST" },
  { title: "SIZE", right: true },
  { title: "COMPARED WITH" },
  { title: "GPU" },
  { title: "TOOK" },
];

function printSealed(host: Host, operations: readonly OperationReply[]): void {
  const rows = operations.flatMap(({ result, startedAt, endedAt }) => {
    const took = endedAt === undefined ? NONE : formatAge(Date.parse(endedAt) - Date.parse(startedAt));
    return (result?.shards ?? []).map(({ record }) => [
      ...[record.name, shortDigest(record.digest), formatBytes(record.byteLength)],
      ...[record.comparedWith, String(record.device.ordinal), took],
    ]);
  });
  const [first] = operations.flatMap(({ result }) => result?.shards ?? []);
  if (first !== undefined) warnOfBackend(host, first.record.backend);
  if (rows.length > 0) printRecords(host, COLUMNS, rows);
}

function printBegun(host: Host, operations: readonly OperationReply[]): void {
  for (const { operationId, name } of operations) host.out(`${operationId}  ${printable(name)}\n`);
  if (operations.length > 0) host.err("being sealed: `vram ps` shows how far it is, --wait waits for it\n");
}

/** One file, up to what was asked for. */
async function sealOne(
  host: Host,
  client: Client,
  request: SealRequestBody,
  progress: Progress | undefined,
): Promise<OperationReply> {
  throwIfAborted(host.signal);
  // Not with the host's signal: what the service has begun can be cancelled by its id only.
  const begun = await client.seal(request);
  if (progress === undefined) return begun;
  return requireSucceeded(await waitForEnd(host, client, begun, progress));
}

/** Runs the command. */
export async function runSeal(host: Host, files: readonly string[], options: SealOptions): Promise<number> {
  const requests = await requestsOf(files, options);
  const progress = options.wait === true ? createProgress(host) : undefined;
  const operations: OperationReply[] = [];
  const failures = await withService(host, options, (client) =>
    forEachName(
      host,
      requests,
      ({ path }) => path,
      async (request) => void operations.push(await sealOne(host, client, request, progress)),
    ),
  );
  const code = failures.length === 0 && host.signal.aborted ? EXIT.interrupted : worstOf(failures);
  if (options.json === true) printJson(host, "seal", { ok: code === EXIT.ok, operations, errors: failures });
  else if (progress === undefined) printBegun(host, operations);
  else printSealed(host, operations);
  return code;
}
