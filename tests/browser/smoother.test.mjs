// `browser/smoother.js`, on a clock of the test's own.

import assert from "node:assert/strict";
import { test } from "node:test";
import { MAX_BEHIND_MS, Smoother } from "../../browser/smoother.js";

const page = () => {
  const made = {
    ms: 0,
    still: false,
    frames: [],
    listeners: new Set(),
    now: () => made.ms,
    requestFrame: (callback) => made.frames.push(callback),
    cancelFrame: () => (made.frames = []),
    isStill: () => made.still,
    onStill: (callback) => {
      made.listeners.add(callback);
      return () => made.listeners.delete(callback);
    },
    tick: (ms = 16) => {
      made.ms += ms;
      for (const frame of made.frames.splice(0)) frame(made.ms);
    },
    setStill: (still) => {
      made.still = still;
      for (const listener of made.listeners) listener();
    },
  };
  return made;
};

const smoothing = () => {
  const shown = [];
  const here = page();
  return { shown, here, smoother: new Smoother((text) => shown.push(text), here) };
};

const TEXT = "Fever of 38.9 °C since Monday. ".repeat(400);

test("a burst is shown over several frames, and whole within the limit", () => {
  const { shown, here, smoother } = smoothing();
  smoother.set(TEXT);
  while (here.ms < MAX_BEHIND_MS) here.tick();

  assert.ok(shown.length > 10);
  assert.ok(shown.every((text, at) => at === 0 || text.startsWith(shown[at - 1])));
  const steps = shown.map((text, at) => text.length - (shown[at - 1] ?? "").length);
  assert.ok(Math.max(...steps) < 2 * (TEXT.length / steps.length));
  assert.equal(shown.at(-1), TEXT);
});

test("what came is on the screen within the limit also while more comes, at any frame rate", () => {
  for (const frameMs of [4, 16, 33, 100]) {
    const { shown, here, smoother } = smoothing();
    const came = [];
    for (let length = 0; length < TEXT.length; length += 37) {
      smoother.set(TEXT.slice(0, length));
      came.push([here.ms, length]);
      here.tick(frameMs);
      const due = came.filter(([ms]) => ms <= here.ms - MAX_BEHIND_MS - frameMs).at(-1)?.[1] ?? 0;
      assert.ok((shown.at(-1) ?? "").length >= due);
    }
  }
});

test("a character of two code units is never cut", () => {
  const { shown, here, smoother } = smoothing();
  smoother.set("👨‍👩‍👧🇨🇭".repeat(200));
  while (here.frames.length > 0) here.tick();

  assert.ok(shown.every((text) => text.isWellFormed()));
});

test("a hidden tab gets everything at once, also what waited when it was hidden", () => {
  const { shown, here, smoother } = smoothing();
  smoother.set(TEXT);
  here.tick();
  here.setStill(true);
  assert.equal(shown.at(-1), TEXT);
  smoother.set(TEXT + "More.");
  assert.equal(shown.at(-1), TEXT + "More.");
  assert.deepEqual(here.frames, []);
});

test("a text that was replaced is shown at once", () => {
  const { shown, here, smoother } = smoothing();
  smoother.set(TEXT);
  here.tick();
  smoother.set("Another one.");

  assert.equal(shown.at(-1), "Another one.");
});

test("closed, it asks for no frame and listens to nothing", () => {
  const { here, smoother } = smoothing();
  smoother.set(TEXT);
  smoother.close();

  assert.deepEqual([here.frames, here.listeners.size], [[], 0]);
});
