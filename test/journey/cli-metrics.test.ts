/** `vram try --metrics FILE`: what may stand at FILE, found out before anything is sealed, and never destroyed. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { describe, expect, it } from "vitest";
import { type CliResult, vram } from "../helpers/cli.ts";
import { BIN, canMakeNodes, canMount, makeNode, shellOnDisk, vramUnprivileged } from "../helpers/cli-process.ts";
import { randomFile, temporaryFolder } from "../helpers/vram.ts";

const FIGURES = /^vram_residency_service_info\{.*\} 1$/m;

async function tryWith(metrics: string, ...more: string[]): Promise<CliResult> {
  const { path } = await randomFile(5000);
  return vram(["try", "--metrics", metrics, ...more, path]);
}

/** It was refused before anything was done, and says why in one line that names what was given. */
function expectRefused({ code, out, err }: CliResult, metrics: string, why: string): void {
  expect(out).toBe("");
  expect(code).toBe(2);
  expect(err).toContain(`error INVALID_ARGUMENT: --metrics: ${metrics}: ${why}`);
  expect(err).not.toContain('"action"');
  expect(err).not.toContain(".tmp");
}

/** Writes to a pipe until it takes no more. Returns the number of bytes. */
function fillPipe(fd: number): number {
  for (let byteLength = 0; ; byteLength += 4096) {
    try {
      writeSync(fd, "x".repeat(4096));
    } catch {
      return byteLength;
    }
  }
}

describe("vram try --metrics", () => {
  it("makes the file, replaces it as a whole, and writes it also when the run failed", async () => {
    const folder = await temporaryFolder();
    const metrics = join(folder, "vram.prom");
    expect(await tryWith(metrics)).toMatchObject({ code: 0 });
    expect(readFileSync(metrics, "utf8")).toMatch(FIGURES);
    expect(statSync(metrics).mode & 0o777).toBe(0o644);
    writeFileSync(metrics, "old");
    expect(await tryWith(metrics, "--expect", "0".repeat(64))).toMatchObject({ code: 3 });
    expect(readFileSync(metrics, "utf8")).toMatch(FIGURES);
    expect(readdirSync(folder)).toEqual(["vram.prom"]);
  });

  it("writes to where a link leads, and the link stays", async () => {
    const folder = await temporaryFolder();
    mkdirSync(join(folder, "there"));
    writeFileSync(join(folder, "there/vram.prom"), "old");
    const link = join(folder, "link");
    symlinkSync("there/vram.prom", link);
    expect(await tryWith(link)).toMatchObject({ code: 0 });
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(readFileSync(join(folder, "there/vram.prom"), "utf8")).toMatch(FIGURES);
    symlinkSync("nowhere", join(folder, "dangling"));
    const dangling = join(folder, "dangling");
    expectRefused(await tryWith(dangling), dangling, "the link leads nowhere");
    expect(readdirSync(folder).toSorted()).toEqual(["dangling", "link", "there"]);
  });

  it("refuses folders, sockets and places that are not there, before it seals", async () => {
    const folder = await temporaryFolder();
    expectRefused(await tryWith(folder), folder, "it is a directory");
    const absent = join(folder, "none/vram.prom");
    expectRefused(await tryWith(absent), absent, "its folder does not exist");
    const stateDir = join(folder, "state");
    expectRefused(await tryWith(absent, "--state-dir", stateDir), absent, "its folder does not exist");
    expect(existsSync(stateDir)).toBe(false);
    writeFileSync(join(folder, "file"), "");
    const under = join(folder, "file/vram.prom");
    expectRefused(await tryWith(under), under, "ENOTDIR");
    expectRefused(await tryWith(`${folder}/new/`), `${folder}/new/`, "it ends like the name of a directory");
    expect((await tryWith("")).err).toContain("--metrics must name a file");
    const server = createServer().listen(join(folder, "socket"));
    await once(server, "listening");
    expectRefused(await tryWith(join(folder, "socket")), join(folder, "socket"), "it is a socket");
    server.close();
  });

  it("prints one JSON document, also when it refuses", async () => {
    const { out, code } = await tryWith("/nowhere/at/all", "--json");
    expect(code).toBe(2);
    expect(JSON.parse(out)).toMatchObject({ ok: false, error: { code: "INVALID_ARGUMENT" } });
  });
});

describe("vram try --metrics into a FIFO", () => {
  it("writes to whoever reads there", async () => {
    const fifo = join(await temporaryFolder(), "fifo");
    execFileSync("mkfifo", [fifo]);
    const reader = spawn("sh", ["-c", 'exec 3< "$0"; echo open >&2; cat <&3', fifo]);
    // A shell opens a FIFO once there is somebody at its other end: us, for a moment.
    const writer = spawn("sh", ["-c", 'exec 3> "$0"; cat', fifo]);
    const read = text(reader.stdout);
    await once(reader.stderr, "data");
    expect(await tryWith(fifo)).toMatchObject({ code: 0 });
    writer.stdin.end();
    expect(await read).toMatch(FIGURES);
    expect(lstatSync(fifo).isFIFO()).toBe(true);
  });

  it("waits for a reader that is slow", async () => {
    const fifo = join(await temporaryFolder(), "fifo");
    execFileSync("mkfifo", [fifo]);
    const { path } = await randomFile(5000);
    const both = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK);
    const byteLength = fillPipe(both);
    const child = spawn(process.execPath, [BIN, "try", "--quiet", "--backend", "emulated", "--metrics", fifo, path], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const ended = once(child, "exit");
    // The verdict comes before the figures, for which there is no room yet.
    await once(child.stdout, "data");
    const reader = spawn("cat", [fifo]);
    await once(reader.stdout, "readable");
    closeSync(both);
    const read = await text(reader.stdout);
    expect(await ended).toEqual([0, null]);
    expect(read.slice(0, byteLength)).toBe("x".repeat(byteLength));
    expect(read.slice(byteLength)).toMatch(FIGURES);
  });

  it("without a reader refuses at once", async () => {
    const fifo = join(await temporaryFolder(), "fifo");
    execFileSync("mkfifo", [fifo]);
    expectRefused(await tryWith(fifo), fifo, "nobody reads from this FIFO");
    expect(lstatSync(fifo).isFIFO()).toBe(true);
  });
});

describe.skipIf(!canMakeNodes)("vram try --metrics into a device", () => {
  it("writes there, and the node stays", async () => {
    const node = join(await temporaryFolder(), "null");
    makeNode(node, "null");
    expect(await tryWith(node)).toMatchObject({ code: 0 });
    expect(lstatSync(node).isCharacterDevice()).toBe(true);
  });

  it("that takes nothing ends with exit 1, or with that of the run, one document and a word", async () => {
    const node = join(await temporaryFolder(), "full");
    makeNode(node, "full");
    const { code, out, err } = await tryWith(node, "--json");
    expect(code).toBe(1);
    expect(JSON.parse(out)).toMatchObject({ ok: true });
    expect(err).toContain(`error --metrics: ${node} could not be written: ENOSPC: no space left on device\nfix   make`);
    const failed = await tryWith(node, "--expect", "0".repeat(64));
    expect(failed.code).toBe(3);
    expect(failed.err).toContain("error --metrics: ");
    expect(failed.err).toContain("error DIGEST_MISMATCH: ");
    expect(lstatSync(node).isCharacterDevice()).toBe(true);
  });
});

describe.skipIf(!canMount)("vram try --metrics where it may not write", () => {
  it("says so before it seals: no right, and a file system that is read-only", async () => {
    const { path } = await randomFile(5000);
    const folder = await temporaryFolder();
    chmodSync(folder, 0o500);
    const metrics = join(folder, "vram.prom");
    expectRefused(
      vramUnprivileged("try", "--metrics", metrics, path),
      metrics,
      "nothing can be made in its folder: EACCES: permission denied",
    );
    const script = `mount -o remount,ro . && vram try --metrics ./vram.prom "${path}"`;
    expectRefused(
      shellOnDisk(await temporaryFolder(), script),
      "./vram.prom",
      "nothing can be made in its folder: EROFS: read-only file system",
    );
  });

  it("refuses the file that its own output goes to", async () => {
    const { path } = await randomFile(5000);
    const script = `vram try --quiet --metrics /dev/stdout "${path}" > out; echo "$? $(stat -c %s out)"`;
    const { out, err } = shellOnDisk(await temporaryFolder(), script);
    expect(out).toBe("2 0\n");
    expect(err).toContain("--metrics: /dev/stdout: it is where the output of this command goes");
  });

  it("that turns out full in the end leaves the old file, and names no temporary one", async () => {
    const { path } = await randomFile(5000);
    const script = `
      echo old > vram.prom
      leave_pages 1
      vram try --quiet --metrics vram.prom "${path}"; echo "$? $(ls) $(cat vram.prom)"`;
    const { out, err } = shellOnDisk(await temporaryFolder(), script);
    expect(out).toContain("Sealed, verified and evicted.");
    expect(out).toMatch(/^1 filling\s+vram\.prom old$/m);
    expect(err).toContain("error --metrics: vram.prom could not be written: ENOSPC: no space left on device\n");
    expect(err).not.toContain(".tmp");
  });
});
