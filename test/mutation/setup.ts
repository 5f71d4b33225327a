/** Tests that take seconds each are left out: a mutant that only one of them would kill counts as survived. */
import { beforeEach } from "vitest";

const SLOW: readonly RegExp[] = [
  /of 200,000 lines goes on within two seconds/,
  /ends after 65,536 entries/,
  /takes 4096 that gate and 8192 that must proceed/,
  /inclusion: every leaf of every size, and no other leaf, size or root/,
  /consistency: every pair of sizes, and no other root/,
  /convinces nobody after any byte of it was changed, removed or doubled/,
  /is read as it was written, whatever is in it/,
  /is intact each time it is looked at, and is left as it is/,
  /are told each minute also while other entries keep coming/,
];

beforeEach(({ task, skip }) => {
  if (SLOW.some((slow) => slow.test(task.name))) skip();
});
