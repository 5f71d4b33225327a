/** Two ends of a socket in one process: each learns when the other ends or is closed, after what was sent before. */
import { type Duplex, duplexPair } from "node:stream";

export function socketPair(): [Duplex, Duplex] {
  const [first, second] = duplexPair();
  for (const [one, other] of [
    [first, second],
    [second, first],
  ] as const) {
    one.once("close", () => {
      if (!other.destroyed) other.push(null);
    });
  }
  return [first, second];
}
