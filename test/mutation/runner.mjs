/**
 * Stryker's runner for vitest, which also sees test files that fail as a whole. A mutant that breaks what a file does
 * while it is loaded leaves no test to fail: vitest ends with exit 1 then, but the runner of Stryker 9.6.1 counts failed
 * tests only and would call the mutant survived.
 */
import { commonTokens, declareFactoryPlugin, PluginKind, tokens } from "@stryker-mutator/api/plugin";
import { DryRunStatus, TestStatus } from "@stryker-mutator/api/test-runner";
// Not one of the package's exports; the version is exact in package.json.
import { VitestTestRunner } from "../../node_modules/@stryker-mutator/vitest-runner/dist/src/vitest-test-runner.js";

/** The name under which Stryker makes what is instrumented known to tests. */
const NAMESPACE = "__stryker__";

class WholeFileRunner extends VitestTestRunner {
  async run(options) {
    const result = await super.run(options);
    if (result.status !== DryRunStatus.Complete) return result;
    const failed = new Set(
      result.tests.filter(({ status }) => status === TestStatus.Failed).map(({ fileName }) => fileName),
    );
    const broken = this.ctx.state
      .getFiles()
      .filter((file) => file.result?.state === "fail" && !failed.has(file.filepath))
      .map(({ filepath, name, result: { errors } }) => ({
        id: `${name}#`,
        name: "the file as a whole",
        fileName: filepath,
        timeSpentMs: 0,
        status: TestStatus.Failed,
        failureMessage: errors?.[0]?.message ?? "the file failed",
      }));
    return { ...result, tests: [...result.tests, ...broken] };
  }
}

function createRunner(injector) {
  return injector.provideValue("globalNamespace", NAMESPACE).injectClass(WholeFileRunner);
}
createRunner.inject = tokens(commonTokens.injector);

export const strykerPlugins = [declareFactoryPlugin(PluginKind.TestRunner, "vitest-files", createRunner)];
