/** The fields that have a value: what a request leaves open is left out, as options of the library want it. */
export function given<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const there = Object.entries(fields).filter(([, value]) => value !== undefined);
  // Every field that is left has its type of before.
  return Object.fromEntries(there) as { [K in keyof T]?: Exclude<T[K], undefined> };
}
