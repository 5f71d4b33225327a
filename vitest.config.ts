import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

// One project per tier of tests (STYLE.md). The GPU suite comes last, after all others (VR-PRF-02).
const tier = (name: string, extra: object = {}) => ({
  test: { name, include: [`test/${name}/**/*.test.ts`], testTimeout: 60_000, hookTimeout: 60_000, ...extra },
});

export default defineConfig({
  test: {
    passWithNoTests: true,
    // One worker, which is the default on two cores, leaves them idle while tests wait for processes and disks.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    projects: [
      tier("unit"),
      tier("property", { testTimeout: 300_000 }),
      tier("journey", { testTimeout: 300_000 }),
      tier("crash", { globalSetup: "test/crash/global-setup.ts", testTimeout: 120_000 }),
      // Processes, not threads: libc sees `process.env` of the main thread only.
      tier("border", { globalSetup: "test/border/global-setup.ts", pool: "forks" }),
      // One after the other: they count the bytes that are free on one GPU.
      tier("device", { pool: "forks", fileParallelism: false, testTimeout: 300_000, sequence: { groupOrder: 1 } }),
    ],
    coverage: {
      provider: "v8",
      include: ["src/**/*.ts"],
      // Entry files of threads and processes: at most 15 lines, run only on dist (a house rule checks both).
      exclude: [
        "src/hash/pool-thread.ts",
        "src/cuda/nvml-process.ts",
        "src/process/device-process.ts",
        "src/cli/bin.ts",
      ],
      reporter: ["text-summary", "json-summary", "json"],
      // What reads, hashes and judges bytes: no branch of it that no test takes.
      thresholds: {
        lines: 95,
        branches: 90,
        "src/source/**": { branches: 100 },
        "src/hash/**": { branches: 100 },
        "src/seal/**": { branches: 100 },
      },
    },
  },
});
