/** What is wrong with a page: its session, what it shows of outputs, and what it says of everything else. */
import { type Block, isReadBy, type Page } from "./docs-blocks.ts";
import { faultsOfIni, readToml } from "./docs-data.ts";
import { masked, missingFrom } from "./docs-output.ts";
import type { Ran, Session } from "./docs-session.ts";

const at = ({ page, line }: { readonly page: string; readonly line: number }): string => `${page}:${line}`;

/** A step that ended otherwise than the page says, or printed other hashes. */
function faultsOfStep({ block, line, text, exit, hashes, code, printed }: Ran): string[] {
  const said = `${at({ page: block.page, line })}: ${text}\n${printed}`;
  const plain = printed.replaceAll(":", "").toLowerCase();
  return [
    ...(code === exit ? [] : [`exit ${code ?? "never"} instead of ${exit}: ${said}`]),
    ...hashes.flatMap((hash) => (plain.includes(hash) ? [] : [`${hash} is not in: ${said}`])),
  ];
}

/** What the commands of the block before this one printed. */
function printedBefore(page: Page, block: Block, { steps }: Session): string {
  const before = page.blocks.slice(0, page.blocks.indexOf(block)).findLast(({ language }) => language === "sh");
  return steps
    .filter((step) => step.block === before)
    .map(({ printed }) => printed)
    .join("");
}

/** Lines in their order, or the last document, with what differs each time masked. */
function faultsOfOutput(block: Block, printed: string): string[] {
  if (block.language === "text") {
    const missing = missingFrom(block.text, printed);
    return missing.length === 0 ? [] : [`${at(block)}: not printed:\n${missing.join("\n")}\nprinted:\n${printed}`];
  }
  const [shown, real] = [block.text, printed].map((text) => JSON.stringify(masked(JSON.parse(text))));
  return shown === real ? [] : [`${at(block)}: ${shown} was ${real}`];
}

/** Whether most of its lines hold lines, corners or arrows; commands do not. */
function isDrawn({ text }: Block): boolean {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return lines.filter((line) => /[\u2190-\u21ff\u2500-\u25ff]/.test(line)).length * 2 > lines.length;
}

async function faultsOfData(block: Block): Promise<string[]> {
  try {
    if (block.language === "json") JSON.parse(block.text);
    if (block.language === "toml") await readToml(block);
  } catch (error) {
    return [`${at(block)}: ${String(error)}`];
  }
  const ini = block.language === "ini" ? faultsOfIni(block) : "";
  const isUnread = block.checkedBy !== undefined && !isReadBy(block);
  return [
    ...(block.isPicture && !isDrawn(block)
      ? [`${at(block)}: a picture has lines or arrows in more than half of its lines`]
      : []),
    ...(ini === "" ? [] : [`${at(block)}: ${ini}`]),
    ...(isUnread ? [`${at(block)}: ${block.checkedBy} does not read it`] : []),
  ];
}

export async function faultsOf(page: Page, session: Session): Promise<string[]> {
  const outputs = page.blocks.filter(({ isOutput }) => isOutput);
  const others = page.blocks.filter(({ isOutput }) => !isOutput);
  const { end, said } = session;
  return [
    ...session.steps.flatMap(faultsOfStep),
    ...(end === 0 && said === "" ? [] : [`${page.path}: the end: ${end ?? "never"} ${said}`]),
    ...outputs.flatMap((block) => faultsOfOutput(block, printedBefore(page, block, session))),
    ...(await Promise.all(others.map(faultsOfData))).flat(),
  ];
}
