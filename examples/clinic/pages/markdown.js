/**
 * Markdown to DOM nodes: headings, lists, tables, paragraphs, bold, code. Text never becomes HTML, so nothing in an
 * answer can act as markup.
 */

const HEADING = /^(#{1,6})\s+(.*)$/;
const ITEM = /^\s*(?:[-*]|\d+\.)\s+(.*)$/;
const ROW = /^\s*\|(.*?)\|?\s*$/;
const RULE = /^[\s|:-]+$/;
const INLINE = /(\*\*[^*]+\*\*|`[^`]+`|✅)/;

/**
 * @param {string} text may end anywhere: an unfinished table or word is shown as far as it goes
 * @param {number} level of the heading that it stands under
 * @returns {DocumentFragment}
 */
export function renderMarkdown(text, level = 3) {
  const out = document.createDocumentFragment();
  const lines = text.split("\n");
  while (lines.length) out.append(...takeBlock(lines, level));
  return out;
}

/** Takes one block off the front of `lines`; always at least one line. */
function takeBlock(lines, level) {
  const [first] = lines;
  if (HEADING.test(first)) return [heading(lines.shift(), level)];
  if (ROW.test(first)) return [table(takeWhile(lines, (line) => ROW.test(line)))];
  if (ITEM.test(first)) return [list(takeWhile(lines, (line) => ITEM.test(line)))];
  if (first.trim()) return [element("p", inline(takeWhile(lines, isProse).join("\n")))];
  lines.shift();
  return [];
}

function heading(line, level) {
  const [, marks, text] = line.match(HEADING);
  return element(`h${Math.min(marks.length + level, 6)}`, inline(text));
}

function isProse(line) {
  return Boolean(line.trim()) && ![HEADING, ROW, ITEM].some((pattern) => pattern.test(line));
}

function takeWhile(lines, belongs) {
  const end = lines.findIndex((line) => !belongs(line));
  return lines.splice(0, end < 0 ? lines.length : end);
}

function list(lines) {
  return element("ul", lines.map((line) => element("li", inline(line.match(ITEM)[1]))));
}

function table(lines) {
  const hasHead = lines.length > 1 && RULE.test(lines[1]);
  const rows = lines.filter((line) => !RULE.test(line));
  return element("table", rows.map((line, index) => row(line, hasHead && index === 0 ? "th" : "td")));
}

function row(line, cell) {
  const cells = line.match(ROW)[1].split("|");
  return element("tr", cells.map((text) => element(cell, inline(text.trim()))));
}

function inline(text) {
  return text.split(INLINE).filter(Boolean).map((part) => {
    if (part.length > 4 && part.startsWith("**")) return element("strong", [part.slice(2, -2)]);
    if (part.length > 2 && part.startsWith("`")) return element("code", [part.slice(1, -1)]);
    return part === "✅" ? tick() : part;
  });
}

/** Still the character, so copied text is the text; drawn by the style sheet, since not every system has a glyph. */
function tick() {
  const mark = element("span", ["✅"]);
  mark.className = "tick";
  return mark;
}

function element(name, children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}
