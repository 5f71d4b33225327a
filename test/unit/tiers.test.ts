/** The order of the tiers, and what a skip may say. */
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import config from "../../vitest.config.ts";

interface Tier {
  readonly test: { readonly name: string; readonly sequence?: { readonly groupOrder?: number } };
}

const tiers = (config.test?.projects ?? []) as readonly Tier[];
const orderOf = (name: string): number => tiers.find((tier) => tier.test.name === name)?.test.sequence?.groupOrder ?? 0;

describe("tiers", () => {
  test("[VR-PRF-02] the GPU suite runs after every other", () => {
    expect(tiers.map((tier) => tier.test.name)).toContain("device");
    for (const { test: tier } of tiers)
      if (tier.name !== "device") expect(orderOf(tier.name)).toBeLessThan(orderOf("device"));
  });

  test("[VR-PRF-02] every test of the GPU suite is skipped by name where there is no GPU, never silently", () => {
    const folder = new URL("../device/", import.meta.url);
    const files = readdirSync(folder).filter((name) => name.endsWith(".test.ts"));
    expect(files.length).toBeGreaterThan(5);
    for (const name of files) {
      const text = readFileSync(new URL(name, folder), "utf8");
      expect(text, name).toMatch(/onGpu\(|no GPU/);
      expect(text, name).not.toMatch(/^(describe|test|it)(\.\w+)?\(/m);
    }
  });
});
