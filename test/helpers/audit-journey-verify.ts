/** What verifying must put into the audit log: that it passed, each way in which it fails, and nothing where nothing was measured. */
import { createSecretKey } from "node:crypto";
import { truncate, writeFile } from "node:fs/promises";
import { toHex } from "../../src/bytes.ts";
import type { Seal } from "../../src/seal/encoding.ts";
import { deriveWorkerKeys } from "../../src/seal/key.ts";
import { createSeal } from "../../src/seal/seal.ts";
import { DIGEST, FIGURE, MODEL, type Row, SHARD_ID, type Stage, sealModel, TEXT, told } from "./audit-journey.ts";
import { buildSafetensors } from "./model-files.ts";
import { digestOf } from "./reference.ts";
import { MIB } from "./vram.ts";

const { verified, failed, refused, violated, workerStopped } = told;
const RANGE = MIB / 2;
const SALT = "ab".repeat(16);
const verifyModel = ({ vram }: Stage) => vram.verify("m");

const WORKS: readonly Row[] = [
  { path: "a fresh measurement", before: (stage) => sealModel(stage), act: verifyModel, ends: "ok", lines: [verified()] },
  {
    path: "a fresh measurement, with the seal handed in",
    act: async (stage) => {
      const { seal } = await sealModel(stage);
      return stage.vram.verify("m", { seal });
    },
    ends: "ok",
    calls: 2,
    lines: [told.allocated(), told.sealed(), verified()],
  },
  {
    path: "a salted measurement",
    before: (stage) => sealModel(stage),
    act: ({ vram }) => vram.verify("m", { salt: SALT, maxAgeMs: 60_000 }),
    ends: "ok",
    lines: [verified({ salt: SALT, saltedDigest: toHex(digestOf(MODEL, Buffer.from(SALT, "hex"))) })],
  },
  {
    path: "a measurement that is fresh enough: none, and no line",
    before: (stage) => sealModel(stage),
    act: ({ vram }) => vram.verify("m", { maxAgeMs: 60_000 }),
    ends: "ok",
    lines: [],
  },
];
