/**
 * Elements of a foreign page, found by what a person sees of them. In doubt, there is none.
 */

/** @typedef {import("./routes.js").Place} Place */
/** @typedef {import("./routes.js").PanelPlace} PanelPlace */

/** @param {string | null | undefined} text */
const plain = (text) => (text ?? "").replace(/\s+/g, " ").trim();

/** @param {Element} element */
function isVisible(element) {
  return typeof element.checkVisibility === "function" ? element.checkVisibility() : element.getClientRects().length > 0;
}

/** @param {Element} element */
function labelOf(element) {
  const own = element.getAttribute("aria-label");
  if (own !== null) return own;
  const { labels } = /** @type {HTMLInputElement} */ (element);
  return labels?.length ? labels[0].textContent : null;
}

/** @param {Place} place @param {Element} element */
function is(place, element) {
  if (place.css !== undefined) return element.matches(place.css);
  if (place.role !== undefined) return element.getAttribute("role") === place.role;
  if (place.placeholder !== undefined) return element.getAttribute("placeholder") === place.placeholder;
  if (place.label !== undefined) return plain(labelOf(element)) === plain(place.label);
  return plain(element.textContent) === plain(place.text);
}

/** @param {Place} place @param {Element} element whether what was found there is still that */
export function isStill(place, element) {
  return element.isConnected && is(place, element) && isVisible(element);
}

/** @param {Place} place @returns {Iterable<Element>} */
function* candidates(place) {
  if (place.text === undefined) {
    const selector = place.css ?? (place.role !== undefined ? "[role]" : place.placeholder !== undefined ? "[placeholder]" : "*");
    yield* document.querySelectorAll(selector);
    return;
  }
  const wanted = plain(place.text);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = texts.nextNode(); node !== null; node = texts.nextNode()) {
    const text = plain(node.nodeValue);
    if (text !== "" && wanted.startsWith(text) && node.parentElement !== null) yield node.parentElement;
  }
}

/** @param {Place} place @returns {Element | null} the one visible element that it names */
export function find(place) {
  const found = new Set();
  for (const element of candidates(place)) if (is(place, element) && isVisible(element)) found.add(element);
  return found.size === 1 ? [...found][0] : null;
}

/** @param {PanelPlace} place @returns {Element | null} the element that the live text is the last child of */
export function anchorOf(place) {
  let element = find(place);
  for (let up = place.up ?? 0; up > 0 && element !== null; up -= 1) element = element.parentElement;
  if (element === null || place.into === undefined) return element;
  const inside = [...element.querySelectorAll(place.into)].filter(isVisible);
  return inside.length === 1 ? inside[0] : null;
}
