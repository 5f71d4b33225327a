/**
 * The client in Python (clients/python), by its own tests: against a fake service, over the fake libcuda with memory of
 * another process, and against `vram serve`. What it has in common with the TypeScript side is held against that.
 */
import { execFile, execFileSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { EXIT, exitCodeFor } from "../../src/cli/exit.ts";
import { defaultSocket } from "../../src/config/places.ts";
import { ERROR_TABLE, type ErrorCode, VramError } from "../../src/errors.ts";
import { MEMFD_SEALS } from "../../src/ffi/memory.ts";
import { LIMITS } from "../../src/limits.ts";
import { ATTACH_SUFFIX, PROTOCOL_VERSION } from "../../src/service/attach/protocol.ts";
import { buildFakeCuda } from "../helpers/fake-cuda.ts";
import { makeHome, startService } from "../helpers/service-run.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const CLIENT = join(ROOT, "clients/python");

type Env = Readonly<Record<string, string>>;

/** What Python says, or undefined if it says that it cannot. */
function pythonSays(program: string, env: Env = {}): string | undefined {
  try {
    return execFileSync("python3", ["-B", "-c", program], {
      env: { PATH: process.env["PATH"], PYTHONPATH: CLIENT, ...env },
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    });
  } catch {
    return undefined;
  }
}

const hasPython = pythonSays("import sys; assert sys.version_info >= (3, 9)") !== undefined;
const hasNumpy = pythonSays("import numpy") !== undefined;
const fake = buildFakeCuda();
const [library, whyNoFake] = "reason" in fake ? ["", ` (${fake.reason})`] : [fake.library, ""];

/** Runs one class of the Python tests. */
function runTests(name: string, env: Env = {}): Promise<void> {
  return new Promise((resolve, reject) => {
    const args = ["-B", "-X", "faulthandler", join(CLIENT, "test_vram_residency.py"), "-v", name];
    const childEnv = { PATH: process.env["PATH"], TMPDIR: process.env["TMPDIR"], ...env };
    execFile("python3", args, { cwd: ROOT, env: childEnv }, (error, out, err) => {
      const isWhole = error === null && /^OK$/m.test(err) && /^Ran [1-9]/m.test(err);
      if (isWhole) resolve();
      else reject(new Error(`${name}:\n${out}${err}`, { cause: error }));
    });
  });
}

describe.skipIf(!hasPython)(`the client in Python${hasPython ? "" : " (no python3 of 3.9 or newer)"}`, () => {
  it.each([
    ["attaches, and is refused", "Attaching"],
    ["takes nothing that is not of the protocol, and keeps no descriptor of it", "Protocol"],
    ["[VR-API-05] maps only what nobody can change, and for reading", "Memory"],
    ["hears that a lease has ended", "Events"],
    ["finds the service", "Places"],
    ["is a command", "CommandLine"],
    ["loads tensors for PyTorch, on host memory", "PyTorchExample"],
  ])("%s", (_, name) => runTests(name));

  it.skipIf(!hasNumpy)(`is read by NumPy in place${hasNumpy ? "" : " (no python3-numpy)"}`, () => runTests("NumPy"));

  it.skipIf(library === "").each([
    ["[VR-API-05] maps memory of another process for reading, and leaves nothing where that fails", "Cuda"],
    ["loads tensors for PyTorch, on a GPU", "PyTorchExampleOnCuda"],
  ])(`%s${whyNoFake}`, (_, name) => runTests(name, { VRAM_TEST_LIBCUDA: library }));

  it("has the numbers of the service", () => {
    const names = ["PROTOCOL_VERSION", "ATTACH_SUFFIX", "MAX_MESSAGE_BYTES", "MEMFD_SEALS", "EXIT_CODES"];
    const said = pythonSays(
      `import json, vram_residency as v; print(json.dumps([${names.map((n) => `v.${n}`).join()}]))`,
    );
    const exits = Object.fromEntries(
      (Object.keys(ERROR_TABLE) as ErrorCode[])
        .map((code) => [code, exitCodeFor(new VramError(code, ""))] as const)
        .filter(([, exit]) => exit !== EXIT.error),
    );
    const [version, suffix, bytes, seals, codes] = JSON.parse(said ?? "null") as unknown[];
    expect([version, suffix]).toEqual([PROTOCOL_VERSION, ATTACH_SUFFIX]);
    expect([bytes, seals]).toEqual([LIMITS.attachReplyBytes, MEMFD_SEALS]);
    expect(codes).toEqual(exits);
  });

  it("finds the socket where the command line does", async () => {
    const folder = await temporaryFolder();
    const uid = process.getuid?.() ?? 0;
    for (const env of [{ XDG_RUNTIME_DIR: folder }, { XDG_RUNTIME_DIR: "no" }, { TMPDIR: folder }, {}] as Env[]) {
      const exists = (): boolean => false;
      const place = { env, cwd: ROOT, uid, exists, realpath: () => undefined };
      // Whether the machine has a service of its own is not ours to say.
      const program = `
import os, vram_residency as v
os.path.exists = lambda path: False
print(v.service_socket(), end="")`;
      expect(pythonSays(program, env)).toBe(defaultSocket(place));
    }
  });

  const attachToService = async (args: readonly string[], env: Env): Promise<void> => {
    const home = await makeHome();
    const service = await startService(home, { args });
    const path = join(home.folder, "model.safetensors");
    execFileSync(process.execPath, [join(ROOT, "scripts/make-model.mjs"), path, "--mib", "2"]);
    const { result } = await service.client.seal({ path, name: "model", wait: true });
    const digest = result?.shards[0]?.record.digest ?? expect.fail("it is sealed");
    await runTests("Live", { ...env, VRAM_TEST_SOCKET: home.socket, VRAM_TEST_FILE: path, VRAM_TEST_DIGEST: digest });
    await service.entry("export_ended", undefined, 2);
    expect(service.of("shard_exported")).toHaveLength(2);
  };

  it("[VR-API-05] attaches to a service with an emulated device", () => attachToService([], {}));

  it.skipIf(library === "")(`[VR-API-05] attaches to a service over the fake libcuda${whyNoFake}`, () =>
    attachToService(["--set", "backend=cuda", "--set", `libcuda=${library}`], {
      ...{ VRAM_LIBCUDA: library, VRAM_TEST_LIBCUDA: library },
    }),
  );
});
