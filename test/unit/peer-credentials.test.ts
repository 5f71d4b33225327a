/** Who is at the other end of a Unix socket, as the kernel says; and what is no such socket. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { openSync } from "node:fs";
import { type AddressInfo, connect, createServer, type ListenOptions, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { present } from "../../src/assert.ts";
import { peerCredentials } from "../../src/ffi/sockets.ts";
import { codeOf, temporaryFolder } from "../helpers/vram.ts";

const ends: (() => unknown)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

const fdOf = (socket: Socket): number =>
  present((socket as unknown as { _handle?: { fd?: number } })._handle?.fd, "the descriptor of a socket");

/** A server at `where`, and what connects to it. */
async function listening(where: ListenOptions): Promise<{ server: Server; connected: Promise<Socket> }> {
  // Paused: else its descriptor is closed as soon as the other end is, and may be another's.
  const server = createServer({ pauseOnConnect: true }).listen(where);
  ends.push(() => server.close());
  await once(server, "listening");
  const connected = once(server, "connection").then(([socket]) => {
    ends.push(() => (socket as Socket).destroy());
    return socket as Socket;
  });
  return { server, connected };
}

const ours = { uid: process.getuid?.(), gid: process.getgid?.() };
const peerOf = async (fd: number) => peerCredentials(fd);

describe("the peer of a Unix socket", () => {
  it("is this process at both ends of a connection to ourselves", async () => {
    const path = join(await temporaryFolder(), "socket");
    const { connected } = await listening({ path });
    const client = connect(path);
    ends.push(() => client.destroy());
    const server = await connected;
    expect(peerCredentials(fdOf(server))).toEqual({ ...ours, pid: process.pid });
    expect(peerCredentials(fdOf(client))).toEqual({ ...ours, pid: process.pid });
  });

  it("is the process that connected, and stays so when that is gone", async () => {
    const path = join(await temporaryFolder(), "socket");
    const { connected } = await listening({ path });
    const script = `require("node:net").connect(${JSON.stringify(path)})`;
    const child = spawn(process.execPath, ["-e", script], { stdio: "ignore" });
    ends.push(() => child.kill("SIGKILL"));
    const fd = fdOf(await connected);
    expect(peerCredentials(fd)).toEqual({ ...ours, pid: child.pid });
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(peerCredentials(fd)).toEqual({ ...ours, pid: child.pid });
  });

  it("is refused for whatever is no Unix socket: the kernel answers for TCP, too, with nobody", async () => {
    const { server, connected } = await listening({ port: 0, host: "127.0.0.1" });
    const client = connect((server.address() as AddressInfo).port, "127.0.0.1");
    ends.push(() => client.destroy());
    expect(await codeOf(peerOf(fdOf(await connected)))).toBe("INVALID_ARGUMENT");
    const file = openSync("/dev/null", "r");
    expect(await codeOf(peerOf(file))).toBe("INVALID_ARGUMENT");
    for (const fd of [-1, 1.5, 2 ** 20]) expect(await codeOf(peerOf(fd))).toBe("INVALID_ARGUMENT");
  });
});
