/** The root key as a file of the state, and as a credential of the service manager. */
import { chmod, chown, mkdir, readFile, rm, symlink, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openStateDirectory } from "../../src/residency/state.ts";
import { makeHome, openTestService } from "../helpers/service.ts";
import { codeOf, temporaryFolder } from "../helpers/vram.ts";

const KEY = "0123456789abcdef".repeat(4);
const OTHER = "f".repeat(64);
const UUID = "EMU-00000000-0000-4000-8000-000000000001";

async function places(credential?: string) {
  const folder = await temporaryFolder();
  const [state, credentials] = [join(folder, "state"), join(folder, "credentials")];
  await mkdir(credentials, { mode: 0o700 });
  const file = join(credentials, "vram-residency.root.key");
  if (credential !== undefined) await writeFile(file, credential, { mode: 0o400 });
  return { state, credentials, file };
}

/** The digits of the key that a state has. */
async function keyOf(state: string, credentials?: string): Promise<string> {
  const store = await openStateDirectory(state, credentials);
  await store.close();
  return store.rootKey.export().toString("hex");
}

describe("the root key", () => {
  it("[VR-SEAL-03] is the credential where there is one, and is not copied into the state", async () => {
    const { state, credentials } = await places(KEY);
    expect(await keyOf(state, credentials)).toBe(KEY);
    await expect(readFile(join(state, "root.key"))).rejects.toThrow("ENOENT");
  });

  it("is made in the state where there are no credentials, or none of that name", async () => {
    for (const given of [undefined, (await places()).credentials, "/nonexistent"]) {
      const { state } = await places();
      const key = await keyOf(state, given);
      expect(await readFile(join(state, "root.key"), "utf8")).toBe(key);
    }
  });

  it("may be both, if they are equal; else neither is taken", async () => {
    const { state, credentials } = await places(KEY);
    await mkdir(state, { mode: 0o700 });
    await writeFile(join(state, "root.key"), KEY.toUpperCase(), { mode: 0o600 });
    expect(await keyOf(state, credentials)).toBe(KEY);
    await writeFile(join(state, "root.key"), OTHER);
    expect(await codeOf(keyOf(state, credentials))).toBe("STATE_INVALID");
  });

  it("is not replaced where the credential of a state is missing", async () => {
    const { state, credentials, file } = await places(KEY);
    const store = await openStateDirectory(state, credentials);
    await store.bind("emulated", [UUID]);
    await store.close();
    await unlink(file);
    for (const given of [credentials, undefined]) expect(await codeOf(keyOf(state, given))).toBe("STATE_INVALID");
    await expect(readFile(join(state, "root.key"))).rejects.toThrow("ENOENT");
  });

  it.each([
    ["what others may read", (file: string) => chmod(file, 0o444)],
    ["what a group may write to", (file: string) => chmod(file, 0o460)],
    ["a link", async (file: string) => rm(file).then(() => symlink("/dev/zero", file))],
    ["a folder", async (file: string) => rm(file).then(() => mkdir(file))],
    [
      "a line feed behind it",
      async (file: string) => rm(file).then(() => writeFile(file, `${KEY}\n`, { mode: 0o400 })),
    ],
    ["too much", async (file: string) => rm(file).then(() => writeFile(file, KEY.repeat(3), { mode: 0o400 }))],
  ])("is refused as a credential: %s", async (_, spoil) => {
    const { state, credentials, file } = await places(KEY);
    await spoil(file);
    expect(await codeOf(keyOf(state, credentials))).toBe("STATE_INVALID");
  });

  it("may be read by the right that systemd gives to the service: it shows as that of the group", async () => {
    const { state, credentials, file } = await places(KEY);
    await chmod(file, 0o440);
    expect(await keyOf(state, credentials)).toBe(KEY);
  });

  it.skipIf(process.getuid?.() !== 0)("is refused as a credential of another user", async () => {
    const { state, credentials, file } = await places(KEY);
    await chown(file, 65_534, 65_534);
    expect(await codeOf(keyOf(state, credentials))).toBe("STATE_INVALID");
  });

  it("is what the service takes from CREDENTIALS_DIRECTORY", async () => {
    const { credentials } = await places(KEY);
    const home = await makeHome();
    const env = { ...home.place.env, CREDENTIALS_DIRECTORY: credentials };
    const service = await openTestService({ ...home, place: { ...home.place, env } });
    expect(service.open.system.state.rootKey.export().toString("hex")).toBe(KEY);
    await service.end();
    await expect(readFile(join(home.stateDir, "root.key"))).rejects.toThrow("ENOENT");
    expect(await codeOf(openTestService(home)), "without its credential").toBe("STATE_INVALID");
  });
});
