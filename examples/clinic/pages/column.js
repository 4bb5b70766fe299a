/** One side of the race: its stages, two panels, two clocks. It shows what it is told and measures nothing else. */

import "/_headgate/components.js";
import { EMPTY, reduce, textOf } from "/_headgate/state.js";
import { GROUPS, reasoningOf } from "./stages.js";

/** @typedef {import("/_headgate/state.js").RunEvent} RunEvent */
/** @typedef {import("/_headgate/state.js").StreamState} StreamState */

const GROUP = "patient_case_analysis_group";
const STAGES = [
  ...GROUPS[GROUP].stages.map(({ name, title }) => ({ name, title, panel: "reasoning" })),
  { name: "summary", title: "Summary", panel: "chat" },
];

export class Column {
  /** @param {HTMLElement} root @param {string} title */
  constructor(root, title) {
    root.append(document.getElementById("column").content.cloneNode(true));
    this.root = root;
    this.find("h2").textContent = title;
    this.find(".stages").append(...STAGES.map(stageItem));
    this.elements = [this.find("headgate-panel"), this.find("headgate-chat")];
    for (const element of this.elements) element.titles = Object.fromEntries(STAGES.map(({ name, title }) => [name, title]));
    this.reset();
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  reset() {
    /** @type {StreamState} */
    this.state = EMPTY;
    this.times = { first: null, done: null };
    cancelAnimationFrame(this.frame);
    for (const { name } of STAGES) this.mark(name, "waiting");
    this.find(".decision").textContent = "";
    this.tell("");
  }

  /** Starts the clocks; they run on the page until `stop`. */
  start() {
    this.began = performance.now();
    this.root.dataset.state = "running";
    const tick = () => {
      this.showClocks();
      this.frame = requestAnimationFrame(tick);
    };
    tick();
  }

  /** @param {"done" | "failed"} outcome */
  stop(outcome) {
    if (outcome === "done") this.times.done = this.elapsed();
    cancelAnimationFrame(this.frame);
    this.root.dataset.state = outcome;
    this.showClocks();
  }

  elapsed() {
    return (performance.now() - this.began) / 1000;
  }

  showClocks() {
    const running = this.root.dataset.state === "running" ? this.elapsed() : null;
    for (const [name, time] of Object.entries(this.times)) {
      const shown = time ?? running;
      this.find(`.${name}`).textContent = shown === null ? "–" : `${shown.toFixed(1)} s`;
      this.find(`.${name}`).classList.toggle("settled", time !== null);
    }
    if (running !== null) this.showProgress(running);
  }

  decided(words) {
    this.find(".decision").textContent = words;
  }

  /** One line about what is going on. */
  tell(words) {
    this.progress = null;
    this.find(".state").textContent = words;
  }

  /**
   * From now on the line says how long it has been, by this page's own clock: what is sent of progress is sent in
   * silence alone, and would stand still beside a text that grows.
   * @param {number | null} total seconds that it takes in all, if that is known
   */
  tellProgress(total) {
    this.progress = { total };
  }

  /** @param {number} elapsed seconds, as the clock above shows them */
  showProgress(elapsed) {
    if (this.progress === null) return;
    const { total } = this.progress;
    const left = total === null ? 0 : Math.round(total - elapsed);
    const soFar = `${Math.floor(Number(elapsed.toFixed(1)))} s so far`;
    const words = left > 0 ? `${soFar}, about ${left} s to go` : soFar;
    if (this.find(".state").textContent !== words) this.find(".state").textContent = words;
  }

  /** @param {"waiting" | "writing" | "done"} how */
  mark(stage, how) {
    const item = this.find(`[data-stage="${CSS.escape(stage)}"]`);
    if (item) item.dataset.how = how;
  }

  /** What is known of the answer now; the elements are shown it by others. @param {StreamState} state */
  show(state) {
    this.state = state;
    for (const { name, text, complete } of state.stages) {
      this.mark(name, complete ? "done" : "writing");
      if (text) this.times.first ??= this.elapsed();
    }
    if (state.progress) this.tellProgress(state.progress.etaS === null ? null : state.progress.elapsedS + state.progress.etaS);
  }

  /** A batch answer, all at once. @param {object} result */
  showWhole(result) {
    const state = [...eventsOf(result), event("batch", "", "")].reduce(reduce, EMPTY);
    this.show(state);
    for (const element of this.elements) element.state = state;
  }

  textOfStage(stage) {
    return textOf(this.state, stage);
  }

  /** Every text by its stage, to compare two columns. */
  texts() {
    return JSON.stringify(STAGES.map(({ name }) => this.textOfStage(name)));
  }
}

/**
 * @param {object} result of a batch answer
 * @returns {RunEvent[]} what a stream would have said of it
 */
export function eventsOf(result) {
  const texts = reasoningOf(GROUP, result).map(({ name, text }) => ["reasoning", name, text]);
  return [...texts, ["chat", "summary", result.summary]].flatMap(([panel, stage, text]) => [
    event("content_chunk", panel, stage, text),
    event("stage_complete", panel, stage),
  ]);
}

function event(type, panel, stage, content = "") {
  return { type, panel, stage, content, metadata: {} };
}

function stageItem({ name, title }) {
  const item = document.createElement("li");
  item.dataset.stage = name;
  item.textContent = title;
  return item;
}
