// Feeds the streams of a folder through one client library, over loopback HTTP, and prints what it delivered:
//
//     node parse.mjs CLIENT FOLDER
//     {"version": "1.2.3", "streams": {"NAME": {"whole": {"delivered": […], "requests": 1}, "bytes": {…}}}}
//
// Each `NAME.sse` goes out twice: as a whole, and as one HTTP chunk a byte, which Node hands to its reader one
// byte at a time; `reads` is a client that only counts, and shows that it does. A client that asks again is
// told 204, so that `requests` counts it and nothing comes twice. `delivered` is in order and complete: a
// message that is no JSON stands there as {"notJson": …}.

import { readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";

const parsed = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return { notJson: text };
  }
};

// An EventSource reconnects for ever; the end of the stream is its first `error`.
const listen = (EventSource, url) =>
  new Promise((resolve) => {
    const delivered = [];
    const source = new EventSource(url);
    source.onmessage = (message) => delivered.push(parsed(message.data));
    source.onerror = () => {
      source.close();
      resolve(delivered);
    };
  });

const gather = async (messages, pick) => {
  const delivered = [];
  for await (const message of messages) delivered.push(pick(message));
  return delivered;
};

const CLIENTS = {
  reads: {
    load: async () => async (url) => gather((await fetch(url)).body, (bytes) => bytes.length),
  },
  undici: {
    load: async () => {
      const { EventSource } = await import("undici");
      return (url) => listen(EventSource, url);
    },
  },
  eventsource: {
    load: async () => {
      const { EventSource } = await import("eventsource");
      return (url) => listen(EventSource, url);
    },
  },
  "eventsource-parser": {
    load: async () => {
      const { EventSourceParserStream } = await import("eventsource-parser/stream");
      return async (url) => {
        const { body } = await fetch(url, { method: "POST" });
        const messages = body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
        return gather(messages, (message) => parsed(message.data));
      };
    },
  },
  ai: {
    load: async () => {
      const { jsonSchema, parseJsonEventStream } = await import("ai");
      return async (url) => {
        const { body } = await fetch(url, { method: "POST" });
        const messages = parseJsonEventStream({ stream: body, schema: jsonSchema({}) });
        return gather(messages, (message) => (message.success ? message.value : { notJson: message.rawValue }));
      };
    },
  },
  openai: {
    load: async () => {
      const { Stream } = await import("openai/core/streaming");
      return async (url) => {
        const response = await fetch(url, { method: "POST" });
        return gather(Stream.fromSSEResponse(response, new AbortController()), (message) => message);
      };
    },
  },
  "@langchain/langgraph-sdk": {
    // Its decoder is not exported; the client that uses it is.
    load: async () => {
      const { Client } = await import("@langchain/langgraph-sdk");
      return (url) => {
        const client = new Client({ apiUrl: url, apiKey: null, callerOptions: { maxRetries: 0 } });
        return gather(client.runs.joinStream("thread", "run"), (message) => message.data);
      };
    },
  },
  "@microsoft/fetch-event-source": {
    load: async () => {
      // It is written for a page: it sets its timers on `window` and asks `document` whether it is visible.
      globalThis.window = globalThis;
      globalThis.document = new EventTarget();
      const { fetchEventSource } = await import("@microsoft/fetch-event-source");
      return async (url) => {
        const delivered = [];
        await fetchEventSource(url, {
          method: "POST",
          openWhenHidden: true,
          // It calls `onmessage` where a page would parse, and POSTs again when that throws.
          onmessage: (message) => delivered.push(parsed(message.data)),
          onerror: (error) => {
            throw error;
          },
        });
        return delivered;
      };
    },
  },
  "@ag-ui/client": {
    // Its agent checks the events against its own vocabulary after this; ours are not in it. So this is its
    // HTTP request and all of its way from bytes to JSON objects with a `type`, without that last check.
    load: async () => {
      const { runHttpRequest, transformHttpEventStream } = await import("@ag-ui/client");
      return (url) =>
        new Promise((resolve, reject) => {
          const delivered = [];
          transformHttpEventStream(runHttpRequest(() => fetch(url, { method: "POST" }))).subscribe({
            next: (message) => delivered.push(message),
            error: reject,
            complete: () => resolve(delivered),
          });
        });
    },
  },
};

const HEADERS = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache, no-transform",
};

// The client lives in this process too: some turns of the event loop let it take each byte before the next.
const TURNS = 3;

const singly = async (response, bytes) => {
  for (let at = 0; at < bytes.length; at += 1) {
    response.write(bytes.subarray(at, at + 1));
    for (let turn = 0; turn < TURNS; turn += 1) await new Promise(setImmediate);
  }
};

const serve = async (streams, requests) => {
  const server = createServer({ noDelay: true }, async (request, response) => {
    const [, cut, name] = request.url.split("/");
    const seen = `${cut}/${name}`;
    requests[seen] = (requests[seen] ?? 0) + 1;
    if (requests[seen] > 1) {
      response.writeHead(204).end();
      return;
    }
    response.writeHead(200, HEADERS);
    if (cut === "whole") response.write(streams[name]);
    else await singly(response, streams[name]);
    response.end();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
};

const version = (client) => {
  const manifest = join(import.meta.dirname, "node_modules", client, "package.json");
  return client === "reads" ? process.version : JSON.parse(readFileSync(manifest)).version;
};

const main = async (client, folder) => {
  const names = readdirSync(folder).filter((name) => name.endsWith(".sse"));
  const streams = Object.fromEntries(names.map((name) => [name.slice(0, -4), readFileSync(join(folder, name))]));
  const requests = {};
  const server = await serve(streams, requests);
  const base = `http://127.0.0.1:${server.address().port}`;
  const read = await CLIENTS[client].load();
  const report = { version: version(client), streams: {} };
  for (const name of Object.keys(streams)) {
    report.streams[name] = {};
    for (const cut of ["whole", "bytes"]) {
      const delivered = await read(`${base}/${cut}/${name}`).catch((error) => [{ failed: String(error) }]);
      report.streams[name][cut] = { delivered, requests: requests[`${cut}/${name}`] };
    }
  }
  server.close();
  server.closeAllConnections();
  process.stdout.write(JSON.stringify(report), () => process.exit(0));
};

await main(process.argv[2], process.argv[3]);
