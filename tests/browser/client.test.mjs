// `browser/client.js` against a server that does as a script says: what it asks for, how often, and what it makes of it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, beforeEach, test } from "node:test";
import { MAX_TRIES, pauseMs, SILENCE_MS, StreamClient, StreamError } from "../../browser/client.js";

const GOLDEN = new URL("../golden/", import.meta.url);
const WIRE = readFileSync(new URL("two-panels.sse", GOLDEN), "utf8");
const EVENTS = JSON.parse(readFileSync(new URL("two-panels.json", GOLDEN)));
const BROKEN = readFileSync(new URL("broken.sse", GOLDEN), "utf8");
const BLOCKS = WIRE.match(/(?:.|\n)*?\n\n/g);
const STREAM = { "content-type": "text/event-stream; charset=utf-8", "headgate-decision": "stream;reason=enabled;source=tap" };

/** What is to be done about each request, in order; and what was asked. */
let script = [];
let asked = [];
let server;
let base;

before(async () => {
  server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    const { method, url, headers } = request;
    asked.push({ method, url, headers, body });
    const act = script.shift() ?? ((answer) => answer.writeHead(404, { "content-type": "application/problem+json" }).end("{}"));
    act(response, request);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${server.address().port}`;
});
after(() => {
  server.close();
  server.closeAllConnections();
});
beforeEach(() => {
  script = [];
  asked = [];
});

const says = (text, headers = STREAM) => (response) => response.writeHead(200, headers).end(text);
const cuts = (text, headers = STREAM) => (response) => {
  response.writeHead(200, headers);
  response.write(text, () => setImmediate(() => response.destroy()));
};
const hangs = (text) => (response) => response.writeHead(200, STREAM).write(text);
const refuses = (status) => (response) => response.writeHead(status, { "content-type": "application/problem+json" }).end('{"detail":"No."}');

const client = (options = {}) => new StreamClient({ base, random: () => 0, ...options });
const POST = { url: "/api/run?x=1", method: "POST", body: "{}", headers: { "content-type": "application/json" } };
const gathered = async (stream) => {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
};

test("a stream gives its events in order, and its answer byte for byte", async () => {
  script = [says(WIRE)];
  const stream = client().stream(POST);

  assert.deepEqual(await gathered(stream), EVENTS);
  assert.equal((await stream.result).text, EVENTS.at(-1).metadata.result);
  assert.match(asked[0].headers["headgate-run"], /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.match(asked[0].headers.accept, /text\/event-stream/);
  assert.deepEqual([asked[0].method, asked[0].url, asked[0].body], ["POST", "/api/run?x=1", "{}"]);
});

test("the answer comes also to a caller that reads no events", async () => {
  script = [says(WIRE)];

  assert.equal((await client().stream(POST).result).status, 200);
});

test("a request that is decided batch gives one event, and the same result", async () => {
  script = [says('{"a":"ä"}', { "content-type": "application/json", "headgate-decision": "batch;reason=flag_off" })];
  const stream = client().stream(POST);

  assert.deepEqual((await gathered(stream)).map(({ type, content }) => [type, content]), [["batch", '{"a":"ä"}']]);
  assert.deepEqual(await stream.result, { status: 200, text: '{"a":"ä"}', mode: "batch", recovered: false });
});

test("an upstream's own stream is its batch answer, not events of ours", async () => {
  script = [says("data: hello\n\n", { "content-type": "text/event-stream", "headgate-decision": "batch;reason=killed" })];

  assert.equal((await client().stream(POST).result).text, "data: hello\n\n");
});

test("cut anywhere, it goes on from its last event, and sends its request once", async () => {
  for (const at of Array.from({ length: WIRE.length }, (_, index) => index).filter((index) => index % 41 === 0)) {
    asked = [];
    const seen = WIRE.slice(0, at).split(/(?<=\n\n)/).filter((block) => block.endsWith("\n\n") && block.includes("data:"));
    script = [cuts(WIRE.slice(0, at)), says(BLOCKS.slice(seen.length).join(""))];

    assert.deepEqual(await gathered(client().stream(POST)), EVENTS, `cut at ${at}`);
    assert.deepEqual(asked.map(({ method }) => method), ["POST", "GET"]);
    assert.equal(asked[1].url, `/_headgate/runs/${asked[0].headers["headgate-run"]}/events`);
    assert.equal(asked[1].headers["last-event-id"], seen.at(-1)?.match(/^id: (.*)$/m)[1]);
  }
});

test("a request whose answer never began is asked for by its run, and not sent again", async () => {
  script = [(response) => response.destroy(), refuses(404)];

  await assert.rejects(client().stream(POST).result, { name: "StreamError", code: "lost", status: 404 });
  assert.deepEqual(asked.map(({ method }) => method), ["POST", "GET"]);
});

test("a proxy that is away for a while is tried again, and not for ever", async () => {
  script = [cuts(BLOCKS[0]), refuses(503), refuses(502), says(BLOCKS.slice(1).join(""))];
  assert.deepEqual(await gathered(client().stream(POST)), EVENTS);

  asked = [];
  script = [cuts(BLOCKS[0]), ...Array(50).fill(refuses(503))];
  await assert.rejects(client().stream(POST).result, { code: "lost", retryAvailable: true });
  assert.equal(asked.length, 1 + MAX_TRIES);
});

test("the pauses grow from what the stream asks for, with all of their jitter, up to a cap", () => {
  assert.deepEqual([0, 1, 2, 3, 4].map((tries) => pauseMs(1, 3000, tries)), [3000, 6000, 12_000, 24_000, 30_000]);
  assert.deepEqual([0, 0.5].map((random) => pauseMs(random, 3000, 1)), [0, 3000]);
});

test("the first pause is the one that the stream asks for", async (t) => {
  const pauses = t.mock.method(globalThis, "setTimeout");
  script = [cuts(BLOCKS[0].replace(/retry: \d+/, "retry: 7")), says(BLOCKS.slice(1).join(""))];
  await client({ random: () => 1 }).stream(POST).result;

  assert.ok(pauses.mock.calls.some(({ arguments: [, ms] }) => ms === 7));
});

test("a run that fails says so after what it has shown", async () => {
  script = [says(BROKEN)];
  const stream = client().stream(POST);
  const events = [];

  await assert.rejects(async () => {
    for await (const event of stream) events.push(event);
  }, StreamError);
  const { metadata } = events.at(-1);
  await assert.rejects(stream.result, { code: metadata.error_code, status: metadata.status, retryAvailable: metadata.retry_available });
});

test("a refusal is an error with the status that it has", async () => {
  script = [refuses(401)];

  await assert.rejects(client().stream(POST).result, { name: "StreamError", code: "http", status: 401 });
});

test("a token that was refreshed meanwhile is the one that is sent", async () => {
  let token = 0;
  script = [cuts(BLOCKS[0]), says(BLOCKS.slice(1).join(""))];
  await client({ headers: async () => ({ authorization: `Bearer ${(token += 1)}` }) }).stream(POST).result;

  assert.deepEqual(asked.map(({ headers }) => headers.authorization), ["Bearer 1", "Bearer 2"]);
});

test("a connection that is silent for too long is given up, and the run taken up again", async (t) => {
  const later = globalThis.setTimeout;
  t.mock.method(globalThis, "setTimeout", (callback, ms, ...rest) => later(callback, ms === SILENCE_MS ? 50 : ms, ...rest));
  script = [hangs(BLOCKS[0]), says(BLOCKS.slice(1).join(""))];

  assert.deepEqual(await gathered(client().stream(POST)), EVENTS);
});

test("aborted, it stops reading at once, and asks nothing more", async () => {
  const leave = new AbortController();
  script = [hangs(BLOCKS[0])];
  const stream = client().stream({ ...POST, signal: leave.signal });
  const events = [];

  await assert.rejects(async () => {
    for await (const event of stream) {
      events.push(event);
      leave.abort();
    }
  }, { code: "aborted" });
  assert.deepEqual([events.length, asked.length], [1, 1]);
});

test("aborted while it waits for more, it asks for nothing, not even in vain", async () => {
  script = [hangs(BLOCKS[0])];
  let calls = 0;
  const fetch = (...given) => (calls++, globalThis.fetch(...given));
  const leave = new AbortController();
  const stream = client({ fetch }).stream({ ...POST, signal: leave.signal });
  setTimeout(() => leave.abort(), 50);
  await assert.rejects(gathered(stream), { code: "aborted" });

  assert.equal(calls, 1);
});

test("leaving the loop stops reading, and not the run; stop() ends the run", async () => {
  script = [hangs(BLOCKS[0]), (response) => response.writeHead(202).end("{}")];
  const stream = client().stream(POST);
  for await (const _ of stream) break;
  await assert.rejects(stream.result, { code: "aborted" });
  assert.equal(asked.length, 1);

  await stream.stop();
  assert.deepEqual([asked[1].method, asked[1].url], ["DELETE", `/_headgate/runs/${stream.run}`]);
});

test("a reader that is slow holds up the connection, and loses nothing", async () => {
  const start = BLOCKS[0];
  const block = (number) => `id: r:${number}\ndata: {"type":"content_chunk","panel":"p","stage":"extraction","content":"x","metadata":{}}\n\n`;
  script = [says(start + Array.from({ length: 5000 }, (_, number) => block(number + 2)).join("") + BLOCKS.at(-1))];
  const stream = client().stream(POST);
  const events = stream[Symbol.asyncIterator]();
  await events.next();
  for (let turn = 0; turn < 200; turn += 1) await new Promise(setImmediate);

  assert.ok(stream.queue.length <= 1000);
  let count = 1;
  while (!(await events.next()).done) count += 1;
  assert.equal(count, 5002);
});

test("a run that is under way is attached to", async () => {
  script = [says(WIRE)];
  const stream = client().attach("0b9d5a3c-1c53-4a0e-9f0e-1f4d0b3a2c11");

  assert.deepEqual(await gathered(stream), EVENTS);
  assert.deepEqual([asked[0].method, asked[0].url], ["GET", "/_headgate/runs/0b9d5a3c-1c53-4a0e-9f0e-1f4d0b3a2c11/events"]);
});

test("an EventSource gets an address with a ticket in it", async () => {
  script = [(response) => response.writeHead(201, { "content-type": "application/json" }).end('{"ticket":"a/b"}'), refuses(401)];

  assert.equal(await client().ticket("r"), `${base}/_headgate/runs/r/events?ticket=a%2Fb`);
  assert.equal(asked[0].body, '{"run":"r"}');
  await assert.rejects(client().ticket("r"), { status: 401 });
});
