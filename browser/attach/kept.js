/**
 * What a tab keeps over a reload: the ids of the runs that it has begun, and the paths of their calls. A text is kept only
 * where the route's `keep_text` says so, and only from when the page goes until it is there again.
 *
 * A browser may refuse to keep anything. Then nothing is found again after a reload, and all else is as ever.
 */

/** @typedef {import("../state.js").Stage} Stage */
/** @typedef {{run: string, path: string, at: number}} Remembered a run, the path of its call, and when that was sent */

/** Runs that a tab remembers. */
const MAX_RUNS = 5;

/** Characters of a text that is kept, with its frame; a longer one is not. */
export const MAX_KEPT_CHARS = 256 * 1024;

const RUNS = "headgate.attach";
const TEXT = "headgate.attach.text.";

/** @template T @param {(storage: Storage) => T} step @param {T} otherwise @returns {T} */
function tried(step, otherwise) {
  try {
    return step(sessionStorage);
  } catch {
    return otherwise; // forbidden, full, or what is there is not ours
  }
}

/** @returns {Remembered[]} */
export function remembered() {
  return tried((storage) => JSON.parse(storage.getItem(RUNS) ?? "[]"), []);
}

/** @param {Remembered[]} runs */
function write(runs) {
  tried((storage) => (runs.length > 0 ? storage.setItem(RUNS, JSON.stringify(runs)) : storage.removeItem(RUNS)), undefined);
}

/** @param {Remembered} run */
export function remember(run) {
  write([...remembered(), run].slice(-MAX_RUNS));
}

/** @param {string} run */
export function forget(run) {
  write(remembered().filter((one) => one.run !== run));
  takeText(run);
}

/** @param {string} run @param {readonly Stage[]} stages */
export function keepText(run, stages) {
  const text = JSON.stringify(stages);
  if (text.length <= MAX_KEPT_CHARS) tried((storage) => storage.setItem(TEXT + run, text), undefined);
}

/** @param {string} run @returns {readonly Stage[]} what was kept, which is kept no longer */
export function takeText(run) {
  const stages = tried((storage) => JSON.parse(storage.getItem(TEXT + run) ?? "[]"), []);
  tried((storage) => storage.removeItem(TEXT + run), undefined);
  return stages;
}
