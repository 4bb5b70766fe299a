/**
 * A stopwatch beside the batch page. It looks at that page from outside, as a person does: from when the dots come until
 * they go, and when live text first stands there. The page and its calls are not touched.
 */

const byId = (id) => document.getElementById(id);
const frame = byId("page");

/** @type {{began: number, live: number | null, answer: number | null} | null} seconds, but for `began` */
let times = null;

function look() {
  const page = frame.contentDocument;
  if (page === null) return;
  const isWaiting = page.querySelector(".dots") !== null;
  const isRunning = times !== null && times.answer === null;
  if (isWaiting && !isRunning) begin();
  if (times === null || times.answer !== null) return;
  if (page.querySelector("[data-headgate-live]") !== null) times.live ??= elapsed();
  if (!isWaiting) end(page.getElementById("banner").hidden);
}

function begin() {
  times = { began: performance.now(), live: null, answer: null };
  say("Running …", false);
  const tick = () => {
    show();
    if (times.answer === null) requestAnimationFrame(tick);
  };
  tick();
}

/** @param {boolean} isAnswered */
function end(isAnswered) {
  times.answer = elapsed();
  show();
  const [live, answer] = [times.live, times.answer].map((time) => time?.toFixed(1));
  if (!isAnswered) say("The answer failed. The page says so itself.", false);
  else if (live === undefined) say(`No live text; the page’s own answer after ${answer} s.`, false);
  else say(`Something to read after ${live} s instead of ${answer} s.`, true);
}

const elapsed = () => (performance.now() - times.began) / 1000;

function show() {
  for (const name of ["live", "answer"]) {
    const time = times[name];
    const isLate = name === "live" && times.answer !== null;
    const shown = time ?? (isLate ? null : elapsed());
    byId(name).textContent = shown === null ? "–" : `${shown.toFixed(1)} s`;
    byId(name).classList.toggle("settled", time !== null);
  }
}

/** @param {string} words @param {boolean} isResult */
function say(words, isResult) {
  byId("verdict").textContent = words;
  byId("verdict").classList.toggle("said", isResult);
}

const observer = new MutationObserver(look);

/** The page in the frame, each time that it is loaded. */
function observe() {
  observer.disconnect();
  times = null;
  observer.observe(frame.contentDocument, { childList: true, subtree: true });
  look();
}

frame.addEventListener("load", observe);
if (frame.contentDocument?.readyState === "complete") observe();
