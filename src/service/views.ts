/** What a service shows of itself: whether it is ready, and its audit log. */

import { join } from "node:path";
import { findTail, followLog } from "../audit/log-tail.ts";
import { readWhole } from "../audit/segments.ts";
import { CHECKPOINT_FILE } from "../audit/stored-checkpoints.ts";
import { encodeProofFile } from "../audit/tlog-proof.ts";
import { evidenceOf } from "../device/detect.ts";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { recordOf } from "../residency/shard.ts";
import { VERSION } from "../version.ts";
import type { Parts } from "./parts.ts";
import type { DeviceState, Readiness } from "./replies.ts";
import type { Service } from "./service.ts";

/** What changes in a service as a whole. */
export interface ServiceView {
  phase: Readiness["state"];
  readonly startedAtMs: number;
  /** Stopped at once: nothing is given back, and nothing more is put on record. */
  isAbandoned: boolean;
}

type Views = Pick<Service, "ready" | "isReady" | "logCheckpoint" | "logLines" | "logProof">;

const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString("utf8");

/** Why the service is not ready; none if it is. */
function reasonsOf({ open, keeper }: Parts, { phase }: ServiceView, devices: readonly DeviceState[]): string[] {
  const shards = open.system.registry.all();
  return [
    ...(phase === "running" ? [] : [`the service is ${phase}`]),
    ...keeper.missing().map(({ name, state, reason }) => `${name} is not resident: ${reason ?? state}`),
    ...shards.filter(({ state }) => state !== "sealed").map(({ seal, state }) => `${seal.name} is ${state}`),
    ...devices
      .filter(({ state }) => state !== "running")
      .map(({ ordinal, state, reason }) => `device ${ordinal} is ${state}${reason === undefined ? "" : `: ${reason}`}`),
  ];
}

/** The views of a service. `folder` is that of its audit log. */
export function viewsOf(parts: Parts, view: ServiceView, folder: string | undefined): Views {
  const { open, keeper, devices, values } = parts;
  const { system, decision, logKey } = open;
  const noLog = (): never => {
    throw new VramError("REQUEST_REFUSED", "this service keeps no audit log", {
      fix: "set audit.mode to required",
      details: { status: 404 },
    });
  };
  const requireLog = (): string => folder ?? noLog();
  return {
    isReady: () => view.phase === "running" && keeper.isComplete() && devices.allRunning(),
    ready: async () => {
      const states = await devices.states();
      const reasons = reasonsOf(parts, view, states);
      return {
        ready: reasons.length === 0,
        state: view.phase,
        reasons,
        version: VERSION,
        instanceId: system.instanceId,
        startedAt: new Date(view.startedAtMs).toISOString(),
        backend: decision.backend,
        because: decision.because,
        evidence: evidenceOf(decision.backend),
        audit: { mode: values["audit.mode"], ...(logKey === undefined ? {} : { logKey }) },
        shards: system.registry.all().map(recordOf),
        missing: [...keeper.missing()],
        devices: [...states],
      };
    },
    logCheckpoint: async () => {
      const note = await readWhole(join(requireLog(), CHECKPOINT_FILE), LIMITS.noteBytes);
      if (note !== undefined) return textOf(note);
      throw new VramError("AUDIT_UNAVAILABLE", "there is no log checkpoint yet", { fix: "try again in a second" });
    },
    logLines: async (last) => {
      const place = requireLog();
      const follower = followLog(place, await findTail(place, last));
      const lines: string[] = [];
      while (lines.length < last) {
        const more = await follower.read();
        if (more.length === 0) break;
        lines.push(...more.slice(0, last - lines.length).map(textOf));
      }
      return lines;
    },
    logProof: async (seq) => {
      const { prover } = parts.attesting ?? noLog();
      const proved = await prover.prove(seq);
      if (proved.ok) return textOf(encodeProofFile(proved));
      throw new VramError("STATE_INVALID", `no proof: ${proved.message}`, {
        fix: "`vram audit verify` says what is wrong with the log",
      });
    },
  };
}
