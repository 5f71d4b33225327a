/**
 * `vram try`: the whole journey in one process; its story is the narration, on the talk output. With `--tamper` one bit is flipped in VRAM through a
 * writable alias, and the command succeeds only if the next verification catches it. Whatever happens, nothing stays
 * resident; without `--state-dir` nothing stays at all.
 */

import type { Vram } from "../../api.ts";
import { formatBytes } from "../../bytes.ts";
import { type BackendChoice, evidenceOf } from "../../device/detect.ts";
import { optionsFromEnvironment } from "../../environment.ts";
import { toVramError, VramError } from "../../errors.ts";
import type { JournalReader } from "../../journal/journal.ts";
import { type Line, line } from "../../narrate/line.ts";
import { type OpenSystem, openSystem } from "../../open.ts";
import type { EvictResult } from "../../residency/evict.ts";
import type { SealResult } from "../../residency/seal-model.ts";
import { nodeFileSystem } from "../../source/file.ts";
import { expandSource } from "../../source/sets.ts";
import type { SourceFormat } from "../../source/tensors.ts";
import { flipShardBit } from "../../tamper.ts";
import type { Damage, VerificationReport } from "../../verify/report.ts";
import { createVram } from "../../vram.ts";
import { EXIT, exitCodeFor } from "../exit.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";
import { openMetricsFile } from "../metrics-file.ts";
import { type Narration, type NarrationOptions, openNarration } from "../narration.ts";

export interface TryOptions extends NarrationOptions {
  readonly json?: true;
  readonly tamper?: true;
  readonly expect?: string;
  readonly name?: string;
  readonly format?: "auto" | SourceFormat;
  readonly stateDir?: string;
  readonly metrics?: string;
  readonly backend?: BackendChoice;
}

/** One flipped bit and what became of it. Offsets in bytes from the start of the shard. */
interface Tampering {
  readonly offset: number;
  readonly bit: number;
  /** The tensor that was hit; absent in raw files and between tensors. */
  readonly tensor?: string;
  readonly caught: boolean;
  readonly damage?: Damage;
}

interface Tried {
  readonly path: string;
  readonly sealed: SealResult;
  readonly verification: VerificationReport;
  readonly tampering?: Tampering;
  readonly evicted: EvictResult;
}

interface Stage {
  readonly host: Host;
  readonly vram: Vram;
  readonly open: OpenSystem;
  readonly narration: Narration;
}

/** A line of the command itself; the journal has the others. */
const say = (action: string, word: string, target: string, human: string, extra?: Parameters<typeof line>[3]): Line =>
  line(["command", action, word], target, human, extra);

/** Where to hit: the middle of the largest tensor, or of the file when it has none. */
function chooseTarget(open: OpenSystem, shardId: string): { offset: number; bit: number; tensor?: string } {
  const shard = open.system.registry.find(shardId);
  const [first, ...others] = shard.tensors.filter((tensor) => tensor.byteLength > 0);
  if (first === undefined) return { offset: Math.floor(shard.seal.byteLength / 2), bit: 3 };
  const largest = others.reduce((best, tensor) => (tensor.byteLength > best.byteLength ? tensor : best), first);
  return { offset: largest.offset + Math.floor(largest.byteLength / 2), bit: 3, tensor: largest.name };
}

const isDamage = (value: unknown): value is Damage => typeof value === "object" && value !== null && "ranges" in value;

async function tamper(stage: Stage, sealed: SealResult): Promise<Tampering> {
  const { shardId } = sealed.record;
  const target = chooseTarget(stage.open, shardId);
  await flipShardBit(stage.open, shardId, target.offset, target.bit);
  const where = target.tensor === undefined ? "" : `, in ${target.tensor}`;
  const flipped = `bit ${target.bit} of byte ${target.offset} flipped in VRAM${where}`;
  stage.narration.tell(say("tamper", "tampered", sealed.record.name, flipped));
  try {
    await stage.vram.verify(shardId, { seal: sealed.seal });
  } catch (thrown) {
    const error = toVramError(thrown);
    if (error.code !== "MEASUREMENT_MISMATCH") throw error;
    const damage = error.details["damage"];
    if (!isDamage(damage)) throw error;
    const named = target.tensor === undefined || damage.tensors.includes(target.tensor);
    for (const told of damageLines(sealed.record.name, damage)) stage.narration.tell(told);
    return { ...target, caught: named, damage };
  }
  return { ...target, caught: false };
}

function damageLines(name: string, damage: Damage): Line[] {
  const located = (human: string): Line => say("locate", "located", name, human, { level: "error", tone: "bad" });
  const blocks = damage.blocks.slice(0, 4).map((block) => {
    const tensors = block.tensors.length === 0 ? "" : ` of ${block.tensors.join(", ")}`;
    const bytes = `${block.differing} of its bytes differ, first at ${block.byteOffsets[0] ?? "?"}`;
    return located(`4 KiB block at ${block.offset}${tensors}: ${bytes}`);
  });
  if (blocks.length > 0) return blocks;
  const ranges = damage.ranges.map((range) => range.offset).join(", ");
  return [located(`to 512 KiB at ${ranges} (${damage.because ?? ""})`)];
}

function capacityLine(uuid: string, before: number, after: number): Line {
  if (after === before) return say("compare_capacity", "capacity", uuid, `back at ${formatBytes(after)} free`);
  const human = `${before} bytes free before, ${after} after`;
  return say("compare_capacity", "capacity", uuid, human, { level: "error", tone: "bad" });
}

async function tryFile(stage: Stage, path: string, options: TryOptions): Promise<Tried> {
  const { vram, host } = stage;
  const before = (await vram.capacity()).bytesFree;
  const sealed = await vram.seal(path, {
    signal: host.signal,
    ...(options.expect === undefined ? {} : { expected: options.expect }),
    ...(options.name === undefined ? {} : { name: options.name }),
    ...(options.format === undefined ? {} : { format: options.format }),
  });
  let evicted: EvictResult | undefined;
  try {
    const verification = await vram.verify(sealed.record.shardId, { seal: sealed.seal, signal: host.signal });
    const tampering = options.tamper === true ? await tamper(stage, sealed) : undefined;
    evicted = await vram.evict(sealed.record.shardId);
    if (tampering?.caught === true) await vram.resume("vram try flipped this bit itself and caught it");
    const after = (await vram.capacity()).bytesFree;
    stage.narration.tell(capacityLine(sealed.record.device.uuid, before, after));
    return { path, sealed, verification, ...(tampering === undefined ? {} : { tampering }), evicted };
  } finally {
    if (evicted === undefined) await vram.evict(sealed.record.shardId).catch(() => undefined);
  }
}

function conclude(stage: Stage, tried: readonly Tried[], options: TryOptions): number {
  const { host, open, narration } = stage;
  narration.end();
  const missed = tried.filter((one) => one.tampering?.caught === false);
  const { backend } = open.decision;
  const evidence = evidenceOf(backend);
  if (options.json === true) {
    printJson(host, "try", { ok: missed.length === 0, backend: open.decision, evidence, files: tried });
  } else if (missed.length > 0) {
    host.out(`NOT caught: a flipped bit passed verification in ${missed.map((one) => one.path).join(", ")}\n`);
  } else {
    const caught = options.tamper === true ? " The flipped bit was caught and named." : "";
    host.out(`Sealed, verified and evicted.${caught}\n${evidence}.\n`);
  }
  return missed.length === 0 ? EXIT.ok : EXIT.mismatch;
}

/** Runs the command. */
export async function runTry(host: Host, files: readonly string[], options: TryOptions): Promise<number> {
  const metrics = await openMetricsFile(host, options.metrics);
  try {
    return await metrics.finish(await tryFiles(host, files, options, metrics.readers));
  } catch (thrown) {
    await metrics.finish(exitCodeFor(thrown));
    throw thrown;
  }
}

async function tryFiles(
  host: Host,
  files: readonly string[],
  options: TryOptions,
  readers: readonly JournalReader[],
): Promise<number> {
  const json = options.json === true;
  const members = (await Promise.all(files.map((file) => expandSource(file, ["/"], nodeFileSystem)))).flat();
  if (members.length > 1 && (options.expect !== undefined || options.name !== undefined)) {
    throw new VramError("INVALID_ARGUMENT", "--expect and --name belong to a single file");
  }
  const narration = await openNarration(host, options);
  narration.begin("vram try");
  const open = await openSystem({
    ...optionsFromEnvironment(host.env),
    readers: [narration.reader, ...readers],
    ...(options.stateDir === undefined ? {} : { stateDir: options.stateDir }),
    ...(options.backend === undefined ? {} : { backend: options.backend }),
  });
  const vram = createVram(open);
  const stage: Stage = { host, vram, open, narration };
  try {
    const { backend } = open.decision;
    if (backend !== "cuda") {
      narration.tell(say("warn_backend", "backend", backend, evidenceOf(backend), { level: "warn" }));
    }
    const tried: Tried[] = [];
    for (const member of members) tried.push(await tryFile(stage, member, options));
    // Told to its end before the verdict.
    await vram.close();
    return conclude(stage, tried, options);
  } catch (thrown) {
    if (!json) throw thrown;
    printJson(host, "try", { ok: false, backend: open.decision, error: toVramError(thrown) });
    return exitCodeFor(thrown);
  } finally {
    await vram.close();
  }
}
