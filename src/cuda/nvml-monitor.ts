/**
 * NVML at arm's length: processes of their own that are asked about GPUs (`nvml-link.ts`). A sick GPU costs a reader the
 * deadline, never more. Health and evidence have a process each: a report takes the GPU seconds, or for ever, and who
 * reads health neither waits for that nor goes without when its process is killed.
 */
import { z } from "zod";
import { requireInteger } from "../assert.ts";
import { fromHex, toHex } from "../bytes.ts";
import { type Clock, systemClock } from "../clock.ts";
import { Mutex } from "../dispose.ts";
import { LIMITS } from "../limits.ts";
import { EVIDENCE_BYTES, type GpuEvidence, type GpuHealth, type GpuMonitor } from "./monitor.ts";
import { type NvmlStart, openNvmlLink } from "./nvml-link.ts";
import type { NvmlReply } from "./nvml-serve.ts";

export interface NvmlMonitorOptions {
  /** `libnvidia-ml.so.1`, as the loader finds it, or a path. */
  readonly library: string;
  /** The whole environment of the processes, handed over at their start; default empty. `LD_LIBRARY_PATH` may matter. */
  readonly env?: Readonly<Record<string, string>>;
  /**
   * How long a reader waits, in milliseconds; default 2000, and 10,000 for the first answer of a process. For evidence
   * 10,000 and 20,000, once it is its turn.
   */
  readonly deadlineMs?: number;
  /** The file of the processes; only tests name another. */
  readonly entry?: URL;
  /** For the back-off; deadlines are timers of the event loop. */
  readonly clock?: Pick<Clock, "monotonicMs">;
}

/** Xids are events, told once: those that earlier processes were told are kept here, by UUID. */
function openXidHistory() {
  const earlier = new Map<string, readonly number[]>();
  const latest = new Map<string, readonly number[]>();
  const all = (uuid: string): readonly number[] =>
    [...(earlier.get(uuid) ?? []), ...(latest.get(uuid) ?? [])].slice(-LIMITS.nvmlXids);
  return {
    /** The answer of the process that runs now, with what came before it. */
    complete: (uuid: string, health: GpuHealth): GpuHealth => {
      if (health.xids === undefined) return health;
      latest.set(uuid, health.xids);
      return { ...health, xids: all(uuid) };
    },
    /** The process has ended. */
    keep: (): void => {
      for (const uuid of latest.keys()) earlier.set(uuid, all(uuid));
      latest.clear();
    },
  };
}

/** A part of the evidence, no longer than NVML has room for. */
const part = (maxBytes: number) =>
  z
    .string()
    .max(2 * maxBytes)
    .regex(/^([0-9a-f]{2})*$/)
    .transform((text) => fromHex(text, text.length / 2, "evidence"));

const evidenceSchema = z.strictObject({
  report: part(EVIDENCE_BYTES.report),
  cecReport: part(EVIDENCE_BYTES.cecReport).exactOptional(),
  certificateChain: part(EVIDENCE_BYTES.certificateChain),
  attestationCertificateChain: part(EVIDENCE_BYTES.attestationCertificateChain),
});

/** What is not evidence is none. */
const evidenceOf = (reply: NvmlReply): GpuEvidence | undefined =>
  reply.kind === "evidence" ? evidenceSchema.safeParse(reply.evidence).data : undefined;

/** Asks for evidence, one report at a time: a deadline counts the work of one, and not the queue. */
function openEvidence(start: NvmlStart, deadlineMs: number | undefined) {
  const link = openNvmlLink<GpuEvidence | undefined>({
    ...start,
    deadlineMs: deadlineMs ?? LIMITS.nvmlEvidenceMs,
    firstMs: deadlineMs ?? LIMITS.nvmlStartMs + LIMITS.nvmlEvidenceMs,
    absent: undefined,
    answerOf: evidenceOf,
  });
  const turn = new Mutex();
  let asking = 0;
  return {
    read: async (uuid: string, nonce: Uint8Array): Promise<GpuEvidence | undefined> => {
      // As many as there may be GPUs. After three that hang, the others are not asked at all.
      if (nonce.byteLength !== EVIDENCE_BYTES.nonce || asking >= LIMITS.devicesListed) return undefined;
      const question = { kind: "evidence", uuid, nonce: toHex(nonce) } as const;
      asking += 1;
      const answer = await turn.run(() => link.ask(question));
      asking -= 1;
      return answer;
    },
    close: () => link.close(),
  };
}

/**
 * Opens a monitor of the GPUs of this machine. Nothing is started before the first read. Readers of one GPU share a
 * request; a request that is not answered in time ends the process, and with it all others of its kind under way. Our
 * own process is not listed among `processes`. Throws `INVALID_ARGUMENT` for a deadline outside 1 ms to 10 min.
 */
export function openNvmlMonitor(options: NvmlMonitorOptions): GpuMonitor {
  const { library, env = {}, clock = systemClock } = options;
  const deadlineMs =
    options.deadlineMs === undefined ? undefined : requireInteger(options.deadlineMs, "deadlineMs", 1, 600_000);
  const start = { library, env, clock, entry: options.entry ?? new URL("./nvml-process.js", import.meta.url) };
  const history = openXidHistory();
  const health = openNvmlLink<GpuHealth>({
    ...start,
    deadlineMs: deadlineMs ?? LIMITS.nvmlDeadlineMs,
    firstMs: deadlineMs ?? LIMITS.nvmlStartMs,
    absent: {},
    answerOf: (reply, uuid) => {
      if (reply.kind !== "health") return {};
      const { processes, ...rest } = history.complete(uuid, reply.health);
      const others = processes?.filter(({ pid }) => pid !== process.pid);
      return others === undefined ? rest : { processes: others, ...rest };
    },
    onEnd: history.keep,
  });
  const evidence = openEvidence(start, deadlineMs);
  return {
    read: (uuid) => health.ask({ kind: "health", uuid }),
    evidence: evidence.read,
    close: async () => {
      await Promise.all([health.close(), evidence.close()]);
    },
  };
}
