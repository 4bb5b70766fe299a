/**
 * Text that arrives in bursts, shown at a steady pace: never more than `MAX_BEHIND_MS` behind, and at once where pacing
 * would be wrong: in a hidden tab, whose frames stop, and for readers who want less motion.
 */

/** A text that is all here is shown within so many milliseconds. */
export const MAX_BEHIND_MS = 400;

const FRAME_MS = 1000 / 60;

/**
 * @typedef {object} Surroundings what a smoother asks of its page; another one is given to tests
 * @property {() => number} now milliseconds, of the clock that frames are called with
 * @property {(callback: (ms: number) => void) => number} requestFrame
 * @property {(handle: number) => void} cancelFrame
 * @property {() => boolean} isStill whether to show everything at once
 * @property {(callback: () => void) => () => void} onStill calls back when that may have changed; returns how to stop it
 */

/** @type {Surroundings} */
const PAGE = {
  now: () => performance.now(),
  requestFrame: (callback) => requestAnimationFrame(callback),
  cancelFrame: (handle) => cancelAnimationFrame(handle),
  isStill: () => document.hidden || matchMedia("(prefers-reduced-motion: reduce)").matches,
  onStill: (callback) => {
    document.addEventListener("visibilitychange", callback);
    return () => document.removeEventListener("visibilitychange", callback);
  },
};

export class Smoother {
  /**
   * @param {(text: string) => void} show called with what a reader is to see now, at most once a frame
   * @param {Surroundings} [page]
   */
  constructor(show, page = PAGE) {
    this.show = show;
    this.page = page;
    this.text = "";
    this.shown = 0;
    /** How long the text was when it came, and until when all of that is shown. @type {{length: number, dueMs: number}[]} */
    this.due = [];
    /** @type {number | null} */
    this.frame = null;
    this.lastMs = 0;
    this.stopListening = page.onStill(() => page.isStill() && this.flush());
  }

  /** @param {string} text the whole of it so far; a text that does not go on from the one before is shown at once */
  set(text) {
    const goesOn = text.startsWith(this.text);
    if (goesOn && text.length === this.text.length) return;
    this.text = text;
    if (!goesOn || this.page.isStill()) {
      this.flush();
      return;
    }
    const nowMs = this.page.now();
    const last = this.due.at(-1);
    // What comes within one frame is due together, so that there is one entry a frame at most.
    if (last !== undefined && last.dueMs > nowMs + MAX_BEHIND_MS - FRAME_MS) last.length = text.length;
    else this.due.push({ length: text.length, dueMs: nowMs + MAX_BEHIND_MS });
    if (this.frame === null) {
      this.lastMs = nowMs;
      this.ask();
    }
  }

  /** Shows all that is here. */
  flush() {
    if (this.frame !== null) this.page.cancelFrame(this.frame);
    this.frame = null;
    this.due = [];
    this.shown = this.text.length;
    this.show(this.text);
  }

  /** Nothing is shown any more. */
  close() {
    if (this.frame !== null) this.page.cancelFrame(this.frame);
    this.frame = null;
    this.stopListening();
  }

  ask() {
    this.frame = this.page.requestFrame((ms) => this.step(ms));
  }

  /** @param {number} ms */
  step(ms) {
    this.frame = null;
    const passedMs = Math.max(ms - this.lastMs, 1);
    this.lastMs = ms;
    // The quickest pace that any of them needs.
    const steps = this.due.map(({ length, dueMs }) => {
      const leftMs = Math.max(dueMs - ms, 0);
      return ((length - this.shown) * passedMs) / (leftMs + passedMs);
    });
    this.shown = wholeCharacter(this.text, this.shown + Math.max(1, Math.ceil(Math.max(...steps))));
    this.due = this.due.filter(({ length }) => length > this.shown);
    this.show(this.text.slice(0, this.shown));
    if (this.due.length > 0) this.ask();
  }
}

/** @param {string} text @param {number} at @returns {number} `at`, or the end of the character that it is in */
function wholeCharacter(text, at) {
  const code = text.charCodeAt(at);
  return at < text.length && code >= 0xdc00 && code <= 0xdfff ? at + 1 : Math.min(at, text.length);
}
