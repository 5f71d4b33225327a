/** `vram doctor` over the fake libcuda, as a process. */
import { expect } from "vitest";
import { type FakeSettings, runNative } from "./native.ts";

interface Check {
  readonly id: string;
  readonly status: string;
  readonly what: string;
  readonly fix?: string;
}

interface Report {
  readonly ok: boolean;
  readonly checks: readonly Check[];
  readonly devices: readonly { readonly uuid: string; readonly backend: string; readonly name: string }[];
}

/** `doctor` twice, as text and as JSON, which have to say the same. */
export async function doctor(
  settings: FakeSettings,
  env: Record<string, string> = {},
): Promise<Report & { code: number }> {
  const [text, json] = await Promise.all([
    runNative(["doctor"], settings, env),
    runNative(["doctor", "--json"], settings, env),
  ]);
  expect({ text: text.err, json: json.err }).toEqual({ text: "", json: "" });
  expect(text.code).toBe(json.code);
  const report = JSON.parse(json.out) as Report & { schema: string };
  expect(report.schema).toBe("vram-residency/doctor/v1");
  for (const { what, fix } of report.checks.filter(({ status }) => status === "fail")) {
    expect(text.out).toContain(`✗ ${what}`);
    expect(text.out).toContain(`fix: ${fix ?? "?"}`);
  }
  return { ...report, code: json.code };
}
