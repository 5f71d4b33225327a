/**
 * What the pages ask of `curl`, for machines that have none: a request over a Unix socket or plain TCP, with method,
 * headers and body; the body of the answer as it comes; exit 22 for a problem, as with --fail-with-body.
 */
import { request } from "node:http";

const args = process.argv.slice(2);
const given = { headers: {}, method: undefined, body: undefined, socketPath: undefined, url: undefined };
const split = (header) => [header.slice(0, header.indexOf(":")), header.slice(header.indexOf(":") + 1).trim()];
for (let next = args.shift(); next !== undefined; next = args.shift()) {
  if (["-s", "-sS", "-N", "--fail-with-body"].includes(next)) continue;
  if (next === "--unix-socket") given.socketPath = args.shift();
  else if (next === "-X") given.method = args.shift();
  else if (next === "-d") given.body = args.shift();
  else if (next === "-H") {
    const [name, value] = split(args.shift() ?? "");
    given.headers[name] = value;
  } else if (next.startsWith("-") || given.url !== undefined) throw new Error(`curl ${next} is not known here`);
  else given.url = new URL(next);
}
const { headers, body, socketPath, url } = given;
const method = given.method ?? (body === undefined ? "GET" : "POST");
const place = socketPath === undefined ? { host: url.hostname, port: url.port } : { socketPath };
const asked = request({
  ...place,
  path: `${url.pathname}${url.search}`,
  method,
  headers: { host: url.host, ...headers },
});
asked.on("response", (answer) => {
  answer.pipe(process.stdout);
  process.exitCode = (answer.statusCode ?? 0) >= 400 ? 22 : 0;
});
asked.on("error", ({ message }) => {
  process.stderr.write(`curl: ${message}\n`);
  process.exitCode = 7;
});
asked.end(body);
