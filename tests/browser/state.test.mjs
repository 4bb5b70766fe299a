// `browser/state.js`: what a page shows of a run is what Headgate says of it, however it is told.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { EMPTY, reduce, stagesOf, textOf } from "../../browser/state.js";

const GOLDEN = new URL("../golden/", import.meta.url);
const events = (name) => JSON.parse(readFileSync(new URL(`${name}.json`, GOLDEN)));
const all = (said, from = EMPTY) => said.reduce(reduce, from);
const frozen = (value) => {
  if (value && typeof value === "object") Object.values(Object.freeze(value)).forEach(frozen);
  return value;
};

test("both panels fill, each with its own text, in the order in which the stages began", () => {
  const state = all(events("two-panels"));

  assert.equal(textOf(state, "extraction"), "Fever of 38.9 °C\nCough");
  assert.equal(textOf(state, "summary"), "Pneumonia is likely.");
  assert.deepEqual(stagesOf(state, "chat").map(({ name }) => name), ["summary"]);
  assert.deepEqual(state.stages.map(({ name, complete }) => [name, complete]), [["extraction", true], ["summary", true]]);
  assert.equal(state.phase, "done");
  assert.equal(JSON.parse(state.result).result.summary, "Pneumonia is likely.");
});

test("a text that the answer contradicts is the answer's, and says that it was replaced", () => {
  const state = all(events("repaired"));

  assert.equal(textOf(state, "extraction"), "Fever of 38.9, no cough");
  assert.deepEqual(state.stages.map(({ name, replaced }) => [name, replaced]), [["extraction", true], ["summary", false]]);
});

test("a snapshot of what is shown already changes nothing, and is no replacement", () => {
  const said = events("two-panels").slice(0, 6);
  const state = all(said);
  const again = reduce(state, { type: "content_replace", panel: "reasoning", stage: "extraction", content: textOf(state, "extraction"), metadata: {} });

  assert.deepEqual(again.stages, state.stages);
});

test("a run that breaks keeps what it has shown, and says what a person can do", () => {
  const said = events("broken");
  const end = said.at(-1);
  const state = all(said);

  assert.equal(state.phase, "failed");
  assert.equal(state.partial, end.metadata.partial);
  assert.equal(state.error.code, end.metadata.error_code);
  assert.equal(state.error.retryAvailable, end.metadata.retry_available);
  assert.deepEqual(state.stages, all(said.slice(0, -1)).stages);
});

test("progress says how long there is to go only where somebody knows", () => {
  const said = events("two-panels").filter(({ type }) => type === "progress");

  assert.equal(reduce(EMPTY, said[0]).progress.etaS, null);
  assert.equal(reduce(EMPTY, said[1]).progress.etaS, 12.5);
});

test("an answer that was not streamed is there whole", () => {
  const state = reduce(EMPTY, { type: "batch", panel: "", stage: "", content: '{"a":1}', metadata: { status: 200 } });

  assert.deepEqual([state.phase, state.result, state.stages], ["done", '{"a":1}', []]);
});

test("nothing is said after the end, and what is not known says nothing", () => {
  const done = all(events("two-panels"));

  assert.equal(all(events("two-panels"), done), done);
  assert.equal(reduce(EMPTY, { ...events("two-panels")[0], type: "constructor" }), EMPTY);
});

test("no event changes the state before it", () => {
  let state = frozen(structuredClone(EMPTY));
  for (const event of events("two-panels")) state = frozen(reduce(state, frozen(event)));
  assert.equal(state.phase, "done");
});
