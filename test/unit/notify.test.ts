/** What a service tells systemd, in words; and what it refuses to be told by the environment. */
import { describe, expect, it } from "vitest";
import { datagramsTo } from "../../src/ffi/sockets.ts";
import { createNotifier, messageOf, type Notified, statusOf } from "../../src/service/notify.ts";
import * as is from "../helpers/stub-replies.ts";
import { codeOf } from "../helpers/vram.ts";

const service = (more: Partial<Notified> = {}): Notified => ({
  list: () => is.fullListing(),
  leases: () => [is.lease()],
  isReady: () => false,
  devices: async () => [is.device()],
  ...more,
});

describe("the message", () => {
  it("has a line for each field, and one line only", () => {
    expect(messageOf({ READY: "1", STATUS: "a=b" })).toBe("READY=1\nSTATUS=a=b\n");
    expect(messageOf({ STATUS: "two\nlines" })).toBe("STATUS=two lines\n");
    expect(messageOf({})).toBe("");
  });
});

describe("the status", () => {
  it("counts what is resident and what is missing, and says how devices are, without a name", () => {
    const devices = [is.device(), is.device({ ordinal: 1, state: "stopped", reason: "llama: a mismatch" })];
    expect(statusOf(service(), devices, false)).toBe(
      "not ready; 1 shard resident, 2 missing; backend emulated, device 0 running, device 1 stopped",
    );
    const empty = service({ list: () => is.listing({ shards: [] }), isReady: () => true });
    expect(statusOf(empty, [], false)).toBe("ready; 0 shards resident, 0 missing; backend emulated");
    expect(statusOf(empty, [], true)).toMatch(/^stopping, 1 lease held; /);
  });
});

describe("the environment", () => {
  const refused = (env: Record<string, string>) => codeOf((async () => createNotifier({ env, pid: 1 }))());

  it("without NOTIFY_SOCKET asks for nothing", () => {
    expect(createNotifier({ env: { WATCHDOG_USEC: "5" }, pid: 1 })).toBeUndefined();
    expect(createNotifier({ env: { NOTIFY_SOCKET: "" }, pid: 1 })).toBeUndefined();
  });

  it("is refused where it cannot be read", async () => {
    for (const name of ["relative", "vsock:2:1234", "@", `/${"x".repeat(107)}`]) {
      expect(await refused({ NOTIFY_SOCKET: name }), name).toBe("INVALID_ARGUMENT");
    }
    for (const usec of ["soon", "-5", "0", "1.5", "9".repeat(17)]) {
      expect(await refused({ NOTIFY_SOCKET: "@x", WATCHDOG_USEC: usec }), usec).toBe("INVALID_ARGUMENT");
    }
    expect(createNotifier({ env: { NOTIFY_SOCKET: `@${"x".repeat(107)}` }, pid: 1 })).toBeDefined();
  });
});

describe("a datagram", () => {
  it("that nobody takes is not sent, and nothing else happens", () => {
    for (const name of ["/nonexistent/socket", "@vram-residency-nobody-is-here"]) {
      expect(datagramsTo(name)(Buffer.from("READY=1\n"))).toBe(false);
    }
  });
});
