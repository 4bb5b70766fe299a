/** The blocks of a Markdown text: headings, lists, tables, quotes, code and paragraphs, as elements to be. Pure. */

import { MAX_DEPTH, inline, make } from "./inline.js";

/** @typedef {import("./inline.js").Made} Made */
/** @typedef {{piece: Made, end: number, level: number}} Block `end`: where the text after it begins; `level`: of the last heading */

/** Cells of a row; more are left out of the table, and not of the text that is copied. */
const MAX_CELLS = 64;

// Each of these takes a time that is linear in its line, whatever stands there.
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]|$)/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:[ \t]+(.*))?$/;
const FENCE = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const ROW = /^ {0,3}\|/;
const UNDER_HEAD = /^[\s|:-]*$/;
/** What the beginning of a line may still become; it is not shown before it is known. */
const UNKNOWN = /^[ \t]*(?:#{1,6}|[-*+_=>]{1,3}|\d{1,9}[.)]?|`{1,3}|~{1,3})[ \t]*$/;

export class Blocks {
  /** @param {number} top level of what it stands under @param {number} level of the heading before @param {boolean} grows */
  constructor(top, level, grows) {
    this.top = top;
    this.level = level;
    this.grows = grows;
  }

  /** @param {string} text @returns {Block[]} */
  read(text) {
    const lines = text.split("\n");
    if (this.grows && UNKNOWN.test(lines[lines.length - 1])) lines[lines.length - 1] = "";
    return this.blocks(lines.map((line) => line.replace(/\r$/, "")), lines, 0);
  }

  /**
   * @param {readonly string[]} lines @param {readonly string[]} raw the same, for their lengths @param {number} depth
   * @returns {Block[]}
   */
  blocks(lines, raw, depth) {
    /** @type {Block[]} */
    const blocks = [];
    let at = 0;
    let end = 0;
    while (at < lines.length) {
      const [piece, next] = this.block(lines, at, depth);
      for (; at < next; at += 1) end += raw[at].length + 1;
      if (piece !== null) blocks.push({ piece, end, level: this.level });
    }
    return blocks;
  }

  /** @param {readonly string[]} lines @param {number} depth @param {boolean} isLast more may come to them @returns {Made[]} */
  pieces(lines, depth, isLast) {
    const grows = this.grows;
    this.grows = grows && isLast;
    const pieces = this.blocks(lines, lines, depth).map(({ piece }) => piece);
    this.grows = grows;
    return pieces;
  }

  /** @param {readonly string[]} lines @param {number} at @param {number} depth @returns {[Made | null, number]} and the next line */
  block(lines, at, depth) {
    const line = lines[at];
    if (line.trim() === "") return [null, at + 1];
    const heading = HEADING.exec(line);
    if (heading !== null) return [this.heading(line, heading[1].length, isEnd(lines, at + 1)), at + 1];
    if (FENCE.test(line)) return code(lines, at);
    if (RULE.test(line)) return [make("hr", []), at + 1];
    if (this.isTable(lines, at)) return this.table(lines, at);
    if (depth < MAX_DEPTH && QUOTE.test(line)) return this.quote(lines, at, depth);
    if (depth < MAX_DEPTH && ITEM.test(line)) return this.list(lines, at, depth);
    let next = at + 1;
    while (next < lines.length && !this.interrupts(lines, next)) next += 1;
    return [make("p", inline(lines.slice(at, next).join("\n").trim(), this.grows && isEnd(lines, next))), next];
  }

  /** @param {readonly string[]} lines @param {number} at */
  interrupts(lines, at) {
    const line = lines[at];
    if (line.trim() === "") return true;
    return [HEADING, FENCE, RULE, QUOTE, ITEM].some((kind) => kind.test(line)) || this.isTable(lines, at);
  }

  /** @param {string} line @param {number} marks @param {boolean} isLast */
  heading(line, marks, isLast) {
    const text = line.trim().slice(marks).trim().replace(/(?:^|[ \t])#+$/, "");
    // Never a level left out: assistive technology reads levels as an outline.
    this.level = Math.min(marks + this.top, this.level + 1, 6);
    return make(`h${this.level}`, inline(text.trim(), this.grows && isLast));
  }

  /** @param {readonly string[]} lines @param {number} at @param {number} depth @returns {[Made, number]} */
  quote(lines, at, depth) {
    /** @type {string[]} */
    const inner = [];
    let found = QUOTE.exec(lines[at]);
    while (found !== null) {
      inner.push(found[1]);
      found = QUOTE.exec(lines[at + inner.length] ?? "");
    }
    return [make("blockquote", this.pieces(inner, depth + 1, isEnd(lines, at + inner.length))), at + inner.length];
  }

  /** @param {readonly string[]} lines @param {number} at @param {number} depth @returns {[Made, number]} */
  list(lines, at, depth) {
    const [, indent, mark] = /** @type {RegExpExecArray} */ (ITEM.exec(lines[at]));
    const isOrdered = mark.length > 1;
    /** @type {Made[]} */
    const items = [];
    let next = at;
    while (next < lines.length) {
      const item = ITEM.exec(lines[next]);
      if (item === null || item[1].length > indent.length + 1 || item[2].length > 1 !== isOrdered || RULE.test(lines[next])) break;
      if (item[1].length < indent.length) break;
      const [inner, after] = this.item(lines, next, item);
      const pieces = this.pieces(inner, depth + 1, isEnd(lines, after));
      // An item of one paragraph is its text.
      const [first] = pieces;
      const isTight = first?.tag === "p" && !pieces.slice(1).some(({ tag }) => tag === "p");
      items.push(make("li", isTight ? [...first.children, ...pieces.slice(1)] : pieces));
      next = after;
    }
    /** @type {Record<string, string>} */
    const start = isOrdered ? { start: String(parseInt(mark, 10)) } : {};
    return [make(isOrdered ? "ol" : "ul", items, start), next];
  }

  /**
   * @param {readonly string[]} lines @param {number} at @param {RegExpExecArray} item
   * @returns {[string[], number]} the item's own lines, and where the next one begins
   */
  item(lines, at, [, indent, , text = ""]) {
    const inner = [text];
    const most = indent.length + 2;
    let next = at + 1;
    for (; next < lines.length; next += 1) {
      const line = lines[next];
      const isBlank = line.trim() === "";
      const own = line.search(/\S/) >= most;
      if (isBlank) {
        const following = lines[next + 1] ?? "";
        const goesOn = following.search(/\S/) >= most || ITEM.exec(following)?.[1].length === indent.length;
        if (!goesOn) break;
      } else if (!own && this.interrupts(lines, next)) break;
      else if (!own && lines[next - 1].trim() === "") break;
      inner.push(isBlank ? "" : line.slice(Math.min(line.search(/[^ ]/), most)));
    }
    return [inner, next];
  }

  /** @param {readonly string[]} lines @param {number} at */
  isTable(lines, at) {
    if (!ROW.test(lines[at])) return false;
    const under = lines[at + 1];
    // A row that nothing follows yet will be a table's head.
    if (this.grows && (under === undefined || (at + 2 === lines.length && /^[\s|:-]*$/.test(under)))) return true;
    return under !== undefined && under.includes("-") && UNDER_HEAD.test(under);
  }

  /** @param {readonly string[]} lines @param {number} at @returns {[Made, number]} */
  table(lines, at) {
    const head = cells(lines[at]);
    let next = Math.min(at + 2, lines.length);
    /** @type {Made[]} */
    const rows = [];
    for (; next < lines.length && ROW.test(lines[next]); next += 1) {
      const isGrowing = this.grows && next === lines.length - 1;
      const row = cells(lines[next]).slice(0, Math.max(head.length, 1));
      rows.push(make("tr", row.map((text) => make("td", inline(text, isGrowing)))));
    }
    const isHeadGrowing = this.grows && at === lines.length - 1;
    const top = head.map((text) => (text === "" ? make("td", []) : make("th", inline(text, isHeadGrowing), { scope: "col" })));
    const table = make("table", [make("thead", [make("tr", top)]), make("tbody", rows)]);
    // Wider than the screen it is scrolled by itself, with the keyboard too.
    return [make("div", [table], { class: "table", role: "group", "aria-label": "Table", tabindex: "0" }), next];
  }
}

/** @param {readonly string[]} lines @param {number} next @returns {boolean} nothing stands from there on */
function isEnd(lines, next) {
  return next >= lines.length || (next === lines.length - 1 && lines[next] === "");
}

/** @param {readonly string[]} lines @param {number} at @returns {[Made, number]} */
function code(lines, at) {
  const [, fence] = /** @type {RegExpExecArray} */ (FENCE.exec(lines[at]));
  const language = lines[at].trim().slice(fence.length).trim().split(/\s/, 1)[0];
  let end = at + 1;
  while (end < lines.length && !isFenceEnd(lines[end], fence)) end += 1;
  const text = lines.slice(at + 1, end).join("\n");
  /** @type {Record<string, string>} */
  const attributes = language ? { "data-language": language } : {};
  return [make("pre", [make("code", text === "" ? [] : [text], attributes)]), Math.min(end + 1, lines.length)];
}

/** @param {string} line @param {string} fence */
function isFenceEnd(line, fence) {
  const found = line.trim();
  return found.length >= fence.length && found === fence[0].repeat(found.length);
}

/** @param {string} line @returns {string[]} */
function cells(line) {
  /** @type {string[]} */
  const found = [];
  let cell = "";
  const row = line.trim().replace(/^\|/, "");
  for (let at = 0; at < row.length; at += 1) {
    if (row[at] === "\\" && row[at + 1] === "|") cell += row[(at += 1)];
    else if (row[at] === "|") {
      found.push(cell.trim());
      cell = "";
    } else cell += row[at];
  }
  if (cell.trim() !== "") found.push(cell.trim());
  return found.slice(0, MAX_CELLS);
}
