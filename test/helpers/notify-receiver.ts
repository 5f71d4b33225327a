/** What systemd would be told: a datagram socket, which Node has not, held by a Python that prints what comes. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { afterEach } from "vitest";

const SCRIPT = `
import json, socket, sys
name = sys.argv[1]
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind("\\0" + name[1:] if name.startswith("@") else name)
print(json.dumps("bound"), flush=True)
while True:
    print(json.dumps(receiver.recv(65536).decode()), flush=True)
`;

export const hasPython = spawnSync("python3", ["--version"]).status === 0;
if (!hasPython) console.log("skipped: what systemd is told, for want of python3");

/** A message, field by field. */
export type Told = Readonly<Record<string, string>>;

export interface Receiver {
  /** The next message, when it comes. */
  next(): Promise<Told>;
  /** The next messages up to one that has this field. */
  until(field: string): Promise<Told>;
}

const ends: (() => unknown)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

/** Receives on a path, or on an abstract name behind `@`. Closed after the test. */
export async function openReceiver(name: string): Promise<Receiver> {
  const child = spawn("python3", ["-c", SCRIPT, name], { stdio: ["ignore", "pipe", "inherit"] });
  ends.push(() => child.kill("SIGKILL"));
  const lines = createInterface(child.stdout);
  const texts: string[] = [];
  lines.on("line", (line) => texts.push(JSON.parse(line) as string));
  const nextText = async (): Promise<string> => {
    for (;;) {
      const text = texts.shift();
      if (text !== undefined) return text;
      await once(lines, "line");
    }
  };
  await nextText();
  const next = async (): Promise<Told> => {
    const rows = (await nextText()).trimEnd().split("\n");
    return Object.fromEntries(rows.map((row) => [row.slice(0, row.indexOf("=")), row.slice(row.indexOf("=") + 1)]));
  };
  return {
    next,
    until: async (field) => {
      for (;;) {
        const told = await next();
        if (field in told) return told;
      }
    },
  };
}
