/**
 * Markdown to DOM nodes while it grows. Text never becomes HTML, so nothing in an answer can act as markup.
 *
 *     const view = new MarkdownView(document.querySelector("#answer"));
 *     view.set(textSoFar);
 *     view.set(wholeText, { isFinal: true });
 *
 * Nodes stay as long as what they show does: a selection survives, a table grows by rows, code by lines. What an open
 * `**` or a table's first row will become is taken for granted, and taken back if it does not. Links lead to https, http,
 * mailto and fragments alone; an image is shown as a link to it, so that nothing is fetched.
 */

import { Blocks } from "./markdown/blocks.js";

/** @typedef {import("./markdown/inline.js").Made} Made */
/** @typedef {import("./markdown/inline.js").Piece} Piece */

/** One text as it grows. It owns the children of `root`. */
export class MarkdownView {
  /**
   * @param {Element} root
   * @param {{level?: number}} [options] `level`: of the heading that the text stands under, 1 to 5
   */
  constructor(root, { level = 2 } = {}) {
    this.root = root;
    this.level = level;
    this.text = "";
    /** Characters whose elements are final, and how many these are. */
    this.settledChars = 0;
    this.settledNodes = 0;
    this.settledLevel = level;
  }

  /**
   * @param {string} text the whole of it so far; one that does not go on from the one before replaces it
   * @param {{isFinal?: boolean}} [options] nothing more will come: what is open is text
   */
  set(text, { isFinal = false } = {}) {
    if (!text.startsWith(this.text)) {
      this.settledChars = this.settledNodes = 0;
      this.settledLevel = this.level;
    }
    this.text = text;
    const parser = new Blocks(this.level, this.settledLevel, !isFinal);
    const from = this.settledChars;
    const blocks = parser.read(text.slice(from));
    put(this.root, blocks.map(({ piece }) => piece), this.settledNodes);
    const before = blocks.at(-2);
    if (before === undefined || !isKnown(text, from + before.end)) return;
    this.settledChars = from + before.end;
    this.settledNodes += blocks.length - 1;
    this.settledLevel = before.level;
  }
}

/**
 * @param {string} text
 * @param {{level?: number}} [options]
 * @returns {DocumentFragment} a text that is whole
 */
export function renderMarkdown(text, options) {
  const fragment = document.createDocumentFragment();
  const box = document.createElement("div");
  new MarkdownView(box, options).set(text, { isFinal: true });
  while (box.firstChild !== null) fragment.append(box.firstChild);
  return fragment;
}

/**
 * @param {string} text @param {number} at where the last block begins
 * @returns {boolean} its first two lines are whole: it cannot become a part of the block before it
 */
function isKnown(text, at) {
  while (/\s/.test(text[at] ?? "")) at += 1;
  const end = text.indexOf("\n", at);
  return end >= 0 && text.includes("\n", end + 1);
}

/**
 * Makes the children of an element what they should be, and leaves alone those that are already.
 * @param {Element} parent @param {readonly Piece[]} pieces @param {number} [from] children before it stay as they are
 */
function put(parent, pieces, from = 0) {
  /** @type {ChildNode | null} */
  let node = parent.childNodes[from] ?? null;
  for (const piece of pieces) {
    /** @type {ChildNode | null} */
    const next = node?.nextSibling ?? null;
    if (typeof piece === "string") {
      if (node instanceof Text) putText(node, piece);
      else place(parent, node, document.createTextNode(piece));
    } else if (node instanceof Element && isSame(node, piece)) put(node, piece.children);
    else {
      const made = document.createElement(piece.tag);
      for (const [name, value] of Object.entries(piece.attributes)) made.setAttribute(name, value);
      put(made, piece.children);
      place(parent, node, made);
    }
    node = next;
  }
  while (node !== null) {
    /** @type {ChildNode | null} */
    const next = node.nextSibling;
    node.remove();
    node = next;
  }
}

/** @param {Element} parent @param {ChildNode | null} old @param {ChildNode} made */
function place(parent, old, made) {
  if (old === null) parent.append(made);
  else old.replaceWith(made);
}

/** @param {Element} node @param {Made} piece */
function isSame(node, { tag, attributes }) {
  const entries = Object.entries(attributes);
  if (node.localName !== tag || node.attributes.length !== entries.length) return false;
  return entries.every(([name, value]) => node.getAttribute(name) === value);
}

/** Only from where it differs, so that a selection within the rest stays. @param {Text} node @param {string} text */
function putText(node, text) {
  const old = node.data;
  if (old === text) return;
  if (text.startsWith(old)) node.appendData(text.slice(old.length));
  else {
    let same = 0;
    while (same < text.length && text[same] === old[same]) same += 1;
    node.replaceData(same, old.length - same, text.slice(same));
  }
}
