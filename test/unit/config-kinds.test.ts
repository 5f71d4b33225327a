/** Values of the configuration: sizes, durations, addresses, lists, and what the text of a variable stands for. */
import { describe, expect, it } from "vitest";
import * as kinds from "../../src/config/kinds.ts";
import { defaultSocket, defaultStateDir, userConfig } from "../../src/config/places.ts";
import { suggest } from "../../src/config/suggest.ts";
import { liesUnder } from "../../src/config/tightening.ts";
import { parseBytes, parseDuration, showBytes, showDuration } from "../../src/config/units.ts";
import { EMPTY_PLACE } from "../helpers/config.ts";

/** What a kind makes of a value in a file, and of text; undefined if it refuses. */
const ofFile = <T>(kind: kinds.Kind<T>, value: unknown): T | undefined => {
  const parsed = kind.schema.safeParse(value);
  return parsed.success ? parsed.data : undefined;
};
const ofText = <T>(kind: kinds.Kind<T>, text: string): T | undefined => ofFile(kind, kind.fromText(text, "/srv"));

/** So many values that are refused. */
const refused = (count: number): undefined[] => Array.from({ length: count }, () => undefined);

describe("[VR-IN-01] sizes and durations", () => {
  it.each([
    ["0 B", 0],
    ["64 GiB", 64 * 2 ** 30],
    ["64GiB", 64 * 2 ** 30],
    ["1.5 kB", 1500],
    ["0.5 KiB", 512],
    ["100 GB", 1e11],
    ["8191 TiB", 8191 * 2 ** 40],
  ])("%s are %d bytes", (text, value) => {
    expect(parseBytes(text)).toBe(value);
    expect(parseBytes(showBytes(value))).toBe(value);
  });

  it.each([
    "",
    "64",
    "64 gib",
    "GiB",
    "-1 B",
    "+1 B",
    "1e3 B",
    "01 B",
    "1.5 B",
    "1. kB",
    "1  B",
    " 1 B",
    "1 B ",
    "1,5 kB",
    "9000000000 TiB",
    "1 ms",
  ])("%j is no size", (text) => expect(parseBytes(text)).toBeUndefined());

  it("durations likewise", () => {
    expect(["250 ms", "15 min", "1.5 h", "2 d", "0 s"].map(parseDuration)).toEqual([
      250, 900_000, 5_400_000, 172_800_000, 0,
    ]);
    expect(["1.5 ms", "1 m", "1 hour", "1 B", "15"].map(parseDuration)).toEqual(refused(5));
    expect([0, 250, 900_000, 90_061_000].map(showDuration)).toEqual(["0 ms", "250 ms", "15 min", "90061 s"]);
    expect([0, 1023, 1024, 3000, 1e11, 2 ** 40].map(showBytes)).toEqual([
      "0 B",
      "1023 B",
      "1 KiB",
      "3 kB",
      "100 GB",
      "1 TiB",
    ]);
  });

  it("are within their bounds, and numbers are whole", () => {
    const kind = kinds.size(1, 2 ** 50);
    expect([1, "1 kB", 0, 1.5, -1, "2048 TiB", true, Number.NaN].map((value) => ofFile(kind, value))).toEqual([
      1,
      1000,
      ...refused(6),
    ]);
    expect(ofText(kind, "4096")).toBe(4096);
    expect(ofText(kind, "4 KiB")).toBe(4096);
    expect(ofText(kinds.duration(0, 1000), "1 s")).toBe(1000);
  });
});

describe("[VR-IN-01] other values", () => {
  it("booleans are words in variables, and nothing else in files", () => {
    expect(["true", "1", "false", "0", "yes", "TRUE", ""].map((text) => ofText(kinds.boolean, text))).toEqual([
      ...[true, true, false, false],
      ...refused(3),
    ]);
    expect(["true", 1].map((value) => ofFile(kinds.boolean, value))).toEqual([undefined, undefined]);
    expect(ofText(kinds.integer(0, 9), "9")).toBe(9);
    expect(["10", "09", "-1", "1.0", " 1"].map((text) => ofText(kinds.integer(0, 9), text))).toEqual(refused(5));
  });

  it("paths are absolute in files, relative to the working directory elsewhere, and have their one form", () => {
    expect(ofFile(kinds.path, "/a/../b//c/")).toBe("/b/c");
    expect(ofFile(kinds.path, "/")).toBe("/");
    expect(["a", "", "~/a", "/a\0b", `/${"a".repeat(5000)}`].map((value) => ofFile(kinds.path, value))).toEqual(
      refused(5),
    );
    expect(ofText(kinds.path, "a")).toBe("/srv/a");
    expect(ofText(kinds.path, "")).toBeUndefined();
    expect(ofFile(kinds.socketPath, `/${"a".repeat(106)}`)).toHaveLength(107);
    expect(ofFile(kinds.socketPath, `/${"a".repeat(107)}`)).toBeUndefined();
    expect(ofText(kinds.paths, "/a:b")).toEqual(["/a", "/srv/b"]);
    expect(ofText(kinds.paths, "")).toEqual([]);
    expect(ofText(kinds.paths, "/a:")).toBeUndefined();
    expect(ofFile(kinds.paths, ["/a", "/a/"])).toBeUndefined();
    expect([liesUnder("/ab", "/a"), liesUnder("/a/b", "/a"), liesUnder("/a", "/"), liesUnder("/a", "/a/b")]).toEqual([
      false,
      true,
      true,
      false,
    ]);
  });

  it.each([
    ["127.0.0.1:7790", true],
    ["127.8.8.8:1", true],
    ["[::1]:0", true],
    ["0.0.0.0:65535", false],
    ["[::]:1", false],
    ["[::ffff:127.0.0.1]:1", true],
    ["10.0.0.1:1", false],
    ["128.0.0.1:1", false],
  ])("%s is an address", (text, isLocal) => {
    const address = kinds.parseAddress(text);
    expect(address === undefined ? undefined : kinds.isLoopback(address)).toBe(isLocal);
    expect(ofFile(kinds.address, text)).toBe(text);
  });

  it.each([
    "localhost:1",
    "127.0.0.1",
    "127.1:1",
    "127.0.0.1:65536",
    "127.0.0.1:01",
    "::1:1",
    "[127.0.0.1]:1",
    "[::1%lo]:1",
    ":1",
    "",
  ])("%j is no address", (text) => expect(ofFile(kinds.address, text)).toBeUndefined());

  it("devices, groups and hosts", () => {
    const uuid = "GPU-01234567-89ab-cdef-0123-456789abcdef";
    expect(ofText(kinds.devices, `0,${uuid}`)).toEqual([0, uuid]);
    expect(["all", "", "0,0", "GPU-1", "-1", uuid.toUpperCase()].map((text) => ofText(kinds.devices, text))).toEqual([
      "all",
      ...refused(5),
    ]);
    expect(["", "gpu", "1000", "gpu users", "Ä", "-x"].map((text) => ofText(kinds.group, text))).toEqual([
      "",
      "gpu",
      1000,
      ...refused(3),
    ]);
    expect(ofText(kinds.hosts, "gpu-1,gpu-1.example")).toEqual(["gpu-1", "gpu-1.example"]);
    expect(["a:1", "a..b", "-a", "A", "ä", "a,"].map((text) => ofText(kinds.hosts, text))).toEqual(refused(6));
  });
});

describe("names", () => {
  it("that are nearly right are suggested, and others not", () => {
    const known = ["listen", "lease.maxMs", "lease.defaultMs", "audit.mode"];
    expect(
      ["lisen", "litsen", "LEASE_MAX_MS", "maxMs", "mode", "lease.maxM", "xyz", "l", "x".repeat(65)].map((name) =>
        suggest(name, known),
      ),
    ).toEqual([
      ...["listen", "listen", "lease.maxMs", "lease.maxMs", "audit.mode", "lease.maxMs"],
      ...[undefined, undefined, undefined],
    ]);
  });
});

describe("places", () => {
  it("of state and configuration follow the XDG specification, where a relative path counts as unset", () => {
    expect(defaultStateDir({ XDG_STATE_HOME: "/s", HOME: "/h" })).toBe("/s/vram-residency");
    expect(defaultStateDir({ XDG_STATE_HOME: "s", HOME: "/h" })).toBe("/h/.local/state/vram-residency");
    expect(defaultStateDir({ HOME: "h" })).toBeUndefined();
    expect(userConfig({ XDG_CONFIG_HOME: "/c" })).toBe("/c/vram-residency/config.toml");
    expect(userConfig({ HOME: "/h" })).toBe("/h/.config/vram-residency/config.toml");
    expect(userConfig({})).toBeUndefined();
  });

  it("of the socket: the session's, the machine's, a temporary one", () => {
    const at = (place: Partial<typeof EMPTY_PLACE>): string => defaultSocket({ ...EMPTY_PLACE, ...place });
    expect(at({ env: { XDG_RUNTIME_DIR: "/run/user/1000" } })).toBe("/run/user/1000/vram-residency/vram.sock");
    expect(at({ uid: 0 })).toBe("/run/vram-residency/vram.sock");
    expect(at({ exists: (path) => path === "/run/vram-residency" })).toBe("/run/vram-residency/vram.sock");
    expect(at({ env: { TMPDIR: "/var/tmp" } })).toBe("/var/tmp/vram-residency-1000/vram.sock");
    expect(at({ env: { TMPDIR: "tmp" } })).toBe("/tmp/vram-residency-1000/vram.sock");
  });
});
