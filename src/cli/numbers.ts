/** Numbers in arguments: decimal digits in their one form, and nothing else. */
import { VramError } from "../errors.ts";

/** A whole number from 0 to `max`; `INVALID_ARGUMENT` with `name` for anything else. */
export function parseWhole(text: string, name: string, max: number): number {
  const value = /^(0|[1-9][0-9]{0,15})$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isSafeInteger(value) && value <= max) return value;
  const message = `${name} must be a whole number from 0 to ${max}, and not ${JSON.stringify(text)}`;
  throw new VramError("INVALID_ARGUMENT", message, { details: { argument: name } });
}

/** The seq of an entry. */
export const parseSeq = (text: string, name: string): number => parseWhole(text, name, Number.MAX_SAFE_INTEGER);
