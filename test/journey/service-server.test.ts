/** The listeners of a service: where they may be, what they leave behind, and how they end. */
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { chmod, chown, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import https from "node:https";
import { createServer, type Socket } from "node:net";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { openServer, type ServerOptions, type ServerValues } from "../../src/service/http/server.ts";
import type { Plan } from "../../src/service/replies.ts";
import { createFakeService } from "../helpers/fake-service.ts";
import { ask, begin, bearer, open, openTestServer, readAll, readText, serverValues, UID, USE } from "../helpers/http.ts";
import { codeOf, temporaryFolder } from "../helpers/vram.ts";

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );
const modeOf = async (path: string): Promise<string> => ((await stat(path)).mode & 0o777).toString(8);
const own = { uid: process.getuid?.() ?? 0 };

function optionsOf(values: ServerValues, more: Partial<ServerOptions> = {}): ServerOptions {
  return {
    ...{ service: createFakeService(), tokens: { check: async () => undefined }, values },
    ...{ peerOf: () => own, uid: own.uid, groupId: undefined, report: () => undefined, ...more },
  };
}

/** A value to be given later, and whether it was asked for. */
function deferred<T>() {
  let resolve: (value: T) => void = () => undefined;
  const promise = new Promise<T>((done) => {
    resolve = done;
  });
  return { promise, resolve: (value: T) => resolve(value) };
}

/** A certificate for 127.0.0.1, made by openssl. */
async function certificate(): Promise<{ readonly certFile: string; readonly keyFile: string }> {
  const folder = await temporaryFolder();
  const [certFile, keyFile] = [join(folder, "cert.pem"), join(folder, "key.pem")];
  const subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"];
  const made = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"];
  execFileSync("openssl", ["req", ...made, ...subject, "-keyout", keyFile, "-out", certFile], { stdio: "ignore" });
  await chmod(keyFile, 0o600);
  return { certFile, keyFile };
}

describe("the socket's file", () => {
  it("[VR-API-02] is this user's alone, in a folder that is, and is gone afterwards", async () => {
    const { socketPath, server } = await openTestServer({}, own);
    expect([await modeOf(dirname(socketPath)), await modeOf(socketPath)]).toEqual(["700", "600"]);
    await server.close();
    await server.close();
    expect(await exists(socketPath)).toBe(false);
  });

  it("[VR-API-02] is shared with a group that the configuration names", async () => {
    const groupId = process.getgid?.() ?? 0;
    const { socketPath } = await openTestServer({}, { ...own, groupId });
    expect([await modeOf(dirname(socketPath)), await modeOf(socketPath)]).toEqual(["750", "660"]);
    expect((await stat(socketPath)).gid).toBe(groupId);
  });

  it("replaces what a dead service left", async () => {
    const values = await serverValues();
    await mkdir(dirname(values.socket), { mode: 0o700 });
    // A service that is killed does not remove it.
    execFileSync(process.execPath, [
      "-e",
      `require("net").createServer().listen(${JSON.stringify(values.socket)}, () => process.kill(process.pid, "SIGKILL"))`,
    ].slice(0), { stdio: "ignore" } as const);
  }, 0);
});
