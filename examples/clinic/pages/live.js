/** The same case twice at the same moment: once asked for as a stream, once as a batch answer. */

import { bearer, send, signIn } from "./api.js";
import { Column } from "./column.js";
import { showFlag } from "./flag.js";
import { followRun } from "./stream.js";

const USERS = ["ada", "ben", "chen", "dana", "emil", "fay", "gita", "hugo"];

const byId = (id) => document.getElementById(id);
const streamed = new Column(byId("streamed"), "Streamed");
const whole = new Column(byId("whole"), "Batch");
const columns = [streamed, whole];

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
  whole.decided("XMLHttpRequest, Accept: application/json");
  await finish(whole, async () => {
    whole.showWhole((await send("POST", `/api/cases/${id}/workflow/start`)).result);
  });
}

async function askStreamed(id) {
  await finish(streamed, async () => {
    const headers = { Accept: "text/event-stream", Authorization: bearer() };
    const response = await fetch(`/api/cases/${id}/workflow/start`, { method: "POST", headers });
    streamed.decided(response.headers.get("headgate-decision") ?? "batch: as without Headgate");
    if (!response.ok) throw new Error(`The request was answered with ${response.status}.`);
    const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
    if (!isStream) streamed.showWhole((await response.json()).result);
    else for await (const event of followRun(response)) take(event);
  });
}

const ACTIONS = {
  stage_start: ({ stage }) => streamed.mark(stage, "writing"),
  content_chunk: ({ panel, stage, content }) => streamed.append(panel, stage, content),
  content_replace: ({ panel, stage, content }) => streamed.replace(panel, stage, content),
  stage_complete: ({ stage }) => streamed.mark(stage, "done"),
  progress: ({ metadata }) => streamed.tellProgress(totalOf(metadata ?? {})),
  stream_done: ({ metadata }) => streamed.tell(metadata?.source ? `Complete. Source: ${metadata.source}.` : ""),
  error: ({ content, metadata }) => {
    const kept = metadata?.partial ? " What is shown is incomplete." : "";
    const again = metadata?.retry_available ? " You can submit it again." : "";
    throw new Error((content || `The answer failed (${metadata?.error_code ?? "unknown"}).`) + kept + again);
  },
};

/** An event of a type this page does not know is passed over. */
function take(event) {
  ACTIONS[event.type]?.(event);
}

function totalOf({ elapsed_s: elapsed, eta_s: eta }) {
  return elapsed === undefined || eta === undefined ? null : elapsed + eta;
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
  if (left.done === null || right.done === null) return;
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
