/** Says to a screen reader what a text has come to: whole sentences and stages, never single words. */

/** Milliseconds between two things that are said. */
export const PAUSE_MS = 1000;
/** What was said stays in the page for so long at least, and no longer than needed. */
const MAX_SAID = 4;
/** Characters of one announcement; the rest comes with the next one. */
const MAX_CHARS = 1000;
/** Things that wait to be said; the oldest go, so that what is said is not long past. */
const MAX_DUE = 20;

const SENTENCE_END = /[.!?…。！？؟।](?=["'”’)\]]*\s)|\n/g;
const MARKS = /(?:^|\n)[ \t]*(?:#{1,6}|>|[-*+]|\|)[ \t]*|[*_`~|]{1,3}|\]\([^)\s]{0,200}\)|!?\[/g;

export class Announcer {
  /** @param {HTMLElement} region with `aria-live` */
  constructor(region) {
    this.region = region;
    /** @type {string[]} */
    this.due = [];
    /** Characters of each text that were said or are due. @type {Map<string, number>} */
    this.said = new Map();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
  }

  /** @param {string} words */
  say(words) {
    this.due.push(words);
    if (this.due.length > MAX_DUE) this.due.shift();
    this.timer ??= setTimeout(() => this.next());
  }

  /**
   * Says the sentences that are new.
   * @param {string} name of the text @param {string} text the whole of it so far @param {boolean} isWhole
   */
  follow(name, text, isWhole) {
    const from = this.said.get(name) ?? 0;
    const end = isWhole ? text.length : lastSentenceEnd(text, from);
    if (end <= from) return;
    this.said.set(name, end);
    const words = text.slice(from, end).replace(MARKS, " ").replace(/\s+/g, " ").trim();
    if (words !== "") this.say(words);
  }

  /** Another answer comes. */
  forget() {
    this.said.clear();
    this.due = [];
  }

  /** Nothing is said any more. */
  close() {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.due = [];
    this.region.replaceChildren();
  }

  next() {
    const words = this.due.join(" ");
    const end = words.length <= MAX_CHARS ? words.length : words.lastIndexOf(" ", MAX_CHARS) + 1 || MAX_CHARS;
    this.due = end < words.length ? [words.slice(end)] : [];
    const line = document.createElement("p");
    line.textContent = words.slice(0, end);
    this.region.append(line);
    while (this.region.childElementCount > MAX_SAID) this.region.firstElementChild?.remove();
    // What comes within the pause is said together.
    this.timer = setTimeout(() => {
      this.timer = undefined;
      if (this.due.length > 0) this.next();
    }, PAUSE_MS);
  }
}

/** @param {string} text @param {number} from @returns {number} where the last sentence that begins after `from` ends */
function lastSentenceEnd(text, from) {
  let end = from;
  for (const found of text.slice(from).matchAll(SENTENCE_END)) end = from + found.index + found[0].length;
  return end;
}
