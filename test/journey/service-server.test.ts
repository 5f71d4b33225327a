/** The listeners of a service: where they may be, what they leave behind, and how they end. */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, readFile, stat, symlink, writeFile } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import https from "node:https";
import { connect, createServer } from "node:net";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { peerCredentials } from "../../src/ffi/sockets.ts";
import { openServer, type ServerOptions, type ServerValues } from "../../src/service/http/server.ts";
import { createFakeService } from "../helpers/fake-service.ts";
import { ask, bearer, open, openTestServer, readAll, readText, serverValues, UID, USE } from "../helpers/http.ts";
import { codeOf, temporaryFolder } from "../helpers/vram.ts";

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );
const modeOf = async (path: string): Promise<string> => ((await stat(path)).mode & 0o777).toString(8);

function openAt(values: ServerValues, more: Partial<ServerOptions> = {}) {
  return openServer({
    ...{ service: createFakeService(), tokens: { check: async () => undefined }, values },
    ...{ peerOf: () => ({ uid: UID }), uid: UID, groupId: undefined, report: () => undefined, ...more },
  });
}

const folderOf = async ({ socket }: ServerValues): Promise<string> => {
  await mkdir(dirname(socket), { mode: 0o700 });
  return dirname(socket);
};

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
    const { socketPath, server } = await openTestServer();
    expect([await modeOf(dirname(socketPath)), await modeOf(socketPath)]).toEqual(["700", "600"]);
    await server.close();
    await server.close();
    expect(await exists(socketPath)).toBe(false);
  });

  it("[VR-API-02] is shared with a group that the configuration names", async () => {
    const groupId = process.getgid?.() ?? 0;
    const { socketPath } = await openTestServer({}, { groupId });
    expect([await modeOf(dirname(socketPath)), await modeOf(socketPath)]).toEqual(["750", "660"]);
    expect((await stat(socketPath)).gid).toBe(groupId);
  });

  it("[VR-API-02] lets the group pass through a folder that is there already", async () => {
    const values = await serverValues();
    const folder = await folderOf(values);
    const groupId = process.getgid?.() ?? 0;
    await (await openAt(values, { groupId })).close();
    expect([await modeOf(folder), (await stat(folder)).gid]).toEqual(["710", groupId]);
    await chmod(folder, 0o755);
    await (await openAt(values, { groupId })).close();
    expect(await modeOf(folder)).toBe("755");
  });

  it("[VR-API-02] knows who connects, as the kernel says", async () => {
    const test = await openTestServer({}, { peerOf: peerCredentials });
    expect(
      (await ask({ socketPath: test.socketPath }, "/v1/plan", { method: "POST", body: { path: "/a" } })).status,
    ).toBe(200);
    expect(test.service.calls[0]?.args[1]).toEqual({ transport: "socket", scope: "operate", name: `uid ${UID}` });
  });

  it("is no file at all if it cannot be given to the group", async () => {
    const values = await serverValues();
    await folderOf(values);
    // No group has this number: chown(2) takes it for "leave it", Node refuses it.
    expect(await codeOf(openAt(values, { groupId: -2 }))).toBe("STATE_INVALID");
    expect(await exists(values.socket)).toBe(false);
  });

  it("takes the place of one that a dead service left", async () => {
    const values = await serverValues();
    await folderOf(values);
    const script = `require("net").createServer().listen(${JSON.stringify(values.socket)}, () => process.kill(process.pid, "SIGKILL"))`;
    expect(spawnSync(process.execPath, ["-e", script]).signal).toBe("SIGKILL");
    expect(await exists(values.socket)).toBe(true);
    const server = await openAt(values);
    expect((await ask({ socketPath: values.socket }, "/healthz")).status).toBe(200);
    await server.close();
  });

  it("is left alone while a service answers there", async () => {
    const { socketPath } = await openTestServer();
    expect(await codeOf(openAt(await serverValues({ socket: socketPath })))).toBe("STATE_BUSY");
    expect((await ask({ socketPath }, "/healthz")).status).toBe(200);
  });

  it("is left alone while a service is too busy to take a connection", async () => {
    const values = await serverValues();
    await folderOf(values);
    const path = JSON.stringify(values.socket);
    // It listens, says so, and then looks after nothing; one connection waits, others are turned away by the kernel.
    const script = `require("net").createServer().listen({ path: ${path}, backlog: 1 }, () => {
      require("fs").writeSync(1, "listening");
      for (;;);
    })`;
    const busy = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "ignore"] });
    await once(busy.stdout, "data");
    const waiting = [0, 1, 2].map(() => connect(values.socket).on("error", () => undefined));
    expect(await codeOf(openAt(values))).toBe("STATE_BUSY");
    for (const socket of waiting) socket.destroy();
    busy.kill("SIGKILL");
    await once(busy, "exit");
  });

  it("is left alone if it is something else", async () => {
    const values = await serverValues();
    await folderOf(values);
    await writeFile(values.socket, "mine");
    expect(await codeOf(openAt(values))).toBe("STATE_INVALID");
    expect(await readFile(values.socket, "utf8")).toBe("mine");
    const linked = await serverValues();
    await folderOf(linked);
    await symlink("/nowhere", linked.socket);
    expect(await codeOf(openAt(linked))).toBe("STATE_INVALID");
  });

  it("does not stand where others may put another one", async () => {
    const values = await serverValues();
    await chmod(await folderOf(values), 0o777);
    expect(await codeOf(openAt(values))).toBe("STATE_INVALID");
    const file = join(await temporaryFolder(), "file");
    await writeFile(file, "");
    expect(await codeOf(openAt(await serverValues({ socket: join(file, "sub", "s.sock") })))).toBe("STATE_INVALID");
    expect(await codeOf(openAt(await serverValues({ socket: join(file, "s.sock") })))).toBe("STATE_INVALID");
  });

  it("does not stand in a folder of another user", async () => {
    const values = await serverValues();
    const folder = await folderOf(values);
    const { uid } = await stat(folder);
    // As far as it knows, this user is somebody else; root's folders are anyone's.
    const code = await codeOf(openAt(values, { uid: uid + 1 }).then((server) => server.close()));
    expect(code).toBe(uid === 0 ? "no error: undefined" : "STATE_INVALID");
  });
});

describe("TCP", () => {
  it("[VR-API-02] is loopback only, unless TLS is configured", async () => {
    for (const key of ["listen", "metricsListen"] as const) {
      const values = await serverValues({ [key]: "0.0.0.0:0" });
      expect(await codeOf(openAt(values))).toBe("INVALID_ARGUMENT");
      expect(await exists(values.socket)).toBe(false);
    }
  });

  it("is off unless it is asked for", async () => {
    const { server } = await openTestServer({ listen: "off", metricsListen: "off" });
    expect(Object.keys(server.addresses)).toEqual(["socket"]);
  });

  it("leaves nothing behind where another program listens", async () => {
    const other = createServer().listen(0, "127.0.0.1");
    await once(other, "listening");
    const address = other.address();
    const port = typeof address === "object" ? address?.port : 0;
    const values = await serverValues({ metricsListen: `127.0.0.1:${port}` });
    expect(await codeOf(openAt(values))).toBe("INVALID_ARGUMENT");
    expect(await exists(values.socket)).toBe(false);
    other.close();
  });

  it("[VR-API-02] speaks TLS with the configured certificate", async () => {
    const { certFile, keyFile } = await certificate();
    const { port, server } = await openTestServer({ "tls.certFile": certFile, "tls.keyFile": keyFile });
    const ca = await readFile(certFile);
    const request = https.get({ host: "127.0.0.1", port, path: "/v1/shards", ca, agent: false, headers: bearer(USE) });
    const [answer] = (await once(request, "response")) as [IncomingMessage];
    expect([answer.statusCode, JSON.parse(await readText(answer))]).toMatchObject([200, { backend: "emulated" }]);
    await expect(ask({ port }, "/healthz")).rejects.toThrow();
    // A client that is connected and says nothing does not hold up the end.
    const silent = await open({ host: "127.0.0.1", port });
    await server.close(0);
    await readAll(silent);
  });

  it("refuses a certificate that is none, and a key that others may read", async () => {
    const { certFile, keyFile } = await certificate();
    const code = async (cert: string | undefined, key: string | undefined): Promise<string> =>
      codeOf(openAt(await serverValues({ "tls.certFile": cert, "tls.keyFile": key })));
    expect(await code(certFile, undefined)).toBe("INVALID_ARGUMENT");
    expect(await code(undefined, keyFile)).toBe("INVALID_ARGUMENT");
    expect(await code(`${certFile}.none`, keyFile)).toBe("INVALID_ARGUMENT");
    expect(await code(certFile, `${keyFile}.none`)).toBe("INVALID_ARGUMENT");
    expect(await code(keyFile, keyFile)).toBe("INVALID_ARGUMENT");
    await chmod(keyFile, 0o644);
    expect(await code(certFile, keyFile)).toBe("STATE_INVALID");
  });

  it("has so many connections and no more", async () => {
    const { port } = await openTestServer({ "limits.connections": 2 });
    const kept = [await open({ host: "127.0.0.1", port }), await open({ host: "127.0.0.1", port })];
    expect(await readAll(await open({ host: "127.0.0.1", port }))).toBe("");
    for (const socket of kept) socket.destroy();
  });
});
