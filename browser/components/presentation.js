/** One request and the elements that show its answer: who asks, who stops, who asks again, and never twice at once. */

import { StreamError } from "../client.js";
import { EMPTY, reduce } from "../state.js";

/** @typedef {import("../client.js").Stream} Stream */
/** @typedef {import("../client.js").Result} Result */
/** @typedef {import("../state.js").StreamState} StreamState */
/** @typedef {import("../state.js").RunEvent} RunEvent */
/** @typedef {import("./answer-view.js").Action} Action */

/**
 * @typedef {object} Shows what an element must do to show answers
 * @property {(options?: {again?: boolean}) => void} begin another answer comes; `again`: the last one once more
 * @property {StreamState} state
 * @property {(type: string, listener: (event: any) => void, options?: AddEventListenerOptions) => void} addEventListener
 */

/** Milliseconds; an answer whose text comes at once is drawn no more often than a screen can show. */
const FRAME_MS = 16;

/** A replay waits so long for an event at most, in milliseconds. */
export const MAX_GAP_MS = 1000;

/** Events whose pace is remembered; later ones come at once. */
const MAX_PACED = 20_000;

export class Presentation {
  /**
   * @param {readonly Shows[]} elements
   * @param {() => Stream} ask sends the request; called again when a reader wants it, after the answer before has failed
   * @param {{batch?: (text: string) => RunEvent[]}} [options] `batch`: the events that an answer stands for that was not
   *   streamed; without it the elements show that it is complete, and the page shows the text itself
   */
  constructor(elements, ask, { batch = () => [] } = {}) {
    this.elements = elements;
    this.ask = ask;
    this.batch = batch;
    /** @type {StreamState} */
    this.state = EMPTY;
    /** @type {Stream | null} */
    this.stream = null;
    this.isBusy = this.left = false;
    /** @type {number[]} milliseconds before each event of the answer, as it came first */
    this.pace = [];
    /** Ends the replay's waiting; nothing is waited for without a replay. */
    this.skip = () => {};
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.listening = new AbortController();
    for (const element of elements)
      element.addEventListener("headgate-action", (/** @type {CustomEvent<Action>} */ event) => void this.act(event.detail), {
        signal: this.listening.signal,
      });
  }

  /**
   * Asks, and shows the answer to its end.
   * @returns {Promise<Result | null>} null: it failed, and the elements say so
   */
  start() {
    return this.follow(this.ask, false);
  }

  /** The elements listen to this no more. Text that they show stays, and the run goes on. */
  close() {
    this.listening.abort();
    this.left = true;
    this.skip();
  }

  /** @param {Action} action */
  async act(action) {
    if (action === "stop" && this.isReplaying) this.skip();
    else if (action === "stop") await this.stream?.stop().catch(() => {});
    else if (this.isBusy || this.stream === null) return;
    else if (action === "replay") await this.replay(this.stream);
    else await this.retry(this.stream);
  }

  /** @param {Stream} before */
  async retry(before) {
    // Nobody saw a lost run end: it may still be at work, and is read on before anything is asked again.
    if (this.state.error?.code === "lost" && (await this.isKept(before))) await this.follow(() => before.client.attach(before.run), true);
    else await this.follow(this.ask, true);
  }

  isReplaying = false;

  /** The answer as it came, with shorter silences; at once for a reader who prefers less motion. @param {Stream} before */
  async replay(before) {
    if (await this.isKept(before)) {
      this.isReplaying = true;
      const isStill = globalThis.matchMedia?.("(prefers-reduced-motion: reduce)").matches ?? false;
      await this.follow(() => this.paced(before.client.attach(before.run), isStill ? [] : this.pace), true);
      this.isReplaying = false;
    } else for (const element of this.elements) element.state = this.state;
  }

  /**
   * @param {Stream} stream @param {readonly number[]} pace
   * @returns {Stream} the same, whose events come at this pace
   */
  paced(stream, pace) {
    let isSkipped = false;
    let wake = () => {};
    this.skip = () => {
      isSkipped = true;
      wake();
    };
    async function* events() {
      let at = 0;
      let dueMs = performance.now();
      for await (const event of stream) {
        dueMs += pace[at++] ?? 0;
        const leftMs = dueMs - performance.now();
        if (!isSkipped && leftMs > 0)
          await new Promise((/** @type {(value?: unknown) => void} */ resolve) => {
            const timer = setTimeout(resolve, leftMs);
            wake = () => (clearTimeout(timer), resolve());
          });
        yield event;
      }
    }
    return Object.assign(Object.create(stream), { [Symbol.asyncIterator]: events });
  }

  /** @param {Stream} stream */
  async isKept(stream) {
    this.isBusy = true;
    try {
      const { client, run } = stream;
      return (await client.ask(`${client.base}/_headgate/runs/${run}`, undefined)).ok;
    } catch {
      return false;
    } finally {
      this.isBusy = false;
    }
  }

  /** @param {() => Stream} ask @param {boolean} again @returns {Promise<Result | null>} */
  async follow(ask, again) {
    if (this.isBusy) return null;
    this.isBusy = true;
    this.state = EMPTY;
    for (const element of this.elements) element.begin({ again });
    this.show();
    const stream = (this.stream = ask());
    if (!this.isReplaying) this.pace = [];
    let dueMs = 0;
    let lastMs = performance.now();
    try {
      for await (const event of stream) {
        if (!this.isReplaying && this.pace.length < MAX_PACED) {
          this.pace.push(Math.min(performance.now() - lastMs, MAX_GAP_MS));
          lastMs = performance.now();
        }
        for (const one of event.type === "batch" ? [...this.batch(event.content), event] : [event]) this.state = reduce(this.state, one);
        if (performance.now() < dueMs && this.state.phase === "live") this.showSoon();
        else {
          this.show();
          dueMs = performance.now() + FRAME_MS;
        }
        if (this.left) break;
      }
      return this.left ? null : await stream.result;
    } catch (error) {
      this.fail(error);
      return null;
    } finally {
      this.isBusy = false;
      this.show();
    }
  }

  showSoon() {
    this.timer ??= setTimeout(() => this.show(), FRAME_MS);
  }

  show() {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (!this.left) for (const element of this.elements) element.state = this.state;
  }

  /** @param {unknown} error what no event has said: the connection's end, or a refusal */
  fail(error) {
    if (this.state.phase === "failed") return;
    const { code, message, status, retryAvailable } =
      error instanceof StreamError ? error : new StreamError("error", "", { retryAvailable: false });
    this.state = {
      ...this.state,
      phase: "failed",
      progress: null,
      partial: this.state.stages.some(({ text }) => text !== ""),
      error: { code, message, status, retryAvailable },
    };
  }
}
