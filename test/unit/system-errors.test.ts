/** What the system refused, in words: the reason without the path it happened to, and a fix that fits. */
import { describe, expect, test } from "vitest";
import { ERROR_TABLE, systemReason, VramError } from "../../src/errors.ts";
import { isSystemError } from "../../src/files.ts";

const refusal = (code: string): Error =>
  Object.assign(new Error(`${code}: as the system says it, open '/a/temporary/name'`), { code });

describe("a refusal of the system", () => {
  test("is told by its name and the system's words, without a path", () => {
    expect(systemReason(refusal("EACCES"))).toBe("EACCES: permission denied");
    // As Node tells it: libuv has no name for it.
    const quota = Object.assign(new Error("Unknown system error -122"), {
      code: "Unknown system error -122",
      errno: -122,
    });
    expect(systemReason(quota)).toBe("EDQUOT");
    expect(isSystemError(quota, "EDQUOT")).toBe(true);
    expect(systemReason(refusal("ERR_STREAM_DESTROYED"))).toBeUndefined();
    expect(systemReason(new Error("another"))).toBeUndefined();
    expect(systemReason("EACCES")).toBeUndefined();
  });

  test.each([
    ["ENOSPC", /^make room/],
    ["EDQUOT", /^make room/],
    ["EROFS", /read-only/],
    ["EACCES", /^let this user/],
    ["EPERM", /^let this user/],
    ["EIO", /disk/],
  ])("%s as the cause of an error gives the fix, unless the call knows better", (code, fix) => {
    const cause = refusal(code);
    expect(new VramError("STATE_INVALID", "state.json: cannot be written", { cause }).fix).toMatch(fix);
    expect(new VramError("STATE_INVALID", "x", { cause, fix: "do this" }).fix).toBe("do this");
  });

  test("that nothing is known about leaves the fix of the table", () => {
    const cause = refusal("ELOOP");
    expect(new VramError("STATE_INVALID", "x", { cause }).fix).toBe(ERROR_TABLE.STATE_INVALID.fix);
  });

  test("[VR-AUD-02] no fix says to remove what may be evidence, or the only key", () => {
    for (const { fix } of Object.values(ERROR_TABLE)) expect(fix).not.toMatch(/remove|delete/);
  });
});
