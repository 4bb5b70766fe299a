/**
 * The frontend that knows nothing of streaming. The order of its calls is that of the frontend it stands for:
 * the browser, not the workflow, stores the chat.
 */

import { send, signIn } from "./api.js";
import { renderMarkdown } from "./markdown.js";
import { GROUPS, reasoningOf } from "./stages.js";

const FIRST_GROUP = "patient_case_analysis_group";
const EXAMPLE =
  "A 58-year-old woman, café owner, with fever of 38.9 °C, rigors and a productive cough for 4 days. " +
  "SpO₂ 91 % on room air, respiratory rate 26 /min. Crackles over the right base. No known allergies.";

const byId = (id) => document.getElementById(id);

/** @type {{caseId: string | null, group: string, isBusy: boolean}} */
const state = { caseId: null, group: FIRST_GROUP, isBusy: false };

// Sequences: what each thing the user does asks of the API, in order.

async function createCase(text) {
  showBubble("user", text);
  const made = await send("POST", "/api/cases", { case_text: text });
  state.caseId = made.id;
  await Promise.all([showCases(), say("user", text)]);
  await showAnswer(await send("POST", `${casePath()}/workflow/start`));
}

async function chat(text) {
  showBubble("user", text);
  await say("user", text);
  await showAnswer(await process(state.group, { input_text: text }));
}

async function approve() {
  const words = `I approve the ${GROUPS[state.group].label} stage. Please go on.`;
  showBubble("user", words);
  await say("user", words);
  const approved = await send("POST", `${casePath()}/workflow/stages/${state.group}/approve`);
  if (approved.next_stage === state.group) return;
  state.group = approved.next_stage;
  await showAnswer(await process(state.group, {}));
}

async function download(kind) {
  const made = await send("POST", `${casePath()}/${kind}s`);
  const blob = await send("GET", `${casePath()}/${kind}s/${made.id}`, undefined, {
    accept: "application/pdf",
    responseType: "blob",
  });
  if (blob.type !== "application/pdf") throw new Error(`the ${kind} is no PDF`);
  offer(blob, `${kind}.pdf`);
}

async function openCase(id) {
  const details = await send("GET", `/api/cases/${id}/details`);
  reset();
  state.caseId = id;
  for (const { role, content } of details.messages) showBubble(role, content);
  for (const row of details.stage_results) {
    if (row.stage_name in GROUPS) showGroup(row.stage_name, row.result);
  }
}

const casePath = () => `/api/cases/${state.caseId}`;
const say = (role, content) => send("POST", `${casePath()}/messages`, { role, content });
const process = (group, body) => send("POST", `${casePath()}/workflow/stages/${group}/process`, body);

// What is on the page.

async function showAnswer(answer) {
  const summary = answer.result?.summary ?? "I've analyzed the case.";
  // Stored before it is shown: an answer of another kind breaks the page and leaves this sentence behind.
  await say("assistant", summary);
  showGroup(answer.stage_name, answer.result);
  showBubble("assistant", summary);
}

function showGroup(groupName, result) {
  state.group = groupName;
  const group = document.createElement("section");
  const title = document.createElement("h3");
  title.textContent = GROUPS[groupName].label;
  group.append(title);
  for (const { title: heading, text } of reasoningOf(groupName, result)) group.append(stageBox(heading, text));
  group.dataset.group = groupName;
  document.querySelector(`[data-group="${groupName}"]`)?.remove();
  byId("reasoning").append(group);
  group.scrollIntoView({ block: "start" });
}

function stageBox(heading, text) {
  const box = document.createElement("section");
  const title = document.createElement("h4");
  const body = document.createElement("div");
  title.textContent = heading;
  body.append(renderMarkdown(text));
  box.append(title, body);
  return box;
}

function showBubble(role, text) {
  const bubble = document.createElement("div");
  bubble.className = `bubble ${role}`;
  bubble.append(renderMarkdown(text, 2));
  byId("chat").append(bubble);
  bubble.scrollIntoView({ block: "end" });
  return bubble;
}

function showDots() {
  const bubble = showBubble("assistant", "");
  bubble.classList.add("dots");
  bubble.setAttribute("role", "img");
  bubble.setAttribute("aria-label", "Processing");
  bubble.append(...[1, 2, 3].map(() => document.createElement("i")));
  return bubble;
}

async function showCases() {
  const { cases } = await send("GET", "/api/cases");
  byId("cases").replaceChildren(...cases.map(caseItem));
}

function caseItem({ id, case_text: text }) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.onclick = () => attempt("Failed to open case. Please try again.", () => openCase(id));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function reset() {
  Object.assign(state, { caseId: null, group: FIRST_GROUP });
  byId("reasoning").replaceChildren();
  byId("chat").replaceChildren();
}

function offer(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

/** One thing at a time. On failure: one sentence, the dots stay, nothing is taken back. */
async function attempt(sentence, work, { hasDots = false } = {}) {
  setBusy(true);
  byId("banner").hidden = true;
  try {
    const running = work();
    const dots = hasDots ? showDots() : null;
    await running;
    dots?.remove();
  } catch (error) {
    console.error(error);
    byId("banner").textContent = sentence;
    byId("banner").hidden = false;
  } finally {
    setBusy(false);
  }
}

function setBusy(isBusy) {
  state.isBusy = isBusy;
  for (const button of document.querySelectorAll("main button")) button.disabled = isBusy;
  const hasAnswer = Boolean(byId("reasoning").children.length);
  for (const id of ["approve", "note", "report"]) byId(id).disabled = isBusy || !hasAnswer;
}

byId("say").onsubmit = (event) => {
  event.preventDefault();
  const text = byId("words").value.trim();
  if (!text || state.isBusy) return;
  byId("words").value = "";
  const [work, what] = state.caseId ? [chat, "send message"] : [createCase, "create case"];
  attempt(`Failed to ${what}. Please try again.`, () => work(text), { hasDots: true });
};
byId("approve").onclick = () => attempt("Failed to approve stage. Please try again.", approve, { hasDots: true });
byId("note").onclick = () => attempt("Failed to generate note. Please try again.", () => download("note"));
byId("report").onclick = () => attempt("Failed to generate report. Please try again.", () => download("report"));
byId("new-case").onclick = () => {
  reset();
  setBusy(false);
  byId("words").value = EXAMPLE;
};

await signIn(localStorage.user ?? "ada").catch(console.error);
// The profile is asked for under a path that does not exist; its 404 is part of the picture.
send("GET", "/api/users/me").catch(() => {});
byId("words").value = EXAMPLE;
await attempt("Failed to load cases. Please try again.", showCases);
