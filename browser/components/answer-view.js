/** One answer as a reader sees it: its stages, how far it is, its end, and what can be done about it. */

import { MarkdownView } from "../markdown.js";
import { Smoother } from "../smoother.js";

/** @typedef {import("../state.js").Failure} Failure */
/** @typedef {import("../state.js").StreamState} StreamState */
/** @typedef {import("../state.js").Stage} Stage */
/** @typedef {import("./announcer.js").Announcer} Announcer */

/** What can be done about an answer. @typedef {"stop" | "retry" | "replay"} Action */

/** All words that are shown or said; a page gives its own in another language. */
export const LABELS = Object.freeze({
  waiting: "Waiting for the answer",
  live: "Live, not final yet",
  done: "Complete",
  failed: "Incomplete",
  stopped: "Stopped",
  replaced: "corrected",
  complete: "complete",
  begins: "begins",
  step: "Step {index} of {total}",
  soFar: "{seconds} s so far",
  toGo: "about {seconds} s to go",
  copy: "Copy",
  copied: "Copied",
  notCopied: "Copying is not allowed here",
  stop: "Stop",
  retry: "Try again",
  replay: "Replay",
  newest: "Newest text",
  kept: "What came before is kept above; it is not complete.",
  error: "The answer could not be completed.",
  lost: "The connection was lost.",
  timeout: "The answer took too long.",
  refused: "The request was refused.",
});

/** @typedef {Partial<Record<keyof typeof LABELS, string>>} Labels */

/** Codes whose cause a person can be told in a word. @type {Readonly<Record<string, keyof typeof LABELS>>} */
const CAUSES = { lost: "lost", replica_lost: "lost", upstream_timeout: "timeout", timeout: "timeout" };

const COPIED_MS = 2000;

/** @typedef {{box: HTMLElement, mark: HTMLElement, view: MarkdownView, smoother: Smoother, stage: Stage}} Shown */

export class AnswerView {
  /**
   * @param {object} options
   * @param {Announcer} options.announcer
   * @param {Labels} options.labels
   * @param {Readonly<Record<string, string>>} options.titles of stages, by their names
   * @param {(stage: Stage) => boolean} options.takes whether a stage is shown here
   * @param {readonly Action[]} options.actions those that are offered when they make sense
   * @param {(action: Action) => void} options.onAction
   * @param {() => void} options.onGrown called after text was added
   * @param {number} options.level of the headings of stages
   */
  constructor({ announcer, labels, titles, takes, actions, onAction, onGrown, level }) {
    this.announcer = announcer;
    this.labels = { ...LABELS, ...labels };
    this.titles = titles;
    this.takes = takes;
    this.actions = actions;
    this.onAction = onAction;
    this.onGrown = onGrown;
    this.level = level;
    /** @type {Map<string, Shown>} */
    this.shown = new Map();
    /** @type {StreamState["phase"] | null} */
    this.phase = null;
    /** @type {{elapsedS: number, etaS: number | null, atMs: number} | null} */
    this.progress = null;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.clock = undefined;
    this.root = element("article", "answer");
    this.failure = element("div", "failure");
    this.failure.setAttribute("role", "alert");
    this.stages = element("div", "stages");
    this.dots = element("div", "dots");
    this.dots.setAttribute("aria-hidden", "true");
    this.dots.append(...[1, 2, 3].map(() => document.createElement("i")));
    this.bar = element("div", "bar");
    this.status = element("p", "status");
    this.bar.append(this.status);
    /** @type {Map<Action | "copy", HTMLButtonElement>} */
    this.buttons = new Map();
    for (const name of /** @type {const} */ (["copy", "stop", "retry", "replay"])) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.action = name;
      button.textContent = this.labels[name];
      button.addEventListener("click", () => this.press(name));
      this.buttons.set(name, button);
      this.bar.append(button);
    }
    this.root.append(this.stages, this.dots, this.failure, this.bar);
  }

  /** @param {StreamState} state */
  set(state) {
    const own = state.stages.filter(this.takes);
    for (const stage of own) this.setStage(stage);
    const { progress } = state;
    if (progress === null) this.progress = null;
    else if (this.progress?.elapsedS !== progress.elapsedS)
      this.progress = { elapsedS: progress.elapsedS, etaS: progress.etaS, atMs: performance.now() };
    const isOver = state.phase === "done" || state.phase === "failed";
    if (state.phase !== this.phase) {
      this.phase = state.phase;
      this.root.dataset.phase = state.phase;
      this.root.setAttribute("aria-busy", String(!isOver));
      if (isOver) for (const { smoother } of this.shown.values()) smoother.flush();
      if (state.phase === "done") this.announcer.say(this.labels.done);
      this.showFailure(state);
    }
    this.dots.hidden = isOver || own.some(({ text, complete }) => text !== "" && !complete);
    this.state = state;
    this.offer();
    this.tell();
    if (isOver) this.stopClock();
    else this.clock ??= setInterval(() => this.tell(), 1000);
  }

  /** Frames and timers end; what is shown stays. */
  close() {
    this.stopClock();
    for (const { smoother } of this.shown.values()) smoother.close();
  }

  /** The whole text, as it was sent. */
  get text() {
    return [...this.shown.values()].map(({ stage }) => stage.text).filter(Boolean).join("\n\n");
  }

  /** @param {Stage} stage */
  setStage(stage) {
    let shown = this.shown.get(stage.name);
    if (shown === undefined) {
      shown = this.open(stage);
      this.shown.set(stage.name, shown);
    }
    const before = shown.stage;
    shown.stage = stage;
    if (stage.text !== before.text) shown.smoother.set(stage.text);
    this.announcer.follow(stage.name, stage.text, stage.complete);
    if (stage.complete === before.complete && stage.replaced === before.replaced) return;
    shown.box.dataset.complete = String(stage.complete);
    shown.mark.textContent = [stage.complete ? `✓ ${this.labels.complete}` : "", stage.replaced ? this.labels.replaced : ""]
      .filter(Boolean)
      .join(", ");
    if (stage.complete) shown.view.set(shown.view.text, { isFinal: shown.view.text === stage.text });
  }

  /** @param {Stage} stage @returns {Shown} */
  open(stage) {
    const box = element("section", "stage");
    const head = element("div", "head");
    const title = document.createElement(`h${this.level}`);
    title.dir = "auto";
    title.textContent = this.titles[stage.name] ?? sentenceCase(stage.name);
    const mark = element("span", "mark");
    head.append(title, mark);
    const text = element("div", "text");
    box.append(head, text);
    box.dataset.stage = stage.name;
    this.stages.append(box);
    this.announcer.say(`${title.textContent} ${this.labels.begins}.`);
    const view = new MarkdownView(text, { level: this.level });
    const smoother = new Smoother((seen) => {
      const now = this.shown.get(stage.name)?.stage;
      view.set(seen, { isFinal: now !== undefined && now.complete && now.text === seen });
      this.onGrown();
    });
    return { box, mark, view, smoother, stage: { ...stage, text: "", complete: false, replaced: false } };
  }

  /** @param {StreamState} state */
  showFailure({ phase, error, partial }) {
    this.failure.replaceChildren();
    if (phase !== "failed" || error === null || error.code === "cancelled" || error.code === "aborted") return;
    const cause = this.labels[causeOf(error)];
    const words = error.code === "http" || error.message === "" ? cause : error.message;
    const isKept = partial || this.text !== "";
    this.failure.append(paragraph(words), ...(isKept ? [paragraph(this.labels.kept)] : []));
  }

  /** Which buttons make sense now. */
  offer() {
    const { phase, error } = this.state ?? {};
    const isOver = phase === "done" || phase === "failed";
    const offered = {
      copy: this.text !== "",
      stop: !isOver && this.actions.includes("stop"),
      retry: phase === "failed" && error?.retryAvailable === true && this.actions.includes("retry"),
      replay: phase === "done" && this.actions.includes("replay"),
    };
    for (const [name, button] of this.buttons) {
      const isOffered = offered[name];
      // Nobody who was at a button is left nowhere when it goes.
      if (!isOffered && !button.hidden && button.matches(":focus")) this.focusNear(button);
      button.hidden = !isOffered;
    }
  }

  /** @param {HTMLButtonElement} button */
  focusNear(button) {
    const near = [...this.buttons.values()].find((one) => one !== button && !one.hidden);
    const area = /** @type {HTMLElement | null} */ (this.root.closest("[tabindex]"));
    (near ?? area)?.focus({ preventScroll: true });
  }

  /** How far it is, in one line. */
  tell() {
    if (this.state === undefined) return;
    const { phase, error, total, stages } = this.state;
    const words = [error?.code === "cancelled" || error?.code === "aborted" ? this.labels.stopped : this.labels[phase]];
    if (phase === "waiting" || phase === "live") {
      const index = stages.length;
      if (total > 1 && index > 0) words.push(fill(this.labels.step, { index, total }));
      if (this.progress !== null) words.push(...this.times(this.progress));
    }
    const line = (phase === "done" ? "✓ " : "") + words.join(" · ");
    if (this.status.textContent !== line) this.status.textContent = line;
  }

  /** @param {{elapsedS: number, etaS: number | null, atMs: number}} progress @returns {string[]} */
  times({ elapsedS, etaS, atMs }) {
    const passedS = (performance.now() - atMs) / 1000;
    const words = [fill(this.labels.soFar, { seconds: Math.floor(elapsedS + passedS) })];
    const leftS = etaS === null ? 0 : Math.round(etaS - passedS);
    // An estimate that has run out says nothing any more.
    return leftS > 0 ? [...words, fill(this.labels.toGo, { seconds: leftS })] : words;
  }

  /** @param {Action | "copy"} name */
  press(name) {
    if (name === "copy") void this.copy();
    else {
      // It is offered again when the answer says so: a second click asks for nothing.
      const button = /** @type {HTMLButtonElement} */ (this.buttons.get(name));
      this.focusNear(button);
      button.hidden = true;
      this.onAction(name);
    }
  }

  async copy() {
    const button = /** @type {HTMLButtonElement} */ (this.buttons.get("copy"));
    const isCopied = await navigator.clipboard.writeText(this.text).then(() => true, () => false);
    button.textContent = isCopied ? this.labels.copied : this.labels.notCopied;
    this.announcer.say(button.textContent);
    setTimeout(() => (button.textContent = this.labels.copy), COPIED_MS);
  }

  stopClock() {
    clearInterval(this.clock);
    this.clock = undefined;
  }
}

/** @param {string} name @param {string} kind */
function element(name, kind) {
  const made = document.createElement(name);
  made.className = kind;
  return made;
}

/** @param {string} words */
function paragraph(words) {
  const made = element("p", "");
  made.dir = "auto";
  made.textContent = words;
  return made;
}

/** Only a status of 4xx says that a request was refused. @param {Failure} failure @returns {keyof typeof LABELS} */
function causeOf({ code, status }) {
  if (code === "http" && status >= 400 && status < 500) return "refused";
  return CAUSES[code] ?? "error";
}

/** @param {string} template @param {Readonly<Record<string, number>>} values */
function fill(template, values) {
  return template.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** @param {string} name */
function sentenceCase(name) {
  const words = name.replace(/[_-]+/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}
