/** What a service answered, read by the schemas of its contract; a problem becomes the error that it tells of. */
import { z } from "zod";
import { ERROR_TABLE, type ErrorCode, VramError } from "../errors.ts";
import { type errorReply, type Problem, problem } from "../service/replies.ts";
import { type Answer, notOurs } from "./transport.ts";

type ErrorReply = z.infer<typeof errorReply>;

const isErrorCode = (code: string): code is ErrorCode => Object.hasOwn(ERROR_TABLE, code);

/** The error that plain data tells of. A code of a newer service becomes `INTERNAL`, and stays in the message. */
export function errorFromReply({ code, message, fix, details }: ErrorReply): VramError {
  if (isErrorCode(code)) return new VramError(code, message, { fix, details });
  return new VramError("INTERNAL", `${code}: ${message}`, { fix, details: { ...details, code } });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** What is wrong with a value, in one line: the first place that the schema objects to. */
export function faultOf(error: z.ZodError, whole = "the answer"): string {
  const [issue] = error.issues;
  const path = issue?.path.map(String).join(".") ?? "";
  return `${path === "" ? whole : path}: ${issue?.message ?? "not valid"}`;
}

/** A value as the schema has it. */
export function readParsed<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw notOurs(where, faultOf(parsed.error));
}

/** JSON as the schema has it. */
export function readValue<T>(schema: z.ZodType<T>, text: string, where: string): T {
  const value = parseJson(text);
  if (value === undefined) throw notOurs(where, "an answer that is no JSON");
  return readParsed(schema, value, where);
}

/** The error that a problem tells of. */
export function errorFromProblem({ detail, ...rest }: Problem): VramError {
  return errorFromReply({ ...rest, message: detail });
}

/** The error of an answer that is no success. */
export function readProblem({ status, text, retryAfter }: Answer, where: string): VramError {
  const parsed = problem.safeParse(parseJson(text));
  if (!parsed.success) return notOurs(where, `status ${status} without a problem that could be read`);
  const wait = /^[0-9]{1,6}$/.test(retryAfter ?? "") ? { retryAfterMs: Number(retryAfter) * 1000 } : {};
  return errorFromProblem({ ...parsed.data, details: { ...parsed.data.details, ...wait } });
}

/** Whether an answer is what was asked for. */
const isSuccess = ({ status }: Answer): boolean => status >= 200 && status < 300;

/** The text of an answer; throws the error that it tells of. */
export function requireSuccess(answer: Answer, where: string): string {
  if (isSuccess(answer)) return answer.text;
  throw readProblem(answer, where);
}

/** An answer that says what is the case also where its status is 503: health and readiness. */
export function readState<T>(schema: z.ZodType<T>, answer: Answer, where: string): T {
  if (!isSuccess(answer) && problem.safeParse(parseJson(answer.text)).success) throw readProblem(answer, where);
  return readValue(schema, answer.text, where);
}

/** Any object. */
export const anyObject = z.record(z.string(), z.unknown());
