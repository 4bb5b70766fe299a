/**
 * Live text on the screen: a card within a panel of the page, or a small window of its own. It is in a shadow root, so
 * that no style leaks in or out; fonts and colours are the page's.
 */

import { MarkdownView } from "../markdown.js";

/** @typedef {import("../state.js").Stage} Stage */

/** A card is at most so high, in CSS pixels, and at least so high, or it is not shown in its panel. */
const MAX_PX = 320;
const MIN_PX = 72;

/** Where a reader is less than so far from the end, the end stays in view. */
const NEAR_PX = 24;

/** A page that removes a card so often does not want it there. */
const MAX_PUTS = 50;

const WORDS = "Live text, not final";
const LONG_WORDS = "Being written now. The finished answer takes its place.";

const STYLE = new CSSStyleSheet();
STYLE.replaceSync(`
  .card { box-sizing: border-box; display: flex; flex-direction: column; max-height: inherit; margin: 8px 4px; padding: 6px 10px;
    border: 1px dashed currentColor; border-radius: 6px; font: inherit; color: inherit; text-align: start; }
  .words { flex: none; font-size: 0.85em; margin-block-end: 0.4em; }
  .words strong { margin-inline-end: 0.6em; }
  .text { overflow: auto; min-height: 0; overscroll-behavior: contain; overflow-wrap: anywhere; }
  .body > :first-child { margin-top: 0.2em; }
  .body :is(h1, h2, h3, h4, h5, h6) { font-size: 1em; margin: 0.5em 0 0.2em; }
  .body :is(p, ul, ol, table, pre, blockquote) { margin: 0.3em 0; }
  .body pre { white-space: pre-wrap; }
  .body :is(th, td) { border: 1px solid; padding: 0 0.4em; text-align: start; }
  .body table { border-collapse: collapse; }
  .text:focus-visible, button:focus-visible { outline: 2px solid currentColor; outline-offset: 1px; }
  .stage { font-weight: bold; margin-top: 0.4em; }
  .stage::first-letter { text-transform: uppercase; }
  .dock { position: fixed; right: 16px; bottom: 16px; width: min(26rem, calc(100vw - 32px)); z-index: 2147483647; }
  .dock .card { margin: 0; background: Canvas; color: CanvasText; border-style: solid; max-height: min(20rem, 60vh); }
  .dock .words { cursor: move; touch-action: none; display: flex; gap: 0.5em; align-items: baseline; }
  .dock .words span { flex: 1; }
  button { font: inherit; color: inherit; background: none; border: 1px solid currentColor; border-radius: 4px; padding: 0 0.4em; }
  .closed .text { display: none; }
`);

/** @param {string} tag @param {string} className @param {string} [text] */
function made(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** The texts of some stages, each of which only grows or is replaced. */
class Texts {
  /** @param {number} level of the heading that they stand under */
  constructor(level) {
    this.level = level;
    this.element = made("div", "text");
    this.element.tabIndex = 0; // what scrolls can be reached
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", "Text so far");
    /** @type {Map<string, MarkdownView>} by stage */
    this.shown = new Map();
  }

  /** @param {readonly Stage[]} stages */
  set(stages) {
    const { element } = this;
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR_PX;
    for (const { name, text, complete } of stages) {
      let view = this.shown.get(name);
      if (view === undefined) {
        if (text === "") continue;
        const body = made("div", "body");
        element.append(made("div", "stage", name.replace(/[_-]+/g, " ")), body);
        view = new MarkdownView(body, { level: this.level });
        this.shown.set(name, view);
      }
      view.set(text, { isFinal: complete });
    }
    if (isAtEnd) element.scrollTop = element.scrollHeight;
  }
}

/** @param {Element} anchor @returns {number} of the last heading before its end, 1 to 5: ours go on in the page's outline */
function levelIn(anchor) {
  const before = Node.DOCUMENT_POSITION_PRECEDING | Node.DOCUMENT_POSITION_CONTAINED_BY;
  const headings = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")];
  const last = headings.findLast((heading) => (anchor.compareDocumentPosition(heading) & before) !== 0);
  return Math.min(Number(last?.localName.slice(1) ?? 1), 5);
}

/** @param {string} panel @param {...(Node)} children */
function landmark(panel, ...children) {
  const card = made("div", "card");
  card.setAttribute("role", "region");
  card.setAttribute("aria-label", `${WORDS}: ${panel}`);
  card.append(...children);
  return card;
}

/** @returns {{host: HTMLElement, root: ShadowRoot}} */
function hosted() {
  const host = document.createElement("div");
  const root = host.attachShadow({ mode: "open" });
  root.adoptedStyleSheets = [STYLE];
  host.setAttribute("data-headgate-live", "");
  host.style.setProperty("all", "unset", "important");
  host.style.setProperty("display", "block", "important");
  return { host, root };
}

/** A card within an element of the page. */
export class Card {
  /** @param {string} panel @param {Element} anchor */
  constructor(panel, anchor) {
    this.anchor = anchor;
    this.texts = new Texts(levelIn(anchor));
    const { host, root } = hosted();
    this.host = host;
    this.puts = 0;
    this.maxPx = Math.min(MAX_PX, window.innerHeight / 3);
    const words = made("div", "words");
    words.append(made("strong", "", `${WORDS}.`), LONG_WORDS);
    root.append(landmark(panel, words, this.texts.element));
    // What a person types into must not leave the screen.
    this.fields = [...document.querySelectorAll("textarea, input:not([type=hidden]), [contenteditable]")]
      .filter((field) => isOnScreen(field.getBoundingClientRect()))
      .slice(0, 5);
  }

  /** @param {readonly Stage[]} stages @returns {boolean} whether it can be shown here */
  set(stages) {
    this.texts.set(stages);
    if (this.texts.shown.size === 0) return true;
    return this.put() && this.fit();
  }

  /** Stands as the last child, also after a render of the page. */
  put() {
    if (this.anchor.lastElementChild === this.host) return true;
    this.puts += 1;
    if (this.puts > MAX_PUTS) return false;
    const { scrollTop } = this.texts.element;
    this.anchor.append(this.host);
    this.texts.element.scrollTop = scrollTop;
    return true;
  }

  fit() {
    this.host.style.setProperty("max-height", `${this.maxPx}px`, "important");
    const over = Math.max(0, ...this.fields.map((field) => field.getBoundingClientRect().bottom - window.innerHeight));
    if (over === 0) return true;
    this.maxPx = Math.min(this.maxPx, this.host.getBoundingClientRect().height) - over;
    this.host.style.setProperty("max-height", `${this.maxPx}px`, "important");
    return this.maxPx >= MIN_PX;
  }

  remove() {
    this.host.remove();
  }
}

/** @param {DOMRect} rect */
const isOnScreen = ({ top, bottom, height }) => height > 0 && top >= 0 && bottom <= window.innerHeight;

/** A small window in a corner: it can be moved, folded up and closed. */
export class Dock {
  /** @param {string} panel @param {string} about what the text is, in words @param {() => void} onClose */
  constructor(panel, about, onClose) {
    this.texts = new Texts(levelIn(document.body));
    const { host, root } = hosted();
    this.host = host;
    const words = made("div", "words");
    this.words = made("span", "", about);
    const fold = made("button", "", "–");
    fold.setAttribute("aria-label", "Fold up");
    fold.setAttribute("aria-expanded", "true");
    const close = made("button", "", "×");
    close.setAttribute("aria-label", "Close");
    words.append(this.words, fold, close);
    this.dock = made("div", "dock");
    this.dock.append(landmark(panel, words, this.texts.element));
    root.append(this.dock);
    fold.addEventListener("click", () => {
      const isClosed = this.dock.classList.toggle("closed");
      fold.setAttribute("aria-expanded", String(!isClosed));
    });
    close.addEventListener("click", onClose);
    words.addEventListener("pointerdown", (event) => event.target instanceof HTMLButtonElement || this.drag(event));
  }

  /** @param {PointerEvent} begun */
  drag(begun) {
    const handle = /** @type {HTMLElement} */ (begun.currentTarget);
    const { left, top } = this.dock.getBoundingClientRect();
    handle.setPointerCapture(begun.pointerId);
    /** @param {PointerEvent} now */
    const move = (now) => {
      this.dock.style.right = this.dock.style.bottom = "auto";
      this.dock.style.left = `${Math.min(Math.max(left + now.clientX - begun.clientX, 0), window.innerWidth - 48)}px`;
      this.dock.style.top = `${Math.min(Math.max(top + now.clientY - begun.clientY, 0), window.innerHeight - 24)}px`;
    };
    handle.addEventListener("pointermove", move);
    handle.addEventListener("lostpointercapture", () => handle.removeEventListener("pointermove", move), { once: true });
  }

  /** @param {string} about */
  say(about) {
    this.words.textContent = about;
  }

  /** @param {readonly Stage[]} stages @returns {boolean} whether it can be shown */
  set(stages) {
    this.texts.set(stages);
    if (this.texts.shown.size > 0 && !this.host.isConnected) document.body.append(this.host);
    return true;
  }

  remove() {
    this.host.remove();
  }
}
