/**
 * One call of the page, shown live: reads its run, and shows the text in the panels that wait for this very answer.
 *
 * The text is bound to the elements that were there when the call was sent. When one of them goes, or the page's address
 * changes, the text goes at once and for good: what looks the same later may be about something else.
 */

import * as kept from "./kept.js";
import { Card, Dock } from "./view.js";
import { anchorOf, find, isStill } from "./place.js";
import { StreamClient, StreamError } from "../client.js";
import { EMPTY, reduce, stagesOf } from "../state.js";

export { kept };

/** Milliseconds that a page has, after it has sent its call, to show where the answer will stand. */
const BIND_MS = 1000;

/** Milliseconds that a page has to show its own answer, from when it has it. */
const RENDER_MS = 400;

/**
 * Runs that all tabs together read at once by HTTP/1.1: there a browser opens six connections to a host, and the page's own
 * calls need theirs.
 */
const MAX_READING = 2;

/** Reads of this page that have been left, until their places are free. @type {Set<Promise<void>>} */
const leaving = new Set();

/** A render of the page so shortly before its answer is seen is that of the answer, in milliseconds. */
const JUST_MS = 100;

/** What a person turns to something else by. */
const ACTS = "button, a, summary, input[type=submit], input[type=button], " +
  ["button", "link", "menuitem", "option", "tab", "treeitem"].map((role) => `[role=${role}]`).join(", ");

/** Between two looks of a hidden tab, which has no frames. */
const HIDDEN_MS = 250;

/**
 * @typedef {object} LiveCall
 * @property {string} run
 * @property {import("./routes.js").AttachRoute} route
 * @property {string} base where Headgate is
 * @property {typeof globalThis.fetch} fetch the page's own, from before the script
 * @property {() => Record<string, string>} headers credentials as the page last set them
 * @property {RequestCredentials} credentials
 * @property {(step: () => void) => void} guard runs a step, and counts its failure
 * @property {() => void} onNothing there is no such run: what was said of this route is not so any more
 * @property {string} about for a text that no panel waits for; "" if the page waits
 * @property {readonly import("../state.js").Stage[]} stages what the tab has kept of it
 */

export class Live {
  /** @param {LiveCall} call */
  constructor(call) {
    this.call = call;
    /** @type {import("../state.js").StreamState} */
    this.state = { ...EMPTY, stages: call.stages };
    this.isOver = this.isBound = false;
    this.address = location.href;
    /** @type {Map<string, Element | null>} by panel; null: in a window */
    this.anchors = new Map();
    /** @type {Element | null} */
    this.waiting = null;
    /** @type {Map<string, Card | Dock>} */
    this.views = new Map();
    /** @type {Dock | null} */
    this.docked = null;
    /** @type {(() => void) | null} */
    this.cancelRender = null;
    this.reading = new AbortController();
    const step = () => call.guard(() => this.look());
    this.observer = new MutationObserver((records) => call.guard(() => (this.heed(records), this.look())));
    this.observer.observe(document, { childList: true, subtree: true, attributes: true, characterData: true });
    for (const [target, name] of /** @type {[EventTarget | undefined, string][]} */ ([
      [window, "popstate"],
      [window, "hashchange"],
      [/** @type {any} */ (window).navigation, "currententrychange"],
    ]))
      target?.addEventListener(name, step, { signal: this.reading.signal });
    // A page that does not show that it waits may have turned to something else by any of these.
    if (call.route.waiting === undefined || call.about !== "")
      document.addEventListener("click", (event) => call.guard(() => this.heedClick(event)), {
        capture: true,
        signal: this.reading.signal,
      });
    this.bindBy = performance.now() + BIND_MS;
    setTimeout(() => call.guard(() => this.bind()), BIND_MS);
    this.bind();
    this.whole = whileThereIsRoom(call.base, () => this.read());
  }

  /** Reads no further. */
  leave() {
    this.reading.abort();
    leaving.add(this.whole);
    const left = () => void leaving.delete(this.whole);
    this.whole.then(left, left);
  }

  async read() {
    const { base, fetch, headers, credentials, run, guard } = this.call;
    // The page has the status of a call that failed. Of a second one the console would say more than without the script.
    /** @type {typeof globalThis.fetch} */
    const asked = (url, init) => fetch(`${url}?failure=event`, init);
    const client = new StreamClient({ base, fetch: asked, credentials, headers: async () => headers() });
    let state = EMPTY;
    try {
      for await (const event of client.attach(run, this.reading.signal)) {
        if (this.isOver) return;
        state = reduce(state, event);
        // Read again from its beginning, a text first has to come up to what was kept of it.
        if (state.phase === "done" || charsOf(state) >= charsOf(this.state)) this.state = state;
        guard(() => this.renderSoon());
      }
      if (this.call.about) guard(() => this.finish());
    } catch (error) {
      if (!this.isOver && state === EMPTY && error instanceof StreamError && error.code === "lost") this.call.onNothing();
      // No such run, or it failed: the page's own answer says how it went, and what was shown stays until then.
      if (this.call.about) guard(() => this.end());
    }
  }

  /** Finds where the text will stand, while the page may still be about to show that it waits. */
  bind() {
    if (this.isOver || this.isBound) return;
    const { panels, waiting } = this.call.route;
    const isLate = performance.now() >= this.bindBy;
    if (this.call.about === "") {
      if (waiting !== undefined && this.waiting === null) this.waiting = find(waiting);
      for (const [name, place] of Object.entries(panels))
        if (!this.anchors.get(name)) this.anchors.set(name, anchorOf(place));
      const isWhole = [...this.anchors.values()].every((anchor) => anchor !== null);
      if (!isLate && !(isWhole && (waiting === undefined || this.waiting !== null))) return;
      if (waiting !== undefined && this.waiting === null) return this.end(); // nobody waits, as far as can be seen
    }
    this.isBound = true;
    this.renderSoon();
  }

  /** Whether all is still as it was when the call was sent; if not, the text is gone. */
  look() {
    if (this.isOver) return;
    this.bind();
    const { waiting } = this.call.route;
    const isSame =
      location.href === this.address &&
      (waiting === undefined || this.waiting === null || isStill(waiting, this.waiting)) &&
      [...this.anchors.values()].every((anchor) => anchor === null || anchor.isConnected);
    if (!isSame) return this.end();
    for (const [name, view] of this.views) if (view instanceof Card && !view.put()) this.dock(name, view);
  }

  renderSoon() {
    if (this.cancelRender !== null || this.isOver || !this.isBound) return;
    const render = () => {
      this.cancelRender = null;
      this.call.guard(() => this.render());
    };
    if (document.hidden) {
      const timer = setTimeout(render, HIDDEN_MS);
      this.cancelRender = () => clearTimeout(timer);
    } else {
      const frame = requestAnimationFrame(render);
      this.cancelRender = () => cancelAnimationFrame(frame);
    }
  }

  render() {
    this.look();
    if (this.isOver) return;
    for (const panel of new Set(this.state.stages.map((stage) => stage.panel))) {
      const stages = stagesOf(this.state, panel);
      if (stages.every(({ text }) => text === "")) continue;
      const view = this.views.get(panel) ?? this.view(panel);
      if (!view.set(stages)) this.dock(panel, view);
    }
  }

  /** @param {string} panel */
  view(panel) {
    const anchor = this.anchors.get(panel) ?? null;
    const view = anchor === null ? this.window(panel) : new Card(panel, anchor);
    this.views.set(panel, view);
    return view;
  }

  /** One for all panels that have no other place. @param {string} panel the first of them */
  window(panel) {
    const about = this.call.about || "Live text, not final. The finished answer takes its place.";
    this.docked ??= new Dock(panel, about, () => this.end());
    return this.docked;
  }

  /** A panel that has no room for the card, or does not keep it. @param {string} panel @param {Card | Dock} view */
  dock(panel, view) {
    view.remove();
    const dock = this.window(panel);
    this.views.set(panel, dock);
    dock.set(stagesOf(this.state, panel));
  }

  /** @param {MouseEvent} event */
  heedClick({ target }) {
    const isOwn = [...this.views.values()].some(({ host }) => host === target);
    if (!isOwn && target instanceof Element && target.closest(ACTS) !== null) this.end();
  }

  /** @param {MutationRecord[]} records */
  heed(records) {
    if (this.views.size === 0) return;
    const own = new Set([...this.views.values()].map(({ host }) => /** @type {Node} */ (host)));
    for (const [name, view] of this.views) {
      const anchor = this.anchors.get(name) ?? document.body;
      const isRendered = records.some(
        ({ target, addedNodes, removedNodes }) =>
          anchor.contains(target) &&
          (target.nodeType !== Node.ELEMENT_NODE || ![...addedNodes, ...removedNodes].every((node) => own.has(node))),
      );
      if (isRendered) this.renderedAt.set(name, performance.now());
      if (isRendered && this.isAnswered) this.drop(name, view);
    }
  }

  isAnswered = false;
  /** @type {Map<string, number>} when the page last changed something in a panel, by its name */
  renderedAt = new Map();

  /**
   * The page has its answer, and may have shown it already.
   * @param {boolean} isGood whether it will show a text
   */
  answered(isGood) {
    if (!isGood) return this.end();
    for (const [name, view] of this.views)
      if (performance.now() - (this.renderedAt.get(name) ?? -Infinity) < JUST_MS) this.drop(name, view);
    this.isAnswered = true;
    this.leave();
    this.cancelRender?.();
    setTimeout(() => this.end(), RENDER_MS);
  }

  /** A run of before the page was loaded has ended: nothing of the page will show it. */
  finish() {
    for (const view of this.views.values())
      if (view instanceof Dock) view.say("This answer is complete. You find it where you asked for it.");
  }

  /** The page is about to be unloaded. */
  keep() {
    if (this.call.route.keep_text === "sessionStorage" && !this.isOver && !this.isAnswered) kept.keepText(this.call.run, this.state.stages);
  }

  /** @param {string} name @param {Card | Dock} view */
  drop(name, view) {
    view.remove();
    this.views.delete(name);
  }

  /** Nothing of it is shown, or will be. */
  end() {
    if (this.isOver) return;
    this.isOver = true;
    this.observer.disconnect();
    this.leave();
    this.cancelRender?.();
    for (const [name, view] of this.views) this.drop(name, view);
    this.state = EMPTY;
  }
}

/** @param {import("../state.js").StreamState} state */
const charsOf = (state) => state.stages.reduce((sum, { text }) => sum + text.length, 0);

/** @param {string} base @param {() => Promise<void>} read called if there is room, and by then */
async function whileThereIsRoom(base, read) {
  const { locks } = navigator;
  if (locks === undefined || hasRoom(base)) return read();
  await Promise.allSettled(leaving); // one call after the other has the same place, also where no other is free
  for (let at = 0; at < MAX_READING; at += 1) {
    const wasFree = await locks.request(`headgate-live-${at}`, { ifAvailable: true }, async (lock) => {
      if (lock !== null) await read();
      return lock !== null;
    });
    if (wasFree) return;
  }
}

/** @param {string} base @returns {boolean} whether one connection carries many requests; in doubt it does not */
function hasRoom(base) {
  const asked = /** @type {PerformanceResourceTiming[]} */ (performance.getEntriesByName(`${base}/_headgate/attach.json`));
  return /^h[23]/.test(asked.at(-1)?.nextHopProtocol ?? "");
}
