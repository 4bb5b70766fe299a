// A page that reads a stream with fetch-event-source, as that is: after an error it POSTs again, with its cursor.
//
//     node again.mjs URL HEADERS
//     {"requests": 2, "types": ["stage_start", …]}
//
// Ends when the library says that the stream has ended, or has asked too often.

// The library is written for a page: it sets its timers on `window` and asks `document` whether it is visible.
globalThis.window = globalThis;
globalThis.document = new EventTarget();
const { fetchEventSource } = await import("@microsoft/fetch-event-source");

const TOO_OFTEN = 5;
const [url, headers] = process.argv.slice(2);
const got = { requests: 0, types: [] };

await fetchEventSource(url, {
  method: "POST",
  headers: JSON.parse(headers),
  openWhenHidden: true,
  fetch: (...asked) => {
    got.requests += 1;
    return fetch(...asked);
  },
  onmessage: (message) => got.types.push(JSON.parse(message.data).type),
  onerror: (error) => {
    if (got.requests >= TOO_OFTEN) throw error;
  },
}).catch(() => {});
console.log(JSON.stringify(got));
