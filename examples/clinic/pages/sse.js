/**
 * Server-sent events from the body of a `fetch`, because `EventSource` can neither POST nor send headers.
 *
 * Source: WHATWG HTML 9.2, https://html.spec.whatwg.org/multipage/server-sent-events.html
 */

/** Characters that one line may have; a longer one is an error, not a reason to grow. */
const MAX_LINE = 4 * 1024 * 1024;

/**
 * @param {ReadableStream<Uint8Array>} body cancelled when the caller stops reading
 * @returns {AsyncGenerator<{id: string, data: string}>} ends with the body; an event cut short by that end is dropped
 */
export async function* readEvents(body) {
  let id = "";
  let data = [];
  for await (const line of readLines(body)) {
    if (line === "") {
      if (data.length) yield { id, data: data.join("\n") };
      data = [];
      continue;
    }
    const { field, value } = splitField(line);
    if (field === "id") id = value;
    if (field === "data") data.push(value);
  }
}

async function* readLines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      if (rest.length > MAX_LINE) throw new Error("a line of the event stream is too long");
      for (const line of lines) yield line.endsWith("\r") ? line.slice(0, -1) : line;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** A comment starts with a colon, so its field is the empty name, which means nothing. */
function splitField(line) {
  const colon = line.indexOf(":");
  if (colon < 0) return { field: line, value: "" };
  const value = line.slice(colon + 1);
  return { field: line.slice(0, colon), value: value.startsWith(" ") ? value.slice(1) : value };
}
