/**
 * `<headgate-panel>` shows one panel of an answer, `<headgate-chat>` a conversation. Both show states, and say what a reader
 * wants; `Presentation` brings them together with a request.
 *
 *     <headgate-panel panel="reasoning" label="Reasoning"></headgate-panel>
 *
 *     const elements = document.querySelectorAll("headgate-panel");
 *     await new Presentation([...elements], () => client.stream(request)).start();
 */

import { Announcer } from "./components/announcer.js";
import { AnswerView } from "./components/answer-view.js";
import { STYLE } from "./components/style.js";
import { EMPTY } from "./state.js";

export { Presentation } from "./components/presentation.js";

/** @typedef {import("./state.js").StreamState} StreamState */
/** @typedef {import("./components/answer-view.js").Action} Action */
/** @typedef {import("./components/answer-view.js").Labels} Labels */

/** Pixels from its end within which a reader counts as being there. */
const NEAR_PX = 40;

/** Answers and messages that a conversation shows; the oldest go first. */
export const MAX_TURNS = 200;

/** @type {CSSStyleSheet | undefined} */
let sheet;

/**
 * What both elements have. Attributes: `label`; `panel`, whose stages alone are shown; `actions`, of `stop retry replay`;
 * `level` of the headings of stages, 3 if it is not given.
 *
 * It fires `headgate-action` with an `Action` as its `detail`.
 */
class AnswerElement extends HTMLElement {
  constructor() {
    super();
    /** Words in the page's own language. @type {Labels} */
    this.labels = {};
    /** Titles of stages, by their names. @type {Readonly<Record<string, string>>} */
    this.titles = {};
    /** @type {AnswerView | null} */
    this.view = null;
    /** @type {StreamState} */
    this.current = EMPTY;
    this.follows = true;
    const root = this.attachShadow({ mode: "open" });
    // A constructed sheet is no inline style: a strict policy lets it be.
    root.adoptedStyleSheets = [(sheet ??= styleSheet())];
    this.area = document.createElement("div");
    this.area.className = "area";
    this.area.tabIndex = 0;
    this.inner = document.createElement("div");
    this.area.append(this.inner);
    this.newest = document.createElement("button");
    this.newest.type = "button";
    this.newest.className = "newest";
    this.newest.hidden = true;
    const said = document.createElement("div");
    said.className = "hidden";
    said.setAttribute("role", "status");
    root.append(this.area, this.newest, said);
    this.announcer = new Announcer(said);
    this.area.addEventListener("scroll", () => this.look(), { passive: true });
    this.newest.addEventListener("click", () => this.toNewest());
  }

  connectedCallback() {
    this.area.setAttribute("role", this.areaRole);
    this.area.setAttribute("aria-label", this.getAttribute("label") ?? this.getAttribute("panel") ?? "Answer");
    this.newest.textContent = `↓ ${this.labels.newest ?? "Newest text"}`;
    this.growing = new ResizeObserver(() => this.keepUp());
    this.growing.observe(this.inner);
    this.growing.observe(this.area);
  }

  disconnectedCallback() {
    this.growing?.disconnect();
    this.announcer.close();
    this.view?.close();
  }

  get areaRole() {
    return "group";
  }

  /** What is shown; begins an answer if none has begun. */
  get state() {
    return this.current;
  }

  set state(state) {
    this.current = state;
    this.view ??= this.open();
    this.view.set(state);
  }

  /** Another answer comes. @param {{again?: boolean}} [options] `again`: it takes the place of the one before */
  begin(options = {}) {
    this.view?.close();
    this.retire(options);
    this.view = null;
    this.current = EMPTY;
    this.announcer.forget();
    this.follows = true;
    this.look();
  }

  /** @param {{again?: boolean}} options */
  retire(options) {
    this.view?.root.remove();
  }

  open() {
    const panel = this.getAttribute("panel");
    const actions = /** @type {Action[]} */ ((this.getAttribute("actions") ?? "stop retry replay").split(/\s+/));
    const view = new AnswerView({
      announcer: this.announcer,
      labels: this.labels,
      titles: this.titles,
      takes: (stage) => panel === null || stage.panel === panel,
      actions,
      onAction: (detail) => this.dispatchEvent(new CustomEvent("headgate-action", { detail, bubbles: true, composed: true })),
      onGrown: () => this.keepUp(),
      level: Number(this.getAttribute("level") ?? 3),
    });
    this.inner.append(view.root);
    return view;
  }

  /** Whether the reader is at the end; who scrolled away is left there. */
  look() {
    const { scrollHeight, scrollTop, clientHeight } = this.area;
    this.follows = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    this.offerNewest();
  }

  offerNewest() {
    if (this.follows && this.newest.matches(":focus")) this.area.focus({ preventScroll: true });
    this.newest.hidden = this.follows;
  }

  keepUp() {
    // Scrolling would pull the text from under a selection that is being made.
    const selection = document.getSelection();
    const isSelecting = selection !== null && !selection.isCollapsed && this.contains(selection.anchorNode);
    if (this.follows && !isSelecting) this.area.scrollTop = this.area.scrollHeight;
    else this.look();
  }

  toNewest() {
    this.follows = true;
    this.area.scrollTop = this.area.scrollHeight;
    this.offerNewest();
  }
}

export class HeadgatePanel extends AnswerElement {}

/** A conversation: what a person says, and answers, which stay when the next one comes. */
export class HeadgateChat extends AnswerElement {
  get areaRole() {
    return "log";
  }

  connectedCallback() {
    super.connectedCallback();
    // The region beside it says what is new: a log would say each word.
    this.area.setAttribute("aria-live", "off");
  }

  /** Shows what a person says. @param {string} text */
  say(text) {
    const bubble = document.createElement("p");
    bubble.className = "said";
    bubble.dir = "auto";
    bubble.textContent = text;
    this.inner.append(bubble);
    this.view?.close();
    this.view = null;
    this.bound();
    this.toNewest();
  }

  /** An answer that failed stays above the next try; one that is shown again is not there twice. @param {{again?: boolean}} options */
  retire({ again = false }) {
    if (again && this.current.phase === "done") this.view?.root.remove();
    this.bound();
  }

  bound() {
    while (this.inner.childElementCount > MAX_TURNS) this.inner.firstElementChild?.remove();
  }
}

function styleSheet() {
  const made = new CSSStyleSheet();
  made.replaceSync(STYLE);
  return made;
}

if (!customElements.get("headgate-panel")) {
  customElements.define("headgate-panel", HeadgatePanel);
  customElements.define("headgate-chat", HeadgateChat);
}
