/** The same case twice at the same moment: once asked for as a stream, once as a batch answer. */

import { bearer, send, signIn } from "./api.js";
import { StreamClient } from "/_headgate/client.js";
import { Presentation } from "/_headgate/components.js";
import { EMPTY } from "/_headgate/state.js";
import { Column, eventsOf } from "./column.js";
import { showFlag } from "./flag.js";

const USERS = ["ada", "ben", "chen", "dana", "emil", "fay", "gita", "hugo"];

const byId = (id) => document.getElementById(id);
const streamed = new Column(byId("streamed"), "Streamed");
const whole = new Column(byId("whole"), "Batch");
const columns = [streamed, whole];
const client = new StreamClient({ headers: () => ({ authorization: bearer() }) });

/** @type {Presentation | undefined} */
let presentation;

async function race(text) {
  const ids = await Promise.all(columns.map(() => openCase(text)));
  for (const column of columns) column.start();
  await Promise.all([askStreamed(ids[0]), askWhole(ids[1])]);
  await Promise.all(columns.map((column, index) => keepSummary(ids[index], column)));
}

/** The calls a frontend makes before it starts the workflow. */
async function openCase(text) {
  const { id } = await send("POST", "/api/cases", { case_text: text });
  await send("POST", `/api/cases/${id}/messages`, { role: "user", content: text });
  return id;
}

async function keepSummary(id, column) {
  const content = column.textOfStage("summary");
  if (content && column.times.done) await send("POST", `/api/cases/${id}/messages`, { role: "assistant", content });
}

async function askWhole(id) {
  for (const element of whole.elements) {
    element.setAttribute("actions", ""); // nobody can stop a batch answer
    element.begin();
    element.state = EMPTY;
  }
  whole.decided("XMLHttpRequest, Accept: application/json");
  await finish(whole, async () => {
    try {
      whole.showWhole((await send("POST", `/api/cases/${id}/workflow/start`)).result);
    } catch (error) {
      const { status } = error;
      for (const element of whole.elements) element.state = { ...EMPTY, phase: "failed", error: { code: "http", message: "", status } };
      throw error;
    }
  });
}

async function askStreamed(id) {
  presentation?.close();
  const shown = new Presentation(
    [...streamed.elements.map(withoutProgress), { begin() {}, addEventListener() {}, set state(state) { tell(shown, state); } }],
    () => client.stream({ url: `/api/cases/${id}/workflow/start`, method: "POST" }),
    { batch: (text) => eventsOf(JSON.parse(text).result) },
  );
  presentation = shown;
  await finish(streamed, async () => {
    if ((await shown.start()) === null) throw new Error(shown.state.error.message || "The answer failed.");
    if (shown.stream.decision.startsWith("stream")) streamed.tell("Complete.");
  });
}

/** The column says how long it has been, beside its own clock; a second clock would not always agree. */
function withoutProgress(element) {
  return {
    begin: (options) => element.begin(options),
    addEventListener: (...listening) => element.addEventListener(...listening),
    set state(state) {
      element.state = { ...state, progress: null };
    },
  };
}

/** @param {Presentation} shown */
function tell(shown, state) {
  if (state.phase !== "waiting" || state.stages.length) streamed.decided(shown.stream.decision || "batch: as without Headgate");
  streamed.show(state);
}

async function finish(column, work) {
  try {
    await work();
    column.stop("done");
  } catch (error) {
    column.stop("failed");
    column.tell(error.message);
  }
  showVerdict();
}

/** Says only what both clocks have shown. */
function showVerdict() {
  const [left, right] = columns.map(({ times }) => times);
  if (columns.some(({ root }) => root.dataset.state === "running")) return;
  if (left.done === null || right.done === null) {
    byId("verdict").textContent = "Not both were answered, so there is nothing to compare.";
    return;
  }
  const saved = 1 - left.first / right.first;
  const wait = `First text after ${left.first.toFixed(1)} s instead of ${right.first.toFixed(1)} s`;
  const less = saved >= 0.01 ? `: ${Math.floor(saved * 100)} % less waiting.` : ".";
  const same = streamed.texts() === whole.texts() ? " Both texts are identical." : " The two texts differ.";
  byId("verdict").textContent = wait + less + same;
  byId("verdict").classList.add("said");
}

byId("ask").onsubmit = async (event) => {
  event.preventDefault();
  byId("submit").disabled = true;
  byId("verdict").textContent = "Running …";
  byId("verdict").classList.remove("said");
  for (const column of columns) column.reset();
  try {
    await race(byId("case").value);
  } catch (error) {
    byId("verdict").textContent = error.message;
  }
  byId("submit").disabled = false;
};

byId("user").append(...USERS.map((name) => new Option(name)));
byId("user").value = USERS.includes(localStorage.user) ? localStorage.user : USERS[0];
byId("user").onchange = () => signIn(byId("user").value);
await Promise.all([signIn(byId("user").value), showFlag()]).catch((error) => {
  byId("verdict").textContent = error.message;
});
