/** What stands within a line of Markdown: emphasis, code and links, as elements to be. Pure. */

/**
 * @typedef {object} Made an element to be
 * @property {string} tag
 * @property {Readonly<Record<string, string>>} attributes
 * @property {readonly Piece[]} children
 */
/** @typedef {string | Made} Piece */

/** Quotes, lists and emphasis within one another; deeper ones are text. */
export const MAX_DEPTH = 12;
/** Characters of a link's address; a longer one is text. */
const MAX_ADDRESS = 2048;

const ALLOWED = /^(?:https?:\/\/[^\s/]|mailto:[^\s]|#)[^\s]*$/i;
const WORD = /[\p{L}\p{N}]/u;
const ESCAPABLE = /[!-/:-@[-`{-~]/;

/** Elements whose direction follows their own text. */
const OWN_DIRECTION = new Set(["p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table"]);

/** @typedef {{mark: string, tag: string, children: Piece[]}} Open a mark that is still to be closed */

const TAGS = Object.freeze({ "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del", "[": "a", "![": "a" });

/**
 * One pass over a text, so that its cost is linear whatever stands there.
 * @param {string} text @param {boolean} grows what is open at its end is taken for closed
 * @returns {Piece[]}
 */
export function inline(text, grows) {
  /** @type {Piece[]} */
  const top = [];
  /** @type {Open[]} */
  const open = [];
  let plain = "";
  const here = () => open.at(-1)?.children ?? top;
  const flush = () => {
    if (plain !== "") here().push(plain);
    plain = "";
  };
  /** @param {number} count how many stay open */
  const giveUp = (count) => {
    flush();
    while (open.length > count) {
      const { mark, children } = /** @type {Open} */ (open.pop());
      add(here(), mark, children);
    }
  };
  let at = 0;
  while (at < text.length) {
    const char = text[at];
    if (char === "\\" && ESCAPABLE.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else if (char === "`") {
      const run = /** @type {RegExpExecArray} */ (/`+/.exec(text.slice(at, at + MAX_DEPTH)))[0];
      const end = text.indexOf(run, at + run.length);
      if (end < 0 && !grows) {
        plain += run;
        at += run.length;
        continue;
      }
      flush();
      const inner = text.slice(at + run.length, end < 0 ? undefined : end);
      if (inner !== "") here().push(make("code", [inner]));
      at = end < 0 ? text.length : end + run.length;
    } else if (char === "]") {
      const depth = open.findLastIndex(({ tag }) => tag === "a");
      const address = text[at + 1] === "(" && depth >= 0 ? text.slice(at + 2, at + 2 + MAX_ADDRESS) : null;
      const found = address === null ? null : /^<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/.exec(address);
      const isCut = address !== null && found === null && grows && !/[\s)]/.test(address) && address.length < MAX_ADDRESS;
      if (depth >= 0 && (found !== null || isCut)) {
        giveUp(depth + 1);
        const { children } = /** @type {Open} */ (open.pop());
        if (found !== null && ALLOWED.test(found[1])) here().push(link(found[1], children));
        else add(here(), "", children);
        at = found === null ? text.length : at + 2 + found[0].length;
      } else {
        if (depth >= 0) giveUp(depth);
        plain += char;
        at += 1;
      }
    } else if (char === "<") {
      const found = /^<((?:https?:\/\/|mailto:)[^\s<>]+)>/i.exec(text.slice(at, at + MAX_ADDRESS));
      if (found !== null && ALLOWED.test(found[1])) {
        flush();
        here().push(link(found[1], [found[1].replace(/^mailto:/i, "")]));
      } else plain += char;
      at += found === null ? 1 : found[0].length;
    } else {
      const mark = markAt(text, at, open.at(-1)?.mark);
      const size = mark?.length ?? 1;
      const depth = mark === null ? -1 : open.findLastIndex((one) => one.mark === mark);
      if (mark === null) plain += char;
      else if (mark.endsWith("[")) {
        flush();
        if (open.length < MAX_DEPTH && !open.some(({ tag }) => tag === "a")) open.push({ mark, tag: "a", children: [] });
        else plain += mark;
      } else if (depth >= 0 && closes(text, at, mark)) {
        giveUp(depth + 1);
        const { tag, children } = /** @type {Open} */ (open.pop());
        if (children.length > 0) here().push(make(tag, children));
      } else if (opens(text, at, mark) && open.length < MAX_DEPTH) {
        flush();
        open.push({ mark, tag: TAGS[mark], children: [] });
      } else plain += mark;
      at += size;
    }
  }
  flush();
  while (grows && open.length > 0) {
    const { mark, tag, children } = /** @type {Open} */ (open.pop());
    if (tag === "a") add(here(), mark, children);
    else if (children.length > 0) here().push(make(tag, children));
  }
  giveUp(0);
  return joined(top);
}

/** One by one: a call takes no more than some ten thousand arguments. @param {Piece[]} to @param {string} mark @param {Piece[]} pieces */
function add(to, mark, pieces) {
  if (mark !== "") to.push(mark);
  for (const piece of pieces) to.push(piece);
}

/** @param {string} text @param {number} at @param {string | undefined} last the mark that was opened last @returns {keyof typeof TAGS | null} */
function markAt(text, at, last) {
  if ((last === "*" || last === "_") && text.slice(at, at + 3) === last.repeat(3)) return last;
  const two = text.slice(at, at + 2);
  if (two === "**" || two === "__" || two === "~~" || two === "![") return two;
  const one = two[0];
  return one === "*" || one === "_" || one === "[" ? one : null;
}

/** @param {string} text @param {number} at @param {string} mark */
function opens(text, at, mark) {
  const after = text[at + mark.length];
  if (after === undefined || /\s/.test(after)) return false;
  return !(mark[0] === "_" && WORD.test(text[at - 1] ?? ""));
}

/** @param {string} text @param {number} at @param {string} mark */
function closes(text, at, mark) {
  if (/\s/.test(text[at - 1] ?? " ")) return false;
  return !(mark[0] === "_" && WORD.test(text[at + mark.length] ?? ""));
}

/** @param {string} address one that `ALLOWED` knows @param {readonly Piece[]} children */
function link(address, children) {
  /** @type {Record<string, string>} */
  const outside = address.startsWith("#") ? {} : { rel: "noopener noreferrer nofollow", target: "_blank" };
  return make("a", children.length > 0 ? children : [address], { href: address, ...outside });
}

/** @param {string} tag @param {readonly Piece[]} children @param {Readonly<Record<string, string>>} [attributes] @returns {Made} */
export function make(tag, children, attributes = {}) {
  return { tag, children: joined(children), attributes: OWN_DIRECTION.has(tag) ? { dir: "auto", ...attributes } : attributes };
}

/** @param {readonly Piece[]} pieces @returns {Piece[]} with texts that follow one another made into one */
function joined(pieces) {
  /** @type {Piece[]} */
  const out = [];
  for (const piece of pieces) {
    const before = out.at(-1);
    if (typeof piece === "string" && typeof before === "string") out[out.length - 1] = before + piece;
    else out.push(piece);
  }
  return out;
}
