// The decoder of `browser/sse.js` against the files that the Python one is held to: `tests/golden`.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { EventDecoder } from "../../browser/sse.js";

const GOLDEN = new URL("../golden/", import.meta.url);
const read = (name) => readFileSync(new URL(name, GOLDEN));
const WILD = JSON.parse(read("wild.json")).map(({ name, bytes, events }) => ({
  name,
  bytes: Uint8Array.from(bytes, (char) => char.charCodeAt(0)),
  events: events.map(({ data, event, id }) => ({ data, event, id })),
}));

const whole = (bytes) => [bytes];
const singly = (bytes) => Array.from(bytes, (byte) => Uint8Array.of(byte));
const halves = (bytes) => Array.from(bytes, (_, at) => [bytes.subarray(0, at), bytes.subarray(at)]);

const decoded = (pieces) => {
  const decoder = new EventDecoder();
  return pieces.flatMap((piece) => decoder.feed(piece));
};

for (const { name, bytes, events } of WILD) {
  test(`the standard's reading of ${name}, however it is cut`, () => {
    assert.deepEqual(decoded(whole(bytes)), events);
    assert.deepEqual(decoded(singly(bytes)), events);
    for (const pieces of halves(bytes)) assert.deepEqual(decoded(pieces), events);
  });
}

for (const name of readdirSync(GOLDEN).filter((file) => file.endsWith(".sse"))) {
  test(`what Headgate writes in ${name}, however it is cut`, () => {
    const events = JSON.parse(read(name.replace(".sse", ".json")));
    for (const cut of [whole, singly])
      assert.deepEqual(decoded(cut(new Uint8Array(read(name)))).map(({ data }) => JSON.parse(data)), events);
  });
}

test("an event over the bound is refused, and heartbeats may go on for ever", () => {
  const decoder = new EventDecoder(100);
  const text = new TextEncoder();
  for (let beat = 0; beat < 1000; beat += 1) assert.deepEqual(decoder.feed(text.encode(": hb\n")), []);
  assert.throws(() => decoder.feed(text.encode(`data: ${"x".repeat(101)}`)), RangeError);
});

test("a line that comes in drips costs what it is long, not its square", () => {
  const time = (size) => {
    const decoder = new EventDecoder();
    const drip = new TextEncoder().encode("data:xxx");
    const began = process.cpuUsage();
    for (let at = 0; at < size; at += 1) decoder.feed(drip);
    return process.cpuUsage(began).user;
  };
  time(100_000); // compiled by then
  let short = Infinity;
  let long = Infinity;
  // A neighbour of the machine may slow three rounds in a row.
  for (let round = 0; round < 3 || (round < 12 && long >= 25 * short); round += 1) {
    short = Math.min(short, time(100_000));
    long = Math.min(long, time(800_000));
  }
  assert.ok(long < 25 * short, `${long} and ${short} µs`); // its square would be 64 times as much
});

test("the reconnection time counts also in a line after the last event", () => {
  const decoder = new EventDecoder();
  decoder.feed(new TextEncoder().encode('id: a:1\ndata: {}\n\nretry: 4711\n'));
  assert.equal(decoder.retry, 4711);
});
