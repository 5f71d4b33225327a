/** The seven audit entries, from every path that must cause them, as the log's files have them afterwards. */
import { describe, it } from "vitest";
import { travel } from "../helpers/audit-journey.ts";
import { SEALING } from "../helpers/audit-journey-seal.ts";

describe("sealing", () => {
  it.each(SEALING)("[VR-AUD-01] $path", travel);
});
