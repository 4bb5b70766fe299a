/**
 * Live text for a page that knows nothing of it:  <script type="module" src="/_headgate/attach.js"></script>
 *
 * The page's calls go out and come back as ever. A call of a route that streams for this user gets one more header, the
 * name of its run, and beside it the script reads that run's events and shows the text until the page shows its answer.
 * Every step is in a try of its own; after `MAX_FAULTS` failures the script takes itself off.
 */

import { routeOf, subjectOf, turnsFrom, valueOf } from "./attach/routes.js";

/** @typedef {import("./attach/routes.js").AttachRoute} AttachRoute */
/** @typedef {import("./attach/live.js").Live} Live */
/**
 * @typedef {object} PageCall
 * @property {string} method
 * @property {URL} url
 * @property {[string, string][]} headers as the page has set them
 * @property {boolean} isAsync
 * @property {string} [run]
 * @property {AttachRoute} [route]
 * @property {boolean} [isSent]
 * @property {boolean} [isLeft] the page has turned to something else since
 * @property {Live} [live]
 */

const MARK = Symbol.for("headgate.attach");
const MAX_FAULTS = 3;

/** Times that one page asks which routes are shown: once for each credential that it uses. */
const MAX_ASKS = 20;

/** Milliseconds that a page has to make its first call; its credential is asked with. */
const FIRST_CALL_MS = 1000;

/** Texts that a tab has kept over a reload: see `attach/kept.js`, which takes those that are shown. */
const KEPT_TEXT = "headgate.attach.text.";

/** Calls of the page while runs of before a reload are looked for; after more of them none is shown. */
const MAX_MEANWHILE = 100;

/** A run that was begun longer ago is not looked for, in milliseconds. */
const MAX_AGE_MS = 15 * 60_000;

const BASE = new URL(import.meta.url).origin;

/** Headers that say who asks; the others are about one call. */
const OF_ONE_CALL = /^(?:accept|content-.*|if-.*|range|headgate-run|last-event-id|idempotency-key|cache-control|pragma)$/i;

const fetchOfThePage = globalThis.fetch;

/** @type {readonly AttachRoute[]} */
let routes = [];
/** @type {Promise<typeof import("./attach/live.js")> | null} */
let showing = null;
/** @type {typeof import("./attach/kept.js") | null} there as soon as anything is shown */
let kept = null;
/** @type {PageCall[] | null} what the page has sent since runs of before a reload are looked for */
let meanwhile = null;
/** @type {Set<PageCall>} calls that are shown, or about to be */
const shown = new Set();
let faults = 0;
let isOff = false;
let asks = 0;
/** @type {string | null} the credential that was asked with */
let askedFor = null;
/** @type {[string, string][]} */
let credentials = [];

/** @param {() => void} step */
function guard(step) {
  if (isOff) return;
  try {
    step();
  } catch {
    fault();
  }
}

function fault() {
  faults += 1;
  if (faults < MAX_FAULTS || isOff) return;
  isOff = true;
  for (const call of shown) call.live?.end();
  for (const undo of patches) undo();
}

/** @type {(() => void)[]} */
const patches = [];

/**
 * Puts a function around one of the page's, unless the page has frozen it.
 * @param {object} target @param {string} name @param {(own: Function) => Function} around
 */
function patch(target, name, around) {
  const found = Object.getOwnPropertyDescriptor(target, name);
  if (typeof found?.value !== "function" || !found.writable || !found.configurable) return;
  const own = found.value;
  const wrapped = around(own);
  Object.defineProperty(wrapped, "name", { value: own.name, configurable: true });
  Object.defineProperty(wrapped, "length", { value: own.length, configurable: true });
  Object.defineProperty(target, name, { ...found, value: wrapped });
  patches.push(() => {
    // Somebody else may have put a function around this one, which then only passes on.
    if (Object.getOwnPropertyDescriptor(target, name)?.value === wrapped) Object.defineProperty(target, name, found);
  });
}

/** What the page is about to send: learn from it, and name its run if it is to be shown. @param {PageCall} call */
function sending(call) {
  const isOurs = call.url.origin === BASE;
  if (isOurs && call.url.pathname.startsWith("/_headgate/")) return; // a page that reads runs by itself
  if (isOurs) learn(call.headers);
  const route = isOurs && call.isAsync ? routeOf(routes, call) : null;
  if (meanwhile !== null && meanwhile.length <= MAX_MEANWHILE) meanwhile.push(call);
  for (const one of [...shown]) if (route !== null || hasTurned(one, call) || one.live?.isOver) leave(one);
  if (route === null || showing === null) return;
  if (valueOf(call.headers, "headgate-run") !== undefined || /event-stream/i.test(valueOf(call.headers, "accept") ?? "")) return;
  call.route = route;
  call.run = randomId();
  shown.add(call);
}

/** Whether a later call shows that the page is not about an earlier one any more. @param {PageCall} one @param {PageCall} later */
const hasTurned = (one, { method, url, headers }) =>
  one.route === undefined || turnsFrom(one.route, one, { method, url, headers: url.origin === BASE ? headers : [] });

/** @param {PageCall} call */
function leave(call) {
  shown.delete(call);
  call.isLeft = true; // also before its text is shown
  call.live?.end();
}

/**
 * The call is on its way: show its run.
 * @param {PageCall} call @param {RequestCredentials} mode @returns {Promise<void>}
 */
async function sent(call, mode) {
  const { run, route } = call;
  if (run === undefined || route === undefined || showing === null) return;
  const { Live } = await showing;
  if (ended.has(call)) return; // aborted in the same breath, or answered at once
  isOfThisPage.add(run);
  kept?.remember({ run, path: call.url.pathname, at: Date.now() });
  guard(() => {
    if (!call.isLeft) call.live = new Live({ run, route, ...reading(call.headers, mode), about: "", stages: [] });
  });
}

/** @type {WeakSet<PageCall>} calls that have their answer */
const ended = new WeakSet();

/** The page has its answer, or sees it now. @param {PageCall} call @param {boolean} isGood */
function answered(call, isGood) {
  ended.add(call);
  const { live, run } = call;
  // Later than an unload, which ends calls, too.
  if (run !== undefined) setTimeout(() => guard(() => kept?.forget(run)), 500);
  live?.answered(isGood);
}

/** How a run is read: as the page reads. @param {[string, string][]} headers @param {RequestCredentials} mode */
function reading(headers, mode) {
  const who = subjectOf(valueOf(headers, "authorization"));
  return {
    base: BASE,
    fetch: fetchOfThePage,
    credentials: mode,
    guard,
    onNothing: () => {
      routes = [];
      askedFor = null; // the page's next call asks again
    },
    headers: () => {
      // A token that was refreshed meanwhile is the new one.
      const isSame = subjectOf(valueOf(credentials, "authorization")) === who;
      return Object.fromEntries((isSame && credentials.length > 0 ? credentials : headers).filter(([name]) => !OF_ONE_CALL.test(name)));
    },
  };
}

/** Asks which routes are shown, once for each credential. @param {[string, string][]} headers */
function learn(headers) {
  const credential = valueOf(headers, "authorization") ?? "";
  if (credential !== "") credentials = headers;
  if (credential === askedFor || (credential === "" && askedFor !== null) || asks >= MAX_ASKS) return;
  if (/** @type {any} */ (document).prerendering) return;
  askedFor = credential;
  asks += 1;
  void ask(credential, Object.fromEntries(headers.filter(([name]) => !OF_ONE_CALL.test(name)))).catch(fault);
}

/** @param {string} credential @param {Record<string, string>} headers */
async function ask(credential, headers) {
  const mode = BASE === location.origin ? "same-origin" : "include";
  const said = await told("attach.json", headers, mode);
  if (askedFor !== credential) return; // the page asks as somebody else by now
  if (said === null) return void (askedFor = null); // its next call asks again
  routes = said.routes;
  if (routes.length === 0) return forgetTexts();
  showing ??= import("./attach/live.js");
  kept = (await showing).kept;
  await resume(credential, headers, mode);
}

/**
 * @param {string} name @param {Record<string, string>} headers @param {RequestCredentials} mode
 * @returns {Promise<any>} what Headgate says there; null where it cannot be reached now
 */
async function told(name, headers, mode) {
  try {
    const response = await fetchOfThePage.call(globalThis, `${BASE}/_headgate/${name}`, { headers, credentials: mode });
    return response.status < 500 ? await response.json() : null;
  } catch {
    return null; // cut off, or an answer of somebody else's
  }
}

/**
 * Shows the runs that this tab had begun before it was loaded again.
 * @param {string} credential @param {Record<string, string>} headers @param {RequestCredentials} mode
 */
async function resume(credential, headers, mode) {
  const known = (kept?.remembered() ?? []).filter(({ run, at }) => !isOfThisPage.has(run) && Date.now() - at < MAX_AGE_MS);
  if (known.length === 0 || showing === null) return;
  meanwhile = [];
  /** @type {{runs: {run: string, route: string, age_s: number}[]} | null} */
  const said = await told("runs", headers, mode);
  const { Live } = await showing;
  if (askedFor !== credential) return;
  const since = meanwhile;
  meanwhile = null;
  if (said === null || since.length > MAX_MEANWHILE) return;
  for (const { run, route: name, age_s: ageS } of said.runs) {
    const route = routes.find((one) => one.name === name);
    const begun = known.find((one) => one.run === run);
    if (route === undefined || begun === undefined || shown.size > 0) continue;
    const about = `Live text of what you asked for ${Math.round(ageS)} s ago, before this page was loaded again. Not final.`;
    const pairs = /** @type {[string, string][]} */ (Object.entries(headers));
    /** @type {PageCall} */
    const call = { method: route.method, url: new URL(begun.path, BASE), headers: pairs, isAsync: true, route };
    if (since.some((later) => hasTurned(call, later))) continue;
    guard(() => {
      call.live = new Live({ run, route, ...reading(pairs, mode), about, stages: kept?.takeText(run) ?? [] });
      shown.add(call);
    });
  }
  forgetTexts();
}

/** @type {Set<string>} */
const isOfThisPage = new Set();

/** The page goes: no text comes back with it by itself. */
function hide() {
  for (const call of [...shown]) {
    call.live?.keep();
    leave(call);
  }
}

/** Texts that were kept over a reload, and are nobody's now. */
function forgetTexts() {
  try {
    for (const key of Object.keys(sessionStorage)) if (key.startsWith(KEPT_TEXT)) sessionStorage.removeItem(key);
  } catch {
    // this browser keeps nothing
  }
}

/** A random UUID; `crypto.randomUUID` is for pages by https alone. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function patchRequests() {
  const prototype = XMLHttpRequest.prototype;
  const { addEventListener: listen, removeEventListener: ignore } = EventTarget.prototype;
  const setHeader = prototype.setRequestHeader;
  /** @type {WeakMap<XMLHttpRequest, PageCall>} */
  const calls = new WeakMap();
  patch(prototype, "open", (own) =>
    /** @this {XMLHttpRequest} @param {any[]} given */
    function (...given) {
      const result = own.apply(this, given);
      guard(() => {
        const before = calls.get(this);
        if (before?.run !== undefined && !ended.has(before)) leave(before); // which this has ended, without an event
        const [method, url, isAsync = true] = given;
        calls.set(this, {
          method: String(method).toUpperCase(),
          url: new URL(url, document.baseURI),
          headers: [],
          isAsync: given.length < 3 || Boolean(isAsync),
        });
      });
      return result;
    },
  );
  patch(prototype, "setRequestHeader", (own) =>
    /** @this {XMLHttpRequest} @param {any[]} given */
    function (...given) {
      const result = own.apply(this, given);
      guard(() => calls.get(this)?.headers.push([String(given[0]), String(given[1])]));
      return result;
    },
  );
  patch(prototype, "send", (own) =>
    /** @this {XMLHttpRequest} @param {any[]} given */
    function (...given) {
      const call = calls.get(this);
      guard(() => {
        if (call === undefined || call.isSent) return; // the browser refuses it
        call.isSent = true;
        sending(call);
        if (call.run === undefined) return;
        setHeader.call(this, "headgate-run", call.run);
        // Not its `loadend`: a page may show its answer in an earlier event.
        const done = () =>
          guard(() => {
            const isAnother = calls.get(this) !== call;
            if (this.readyState !== XMLHttpRequest.DONE && !isAnother) return;
            ignore.call(this, "readystatechange", done);
            if (!isAnother) answered(call, this.status >= 200 && this.status < 300);
          });
        listen.call(this, "readystatechange", done);
      });
      const result = own.apply(this, given);
      guard(() => call && void sent(call, this.withCredentials ? "include" : "same-origin").catch(fault));
      return result;
    },
  );
}

function patchFetch() {
  patch(globalThis, "fetch", (own) =>
    /** @this {any} @param {any[]} given */
    function (...given) {
      /** @type {PageCall | null} */
      let call = null;
      /** @type {RequestCredentials} */
      let mode = "same-origin";
      let passed = given;
      guard(() => {
        const [input, init] = given;
        const request = input instanceof Request ? input : null;
        // What else could be given reads differently the second time.
        if (request === null && typeof input !== "string" && !(input instanceof URL)) return;
        if ((init !== undefined && !isPlain(init)) || !isReadTwice(init?.headers)) return;
        const signal = init?.signal ?? request?.signal;
        if ((init?.mode ?? request?.mode) === "no-cors" || signal?.aborted) return;
        const headers = new Headers(init?.headers ?? request?.headers);
        const found = {
          method: String(init?.method ?? request?.method ?? "GET").toUpperCase(),
          url: new URL(request?.url ?? String(input), document.baseURI),
          headers: /** @type {[string, string][]} */ ([...headers]),
          isAsync: true,
        };
        mode = init?.credentials ?? request?.credentials ?? mode;
        call = found;
        sending(found);
        const { run } = /** @type {PageCall} */ (found);
        if (run === undefined) return;
        headers.set("headgate-run", run);
        const kept = request === null || init !== undefined ? {} : { referrer: request.referrer, referrerPolicy: request.referrerPolicy };
        passed = [input, { ...kept, ...init, headers }];
        watch(found, signal);
      });
      const result = own.apply(this, passed);
      guard(() => call && void sent(call, mode).catch(fault));
      return result;
    },
  );
}

/** @param {any} value */
const isPlain = (value) => value !== null && [Object.prototype, null].includes(Object.getPrototypeOf(value));

/** @param {any} headers @returns {boolean} whether they can be looked at, and are still there for the call */
const isReadTwice = (headers) =>
  headers === undefined || headers instanceof Headers || Array.isArray(headers) || (isPlain(headers) && !(Symbol.iterator in headers));

/**
 * Sees when a fetch is over, without its promise: whoever waits for that promise takes its errors from the page.
 * @param {PageCall} call @param {AbortSignal | null | undefined} signal
 */
function watch(call, signal) {
  const began = performance.now();
  const observer = new PerformanceObserver((list) =>
    guard(() => {
      const found = list.getEntriesByName(call.url.href).find((entry) => entry.startTime >= began - 1);
      if (found === undefined) return;
      observer.disconnect();
      const { responseStatus = 200 } = /** @type {any} */ (found);
      answered(call, responseStatus >= 200 && responseStatus < 300);
    }),
  );
  observer.observe({ type: "resource" });
  signal?.addEventListener("abort", () => guard(() => (observer.disconnect(), answered(call, false))), { once: true });
}

guard(() => {
  if (MARK in globalThis) return;
  Object.defineProperty(globalThis, MARK, { value: true });
  guard(patchRequests);
  guard(patchFetch);
  setTimeout(() => guard(() => learn([])), FIRST_CALL_MS);
  document.addEventListener("prerenderingchange", () => guard(() => learn(credentials)));
  addEventListener("pagehide", () => guard(hide));
  addEventListener("pageshow", ({ persisted }) => persisted && guard(forgetTexts));
});
