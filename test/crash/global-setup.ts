/** Builds what the crash tier starts and kills. */
import { buildIfStale } from "../helpers/dist.ts";

export function setup(): void {
  buildIfStale();
}
