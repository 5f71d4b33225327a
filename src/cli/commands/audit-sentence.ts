/**
 * An entry of the log in a sentence, for people who look on. Whoever writes the log may be hostile: a type nobody knows
 * and data of another form than its type has are told as they are, and no text can turn a terminal round.
 */
import { dataOfLine, type LineData } from "../../audit/line.ts";
import type { AuditLine } from "../../audit/parse-line.ts";
import { printable } from "../../bytes.ts";
import type { Entry } from "../../journal/entry.ts";
import { lineFor } from "../../narrate/table.ts";

export interface Told {
  readonly sentence: string;
  readonly tone: "plain" | "good" | "bad";
}

const TONES: Readonly<Record<Told["tone"], true>> = { plain: true, good: true, bad: true };

/** Characters of one value, and of a whole sentence made of them. */
const VALUE_CHARACTERS = 80;
const SENTENCE_CHARACTERS = 400;

const cut = (text: string, characters: number): string =>
  text.length > characters ? `${text.slice(0, characters).toWellFormed()}…` : text;

/** `key=value` for each member; what is in an object under `key.inner`, of a list its number only. */
function pairsOf(data: LineData, before = ""): string[] {
  return Object.entries(data).flatMap(([key, value]) => {
    if (Array.isArray(value)) return [`${before}${key}=[${value.length}]`];
    if (typeof value === "object" && value !== null) return pairsOf(value as LineData, `${before}${key}.`);
    return [`${before}${key}=${cut(String(value), VALUE_CHARACTERS)}`];
  });
}

/** The sentence that narration has for such an entry; undefined if it has none, or the data is not of that type. */
function narrated(type: string, data: LineData): Told | undefined {
  try {
    const told = lineFor({ ...data, type } as unknown as Entry);
    if (told === undefined) return undefined;
    const { target, human, tone } = told;
    // A type may be the name of something that every object has.
    if (typeof human !== "string" || !Object.hasOwn(TONES, tone)) return undefined;
    const isNamed = target === "" || human.includes(target);
    return { sentence: isNamed ? human : `${target}: ${human}`, tone };
  } catch {
    return undefined;
  }
}

/** What a line of the log says. */
export function tellLine(line: AuditLine): Told {
  const data = dataOfLine(line);
  const { sentence, tone } = narrated(line.type, data) ?? { sentence: pairsOf(data).join(" "), tone: "plain" };
  return { sentence: printable(cut(sentence, SENTENCE_CHARACTERS)), tone };
}
