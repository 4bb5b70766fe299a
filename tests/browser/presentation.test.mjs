// `browser/components/presentation.js`: a replay has the pace of the answer.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Presentation } from "../../browser/components/presentation.js";

const GAPS_MS = [50, 50, 1300, 50];
const event = (type, content = "") => ({ type, panel: "chat", stage: "summary", content, metadata: { status: 200 } });
const EVENTS = [event("stage_start"), event("content_chunk", "Fe"), event("content_chunk", "ver"), event("stream_done")];

/** A stream whose run is kept: first its events come with gaps, and each time that it is attached to at once. */
function stream(gapsMs) {
  return {
    run: "run",
    client: { base: "", ask: async () => ({ ok: true }), attach: () => stream([]) },
    result: Promise.resolve({ status: 200 }),
    stop: async () => assert.fail("a run that has ended is not ended again"),
    async *[Symbol.asyncIterator]() {
      for (const [at, one] of EVENTS.entries()) {
        if (gapsMs.length > 0) await new Promise((resolve) => setTimeout(resolve, gapsMs[at]));
        yield one;
      }
    },
  };
}

/** What is shown, as text, and when it was. */
async function shown() {
  const seen = [];
  const element = new EventTarget();
  element.begin = () => {};
  Object.defineProperty(element, "state", {
    set: (state) => seen.push([state.stages.map(({ text }) => text).join(""), performance.now(), state.phase]),
  });
  const presentation = new Presentation([element], () => stream(GAPS_MS));
  await presentation.start();
  seen.length = 0;
  return { presentation, seen };
}

test("a replay has the pace of the answer, with a silence of a second at most", async () => {
  const { presentation, seen } = await shown();
  const began = performance.now();
  await presentation.act("replay");
  const [, at] = seen.find(([text]) => text === "Fever");

  assert.equal(Math.max(...presentation.pace), 1000);
  assert.ok(at - began > 1000);
  assert.deepEqual([seen.at(-1)[0], seen.at(-1)[2]], ["Fever", "done"]);
});

test("stop shows the rest of a replay at once, and ends no run", { timeout: 10_000 }, async () => {
  const { presentation, seen } = await shown();
  presentation.pace.fill(60_000);
  const replaying = presentation.act("replay");
  while (!presentation.isReplaying || seen.length === 0) await new Promise(setImmediate);
  await presentation.act("stop");
  await replaying;

  assert.deepEqual([seen.at(-1)[0], seen.at(-1)[2]], ["Fever", "done"]);
});
