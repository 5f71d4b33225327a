/**
 * The requirement matrix: which tests and scenarios carry the id of each requirement, and what came of them. Where nothing
 * ran, there is a gap, and it is called one.
 */
const TAG = /\[(VR-[A-Z]+-\d{2})\]/g;

/** Everything that ran, in one form. The GPU suite is `test/device` and scenarios on a real GPU. */
function itemsOf(tests, features) {
  const ofTests = tests.files.flatMap(({ path, tier, tests: all }) =>
    all.map(({ title, status }) => ({
      ...{ kind: "test", name: `${path} > ${title}`, status, onGpu: tier === "device" },
      requirements: [...new Set([...title.matchAll(TAG)].map(([, id]) => id))],
    })),
  );
  const ofFeatures = features.flatMap(({ backend, features: all }) =>
    all.flatMap(({ path, scenarios }) =>
      scenarios.map(({ name, status, requirements }) => ({
        ...{ kind: "scenario", name: `${path} > ${name}`, status, onGpu: backend === "cuda", requirements },
      })),
    ),
  );
  return [...ofTests, ...ofFeatures];
}

/** `failed` if anything did, `passed` if something did and nothing failed, else `gap`. */
function standingOf(items) {
  if (items.some(({ status }) => status === "failed")) return "failed";
  return items.some(({ status }) => status === "passed") ? "passed" : "gap";
}

const count = (items, kind, status) => items.filter((item) => item.kind === kind && item.status === status).length;

/**
 * Rows of the matrix, and ids that tests carry though no requirement has them.
 * @returns {{ rows: object[], strays: string[] }}
 */
export function matrixOf(requirements, tests, features) {
  const items = itemsOf(tests, features);
  const known = new Set(requirements.map(({ id }) => id));
  const strays = items.flatMap(({ name, requirements: ids }) =>
    ids.filter((id) => !known.has(id)).map((id) => `${id} in ${name}`),
  );
  const rows = requirements.map((requirement) => {
    const own = items.filter((item) => item.requirements.includes(requirement.id));
    const [gpu, others] = [own.filter(({ onGpu }) => onGpu), own.filter(({ onGpu }) => !onGpu)];
    return {
      ...requirement,
      withoutGpu: standingOf(others),
      onGpu: standingOf(gpu),
      testsPassed: count(others, "test", "passed"),
      scenariosPassed: count(others, "scenario", "passed"),
      gpuPassed: gpu.filter(({ status }) => status === "passed").length,
      evidence: own.map(({ kind, name, status, onGpu }) => ({ kind, name, status, onGpu })),
    };
  });
  return { rows, strays };
}
