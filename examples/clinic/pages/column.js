/** One side of the race: its stages, two panels, two clocks. It shows what it is told and measures nothing else. */

import { renderMarkdown } from "./markdown.js";
import { GROUPS, reasoningOf } from "./stages.js";

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
    this.reset();
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  reset() {
    /** @type {Map<string, {text: string, box: HTMLElement}>} */
    this.sections = new Map();
    this.times = { first: null, done: null };
    cancelAnimationFrame(this.frame);
    for (const text of this.root.querySelectorAll(".text")) text.replaceChildren();
    for (const { name } of STAGES) this.mark(name, "waiting");
    this.find(".decision").textContent = "";
    this.tell("");
  }

  /** Starts the clocks; they run on the page until `stop`. */
  start() {
    this.began = performance.now();
    this.root.dataset.state = "running";
    const dots = document.createElement("div");
    dots.className = "dots";
    dots.append(...[1, 2, 3].map(() => document.createElement("i")));
    this.find(".text").append(dots);
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
    this.find(".dots")?.remove();
    this.renderDue();
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

  append(panel, stage, text) {
    this.replace(panel, stage, (this.sections.get(stage)?.text ?? "") + text);
    this.mark(stage, "writing");
  }

  /** The whole text of a section; drawn with the next frame, however many chunks arrive before it. */
  replace(panel, stage, text) {
    if (!this.sections.has(stage)) this.sections.set(stage, { text: "", box: this.open(panel, stage) });
    const section = this.sections.get(stage);
    section.text = text;
    section.isDue = true;
    this.times.first ??= this.elapsed();
    requestAnimationFrame(() => this.renderDue());
  }

  open(panel, stage) {
    this.find(".dots")?.remove();
    const box = document.createElement("section");
    const title = document.createElement("h4");
    title.textContent = STAGES.find(({ name }) => name === stage)?.title ?? stage;
    box.append(title, document.createElement("div"));
    this.textOf(panel).append(box);
    return box.lastChild;
  }

  textOf(panel) {
    return this.find(`[data-panel="${CSS.escape(panel)}"] .text`) ?? this.find('[data-panel="reasoning"] .text');
  }

  renderDue() {
    for (const section of this.sections.values()) {
      if (!section.isDue) continue;
      section.isDue = false;
      const area = section.box.closest(".text");
      // Whoever has scrolled up to read is left there.
      const follows = area.scrollHeight - area.scrollTop - area.clientHeight < 60;
      section.box.replaceChildren(renderMarkdown(section.text));
      if (follows) area.scrollTop = area.scrollHeight;
    }
  }

  /** A batch answer, all at once. */
  showWhole(result) {
    for (const { name, text } of reasoningOf(GROUP, result)) this.replace("reasoning", name, text);
    this.replace("chat", "summary", result.summary);
    for (const { name } of STAGES) this.mark(name, "done");
    this.renderDue();
    for (const area of this.root.querySelectorAll(".text")) area.scrollTop = 0;
  }

  textOfStage(stage) {
    return this.sections.get(stage)?.text;
  }

  /** Every text by its stage, to compare two columns. */
  texts() {
    return JSON.stringify(STAGES.map(({ name }) => this.textOfStage(name)));
  }
}

function stageItem({ name, title }) {
  const item = document.createElement("li");
  item.dataset.stage = name;
  item.textContent = title;
  return item;
}
