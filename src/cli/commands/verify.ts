/** `vram verify`: has a service measure what lies in VRAM, and says where it is not what was sealed. */
import { printable } from "../../bytes.ts";
import type { Client, Shown, Verification } from "../../client.ts";
import { toVramError, VramError } from "../../errors.ts";
import { inMs, rate } from "../../narrate/line.ts";
import { EXIT } from "../exit.ts";
import { formatAge, parseMs } from "../figures.ts";
import { colorsFor, type Host } from "../host.ts";
import { printJson } from "../json.ts";
import { forEachName, worstOf } from "../outcomes.ts";
import { type ServiceOptions, warnOfBackend, withService } from "../service-address.ts";
import { printDamage } from "./damage.ts";

export interface VerifyOptions extends ServiceOptions {
  readonly all?: true;
  readonly maxAge?: string;
  readonly salt?: string;
}

/** One thing to verify: as it is asked for, and as it is called. */
interface Subject {
  readonly key: string;
  readonly name: string;
  /** Why it cannot be verified. */
  readonly missing?: string;
}

async function subjectsOf(host: Host, client: Client, names: readonly string[], all: boolean): Promise<Subject[]> {
  if (!all) return (await Promise.all(names.map((name) => namedSubjects(host, client, name)))).flat();
  const listing = await client.list({ signal: host.signal });
  if (listing.shards.length + listing.missing.length === 0) host.err("nothing is resident\n");
  return subjectsIn(listing);
}

/** What a name stands for: a shard, or the members of a set. */
async function namedSubjects(host: Host, client: Client, name: string): Promise<Subject[]> {
  const shown = await client.show(name, { signal: host.signal }).catch(() => undefined);
  // What is wrong with the name, the service says when it is asked to verify it.
  if (shown === undefined || shown.shards.length + shown.missing.length === 1) return [{ key: name, name }];
  return subjectsIn(shown);
}

function subjectsIn({ shards, missing }: Shown): Subject[] {
  return [
    ...shards.map(({ shardId, name }) => ({ key: shardId, name })),
    ...missing.map(({ shardId, name, state, reason }) => {
      const why = reason === undefined ? state : `${state}: ${reason}`;
      return { key: shardId, name, missing: `${name} is wanted and not resident (${why})` };
    }),
  ];
}

function howOf({ basis, ageMs, durationMs, bytesCovered, readFrom }: Verification): string {
  if (basis === "fresh-enough") return `measured ${formatAge(ageMs)} ago, which is fresh enough`;
  const cache = readFrom === "l2-possible" ? "; the GPU's cache may have answered for its memory" : "";
  return `measured in ${inMs(durationMs)}${rate(bytesCovered, durationMs)}${cache}`;
}

function printVerified(host: Host, verification: Verification): void {
  const { record, digest, salted } = verification;
  const colors = colorsFor(host, host.outIsTerminal);
  host.out(`${printable(record.name)}  ${colors.green("verified")}  fsverity:${digest}  ${howOf(verification)}\n`);
  if (salted !== undefined) host.out(`  salted  ${salted.digest} with ${salted.salt}\n`);
}

function requestOf({ maxAge, salt }: VerifyOptions): { readonly maxAgeMs?: number; readonly salt?: string } {
  return {
    ...(maxAge === undefined ? {} : { maxAgeMs: parseMs(maxAge, "--max-age") }),
    ...(salt === undefined ? {} : { salt }),
  };
}

/** Runs the command. */
export async function runVerify(host: Host, names: readonly string[], options: VerifyOptions): Promise<number> {
  const all = options.all === true;
  if (all === names.length > 0) {
    throw new VramError("INVALID_ARGUMENT", "give names of shards, or --all and no names", {
      fix: "vram verify NAME…, or vram verify --all",
    });
  }
  const request = requestOf(options);
  const json = options.json === true;
  const verifications: Verification[] = [];
  const verifyOne = async (client: Client, { key, name, missing }: Subject): Promise<void> => {
    try {
      if (missing !== undefined) throw new VramError("SHARD_NOT_RESIDENT", missing);
      const verification = await client.verify(key, request, { signal: host.signal });
      if (verifications.length === 0 && !json) warnOfBackend(host, verification.backend);
      verifications.push(verification);
      if (!json) printVerified(host, verification);
    } catch (thrown) {
      const error = toVramError(thrown);
      if (!json && error.code !== "ABORTED") {
        host.out(`${printable(name)}  ${colorsFor(host, host.outIsTerminal).red("FAILED")}  ${error.code}\n`);
        printDamage(host, error);
      }
      throw error;
    }
  };
  const failures = await withService(host, options, async (client) => {
    const subjects = await subjectsOf(host, client, names, all);
    return forEachName(
      host,
      subjects,
      ({ name }) => name,
      (subject) => verifyOne(client, subject),
    );
  });
  const code = worstOf(failures);
  if (json) printJson(host, "verify", { ok: code === EXIT.ok, verifications, errors: failures });
  return code;
}
