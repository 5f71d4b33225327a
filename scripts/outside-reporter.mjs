/**
 * A reporter of vitest: what fails outside of tests, which its JSON report leaves out or reduces to a word. These are hooks,
 * files that cannot be loaded or do not end, and errors that nobody caught. They go to the file VRAM_TEST_OUTSIDE, as a
 * list of `{ path, message }`; a path is relative to the repository.
 */
import { writeFileSync } from "node:fs";
import { relative, sep } from "node:path";
import { ROOT } from "./quickstart.mjs";

/** @param {string} file */
const pathOf = (file) => relative(ROOT, file).split(sep).join("/");

/** @param {{ message?: string, stack?: string }} error */
const wordsOf = ({ message, stack }) => stack || message || "an error without words";

export default class OutsideReporter {
  /** @type {string[]} */
  #wanted = [];

  /** @param {readonly import("vitest/node").TestSpecification[]} specifications */
  onTestRunStart(specifications) {
    this.#wanted = specifications.map(({ moduleId }) => moduleId);
  }

  /**
   * @param {readonly import("vitest/node").TestModule[]} modules
   * @param {readonly import("vitest").SerializedError[]} uncaught
   */
  onTestRunEnd(modules, uncaught) {
    const path = process.env.VRAM_TEST_OUTSIDE;
    if (path === undefined) return;
    const unfinished = new Set(this.#wanted);
    for (const module of modules) {
      if (!["queued", "pending"].includes(module.state())) unfinished.delete(module.moduleId);
    }
    const found = [
      ...modules.flatMap((module) =>
        [module, ...module.children.allSuites()]
          .flatMap((suite) => suite.errors())
          .map((error) => ({ path: pathOf(module.moduleId), message: wordsOf(error) })),
      ),
      ...[...unfinished].map((file) => ({ path: pathOf(file), message: "it did not come to its end" })),
      ...uncaught.map((error) => ({
        path: typeof error.VITEST_TEST_PATH === "string" ? pathOf(error.VITEST_TEST_PATH) : "npm test",
        message: `nobody caught: ${wordsOf(error)}`,
      })),
    ];
    writeFileSync(path, JSON.stringify(found));
  }
}
