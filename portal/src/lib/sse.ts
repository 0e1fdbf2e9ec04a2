// Server-sent events out of a fetch: `EventSource` cannot send the header that a token goes in.

export interface ServerEvent {
  event: string;
  data: string;
}

/** More than this without the end of an event is no stream of ours. */
const LONGEST_EVENT = 4 << 20;

/** Cuts text that comes in pieces into events. */
export class EventParser {
  private rest = "";

  push(piece: string): ServerEvent[] {
    this.rest = (this.rest + piece).replaceAll("\r\n", "\n");
    if (this.rest.length > LONGEST_EVENT) throw new Error("an event of the server has no end");
    const events: ServerEvent[] = [];
    for (let end = this.rest.indexOf("\n\n"); end >= 0; end = this.rest.indexOf("\n\n")) {
      const event = parse(this.rest.slice(0, end));
      this.rest = this.rest.slice(end + 2);
      if (event) events.push(event);
    }
    return events;
  }
}

function parse(block: string): ServerEvent | undefined {
  let event = "message";
  const data: string[] = [];
  for (const line of block.split("\n")) {
    // A line that begins so says only that the stream lives.
    if (line.startsWith(":")) continue;
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") event = value;
    else if (field === "data") data.push(value);
  }
  return data.length > 0 ? { event, data: data.join("\n") } : undefined;
}

/** Reads a body to its end, one event after the other. */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const parser = new EventParser();
  for await (const piece of texts(body)) yield* parser.push(piece);
}

/** Reads a body as text, piece by piece; whoever leaves the loop early ends the request. */
export async function* texts(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield decoder.decode(value, { stream: true });
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
