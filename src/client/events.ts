/**
 * Server-sent events (WHATWG HTML, "Server-sent events"), as far as our service writes them: UTF-8, lines that end in LF
 * or CR LF. Lines and events have a bound.
 */

/** One event, or without `data` the place to go on from. `id` is the last one that was told, this one's or an earlier's. */
export interface ServerEvent {
  readonly id: string | undefined;
  readonly event: string;
  readonly data: string | undefined;
}

/** An entry of the journal has at most 32 KiB of data; an operation's result is none. */
export const EVENT_LENGTH = 1024 * 1024;

interface Pending {
  id: string | undefined;
  event: string;
  data: string[];
  length: number;
}

/** Takes one line; the event that it ends, if it does. */
function takeLine(pending: Pending, line: string): ServerEvent | undefined {
  if (line === "") {
    const { id, event, data } = pending;
    [pending.event, pending.data, pending.length] = ["", [], 0];
    return { id, event, data: data.length === 0 ? undefined : data.join("\n") };
  }
  const colon = line.indexOf(":");
  const field = colon === -1 ? line : line.slice(0, colon);
  const value = colon === -1 ? "" : line.slice(colon + 1).replace(/^ /, "");
  // A line that begins with a colon says nothing: it keeps the connection alive.
  if (field === "event") pending.event = value;
  if (field === "id" && !value.includes("\0")) pending.id = value;
  if (field === "data") {
    pending.data.push(value);
    pending.length += value.length;
  }
  return undefined;
}

/** The events of a stream. Throws `RangeError` for a line or an event that is too long; what is unfinished is no event. */
export async function* readEvents(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<ServerEvent, void, undefined> {
  const decoder = new TextDecoder();
  const pending: Pending = { id: undefined, event: "", data: [], length: 0 };
  let rest = "";
  for await (const chunk of chunks) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const event = takeLine(pending, line.endsWith("\r") ? line.slice(0, -1) : line);
      if (Math.max(line.length, pending.length) > EVENT_LENGTH) throw new RangeError("an event that is too long");
      if (event !== undefined) yield event;
    }
    if (rest.length > EVENT_LENGTH) throw new RangeError("a line that is too long");
  }
}
