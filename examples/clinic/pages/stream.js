/** Follow one run to its one terminal event. A stream that ends without it is not complete. */

import { readEvents } from "./sse.js";

const TERMINAL = new Set(["stream_done", "error"]);

/**
 * @param {Response} response of content type `text/event-stream`
 * @returns {AsyncGenerator<{type: string, panel: string, stage: string, content: string, metadata?: object}>}
 */
export async function* followRun(response) {
  try {
    for await (const { data } of readEvents(response.body)) {
      const event = JSON.parse(data);
      yield event;
      if (TERMINAL.has(event.type)) return;
    }
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // what a cut connection is in a browser
  }
  throw new Error("The connection was lost before the answer was complete.");
}
