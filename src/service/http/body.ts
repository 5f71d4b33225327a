/**
 * The body of a request: bytes of a bounded length, UTF-8, JSON that is neither deep nor ambiguous, then what the
 * route's schema says. Nothing beyond the limit is kept. `JSON.parse` takes duplicate keys and builds `__proto__`: both
 * are found before, in a scan that takes no stack.
 */
import type { z } from "zod";
import { VramError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import type { Exchange } from "./exchange.ts";
import { decodePart, headerOf } from "./guards.ts";
import { refusal } from "./problem.ts";

const JSON_TYPE = /^application\/json(?:\s*;\s*charset="?utf-8"?)?$/i;
const FORBIDDEN_KEYS = new Set(["__proto__", "constructor", "prototype"]);
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Whether a request says that a body follows. */
function hasBody({ incoming }: Exchange): boolean {
  return headerOf(incoming, "transfer-encoding") !== undefined || Number(headerOf(incoming, "content-length") ?? 0) > 0;
}

const tooLarge = (limit: number): VramError => refusal(413, `a body has at most ${limit} bytes`);

const gone = (): VramError => new VramError("ABORTED", "the caller went away before the end of its body");

/** The bytes of a body. */
function collect({ incoming, outgoing, awaitsContinue }: Exchange, limit: number): Promise<Buffer> {
  if (Number(headerOf(incoming, "content-length") ?? 0) > limit) throw tooLarge(limit);
  if (incoming.destroyed) throw gone();
  if (awaitsContinue) outgoing.writeContinue();
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let byteLength = 0;
    const stop = (): void => {
      incoming.off("data", take).off("end", end).off("close", close);
    };
    const take = (chunk: Buffer): void => {
      byteLength += chunk.byteLength;
      if (byteLength > limit) {
        stop();
        reject(tooLarge(limit));
      } else chunks.push(chunk);
    };
    const end = (): void => {
      stop();
      resolve(Buffer.concat(chunks));
    };
    const close = (): void => {
      stop();
      reject(gone());
    };
    incoming.on("data", take).on("end", end).on("close", close);
  });
}

/** The index behind a string that begins at `start`. */
function endOfString(text: string, start: number): number {
  for (let at = start + 1; at < text.length; at += 1) {
    const unit = text[at];
    if (unit === '"') return at + 1;
    if (unit === "\\") at += 1;
  }
  throw refusal(400, "the body is not JSON: a string does not end");
}

/** What a string stands for. Half of a surrogate pair is no text. */
function textOf(raw: string): string {
  if (!raw.includes("\\")) return raw.slice(1, -1);
  const text = parse(raw) as string;
  if (!text.isWellFormed()) throw refusal(400, "the body is not text: half of a surrogate pair");
  return text;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // What the parser says quotes the body.
    throw refusal(400, "the body is not JSON");
  }
}

const COLON = /[ \t\r\n]*:/y;

function isFollowedByColon(text: string, at: number): boolean {
  COLON.lastIndex = at;
  return COLON.test(text);
}

/** JSON as its value. Refuses what is nested too deeply, says something twice, or names what objects are made of. */
export function parseJson(text: string): unknown {
  const open: Set<string>[] = [];
  for (let at = 0; at < text.length; at += 1) {
    const unit = text[at];
    if (unit === "{" || unit === "[") {
      open.push(new Set());
      if (open.length > LIMITS.serviceJsonDepth) {
        throw refusal(400, `the body is nested more than ${LIMITS.serviceJsonDepth} deep`);
      }
    } else if (unit === "}" || unit === "]") open.pop();
    else if (unit === '"') {
      const end = endOfString(text, at);
      const content = textOf(text.slice(at, end));
      if (isFollowedByColon(text, end)) takeKey(open.at(-1), content);
      at = end - 1;
    }
  }
  return parse(text);
}

function takeKey(keys: Set<string> | undefined, key: string): void {
  if (FORBIDDEN_KEYS.has(key)) throw refusal(400, `the body has a key ${key}`);
  if (keys?.has(key) === true) throw refusal(400, "the body has the same key twice in one object");
  keys?.add(key);
}

/** A value as a schema has it; `INVALID_ARGUMENT` names the first place that it objects to. */
export function requireShape<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const unknown = issue?.code === "unrecognized_keys" ? issue.keys.slice(0, 1) : [];
  const argument = [...(issue?.path ?? []), ...unknown].map(String).join(".").slice(0, LIMITS.correlationIdLength);
  const why = unknown.length > 0 ? "is not known" : (issue?.message ?? "is not valid");
  throw new VramError("INVALID_ARGUMENT", `${what}${argument === "" ? "" : ` ${argument}`}: ${why}`, {
    details: { argument: argument === "" ? what : argument },
  });
}

/** The body of a request as its route wants it; one that has none is an object without fields. */
export async function readBody<T>(
  exchange: Exchange,
  schema: z.ZodType<T> | undefined,
  limit: number,
): Promise<T | undefined> {
  const { incoming } = exchange;
  if (schema === undefined) {
    if (hasBody(exchange)) throw refusal(400, `a ${exchange.route} has no body`);
    return undefined;
  }
  if (!hasBody(exchange)) return requireShape(schema, {}, "body");
  if (headerOf(incoming, "content-encoding") !== undefined) throw refusal(415, "a body is not compressed");
  if (!JSON_TYPE.test(headerOf(incoming, "content-type") ?? "")) throw refusal(415, "a body is application/json");
  const bytes = await collect(exchange, limit);
  return requireShape(schema, parseJson(decode(bytes)), "body");
}

function decode(bytes: Buffer): string {
  try {
    return decoder.decode(bytes);
  } catch {
    throw refusal(400, "the body is not UTF-8");
  }
}

/** The query of a request as its route wants it. */
export function readQuery<T>(query: string, schema: z.ZodType<T> | undefined): T | undefined {
  const values: Record<string, string> = {};
  for (const part of query === "" ? [] : query.split("&")) {
    const at = part.indexOf("=");
    const [key, value] = [at === -1 ? part : part.slice(0, at), at === -1 ? "" : part.slice(at + 1)].map((text) =>
      decodePart(text.replaceAll("+", " ")),
    ) as [string, string];
    if (FORBIDDEN_KEYS.has(key) || Object.hasOwn(values, key)) throw refusal(400, "the query says something twice");
    values[key] = value;
  }
  if (schema !== undefined) return requireShape(schema, values, "query");
  if (query !== "") throw refusal(400, "this route has no query");
  return undefined;
}
