/** Paths that lead where nobody may look: refused by the service with the status that is documented, and aggregated. */
import { execFileSync } from "node:child_process";
import { copyFile, mkdir, readdir, readFile, symlink } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { makeHome, openFront, openTestService } from "../helpers/service.ts";
import { randomFile } from "../helpers/vram.ts";

async function openRooted(settings: (root: string) => object = (root) => ({ modelRoots: [root] })) {
  const home = await makeHome();
  const root = join(home.folder, "models");
  await mkdir(root);
  const outside = (await randomFile(5000, "secret.bin")).path;
  await copyFile(outside, join(root, "good.bin"));
  await symlink(outside, join(root, "link.bin"));
  await symlink("good.bin", join(root, "alias.bin"));
  execFileSync("mkfifo", [join(root, "fifo")]);
  const test = await openTestService(home, settings(root) as Record<string, unknown>);
  return { home, root, outside, test, front: await openFront(test, home) };
}

interface Problem {
  readonly code: string;
  readonly detail: string;
}

describe("[VR-IN-03] a path to be sealed", () => {
  it.each([
    ["out of the roots by ..", (root: string) => `${root}/../models/../../secret.bin`, 403],
    ["outside, and there", (_: string, outside: string) => outside, 403],
    ["outside, and not there", () => "/nowhere/model.bin", 403],
    ["a link out of the roots", (root: string) => `${root}/link.bin`, 403],
    ["a FIFO", (root: string) => `${root}/fifo`, 403],
    ["a device", () => "/dev/zero", 403],
    ["not there", (root: string) => `${root}/none.bin`, 404],
    ["relative", () => "models/good.bin", 400],
    ["with a NUL", (root: string) => `${root}/good.bin\0.txt`, 400],
  ])("%s is refused", async (_, pathOf, status) => {
    const { root, outside, test, front } = await openRooted();
    for (const route of ["/v1/plan", "/v1/shards"]) {
      const body = { path: pathOf(root, outside), ...(route === "/v1/plan" ? {} : { wait: true }) };
      const reply = await front.ask("POST", route, body, front.tokens.operate);
      expect(reply.status, `${route}: ${reply.text}`).toBe(status);
      const problem = JSON.parse(reply.text) as Problem;
      expect(problem.code).toBe({ 400: "INVALID_ARGUMENT", 403: "SOURCE_REFUSED", 404: "SOURCE_NOT_FOUND" }[status]);
      // A link does not tell where it leads.
      if (!body.path.includes(outside)) expect(reply.text).not.toContain(outside);
    }
    expect(test.service.list()).toMatchObject({ shards: [], missing: [] });
    const [device] = await test.service.devices();
    expect(device?.capacity?.bytesUsed).toBe(0);
  });

  it("is what a link within the roots leads to", async () => {
    const { root, front } = await openRooted();
    const reply = await front.ask(
      "POST",
      "/v1/shards",
      { path: `${root}/alias.bin`, wait: true },
      front.tokens.operate,
    );
    expect(reply.status, reply.text).toBe(201);
  });

  it("is nothing over TCP unless roots are configured, and anything on the socket", async () => {
    const { outside, front } = await openRooted(() => ({}));
    const refused = await front.ask("POST", "/v1/shards", { path: outside, wait: true }, front.tokens.operate);
    expect([refused.status, (JSON.parse(refused.text) as Problem).code]).toEqual([403, "SOURCE_REFUSED"]);
    expect((await front.ask("POST", "/v1/shards", { path: outside, wait: true })).status).toBe(201);
  });
});

describe("[VR-AUD-03] refused requests", () => {
  it("do not fill the log: some lines a minute, then a count; no token is in any of them", async () => {
    const { home, test, front } = await openRooted();
    for (let n = 0; n < 60; n += 1) {
      await front.ask("GET", "/v1/shards", undefined, `vram_use_${"x".repeat(43)}`);
      await front.ask("POST", "/v1/resume", { reason: "mine" }, front.tokens.use);
      await front.ask("POST", "/v1/plan", { path: "/etc/shadow" }, front.tokens.operate);
    }
    await test.close();
    const folder = join(home.stateDir, "audit");
    const segments = (await readdir(folder)).filter((name) => name.endsWith(".jsonl"));
    const text = (await Promise.all(segments.map((name) => readFile(join(folder, name), "utf8")))).join("");
    const count = (what: RegExp): number => text.match(what)?.length ?? 0;
    expect(count(/"failure":"bad-token"/g)).toBeLessThanOrEqual(9);
    expect(count(/"failure":"wrong-scope"/g)).toBeLessThanOrEqual(9);
    expect(count(/"type":"request_refused"/g)).toBeLessThanOrEqual(9);
    expect(text).toMatch(/"failure":"bad-token"[^\n]*"repeated":52/);
    expect(text).toMatch(/"type":"request_refused"[^\n]*"repeated":52/);
    for (const token of Object.values(front.tokens)) expect(text).not.toContain(token);
    expect(text).not.toContain("/etc/shadow");
  });
});
