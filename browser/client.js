/**
 * A request whose answer is streamed, or given as before: the same code reads both.
 *
 *     const client = new StreamClient({ headers: async () => ({ authorization: `Bearer ${await token()}` }) });
 *     const stream = client.stream({ url: "/api/cases/7/workflow/start", method: "POST" });
 *     for await (const event of stream) show((state = reduce(state, event)));
 *     const { text } = await stream.result;
 *
 * A cut connection is taken up again from the last event. A request is never sent twice: what may have reached the API is
 * asked for by the id of its run alone.
 */

import { EventDecoder } from "./sse.js";

/** @typedef {import("./state.js").RunEvent} RunEvent */

/** Milliseconds between two tries to come back are at most so many, and the first ones at most `BASE_MS` times 1, 2, 4 … */
export const BASE_MS = 1000;
export const CAP_MS = 30_000;

/** Tries in a row that bring nothing; then the stream fails. */
export const MAX_TRIES = 10;

/** Silence for so many milliseconds is a dead connection: twice the longest that Headgate leaves between two heartbeats. */
export const SILENCE_MS = 30_000;

/** Events that wait for a reader; then nothing more is read from the connection. */
export const MAX_QUEUED = 1000;

/** Statuses of a proxy or a server that will be there again. */
const PASSING = new Set([429, 502, 503, 504]);

/** Characters of a batch answer; a longer one fails. */
export const MAX_ANSWER_CHARS = 64 * 1024 * 1024;

/**
 * @typedef {object} StreamRequest
 * @property {string} url
 * @property {string} [method] GET if it is not given
 * @property {BodyInit | null} [body] not a stream
 * @property {Record<string, string>} [headers] beside those of the client
 * @property {AbortSignal} [signal] stops reading; the run itself goes on, see `Stream.stop`
 */

/**
 * @typedef {object} Result
 * @property {number} status
 * @property {string | null} text the whole answer, byte for byte; null where the route does not send it with its stream
 * @property {"stream" | "batch"} mode
 * @property {boolean} recovered
 */

/**
 * @typedef {object} ClientOptions
 * @property {string} [base] where Headgate is, if it is not this page's origin
 * @property {() => Record<string, string> | Promise<Record<string, string>>} [headers] asked before each request, so that a
 *   token that was refreshed meanwhile is the new one
 * @property {RequestCredentials} [credentials]
 * @property {typeof globalThis.fetch} [fetch]
 * @property {() => number} [random] 0 to 1
 */

/** Why there is no answer. `text` that was shown stays true as far as it goes. */
export class StreamError extends Error {
  /** @param {string} code @param {string} message @param {{status?: number, retryAvailable?: boolean, cause?: unknown}} [more] */
  constructor(code, message, { status = 0, retryAvailable = false, cause } = {}) {
    super(message, { cause });
    this.name = "StreamError";
    /** An `error_code` of Headgate's, or `aborted`, `http`, `lost`, `too_large`. */
    this.code = code;
    this.status = status;
    this.retryAvailable = retryAvailable;
  }
}

export class StreamClient {
  /** @param {ClientOptions} [options] */
  constructor({ base = "", headers = () => ({}), credentials, fetch = globalThis.fetch, random = Math.random } = {}) {
    this.base = base.replace(/\/$/, "");
    this.headers = headers;
    this.credentials = credentials;
    this.send = fetch.bind(globalThis);
    this.random = random;
  }

  /**
   * Sends a request, and reads its answer, whichever way that comes.
   * @param {StreamRequest} request
   * @returns {Stream}
   */
  stream(request) {
    const run = randomId();
    return new Stream(this, run, request.signal, (signal) =>
      this.ask(this.base + request.url, signal, {
        method: request.method ?? "GET",
        body: request.body,
        headers: { accept: "text/event-stream, application/json;q=0.9", ...request.headers, "headgate-run": run },
      }),
    );
  }

  /**
   * Reads a run that somebody else has begun: this page before it was loaded again, or another request of it.
   * @param {string} run its id
   * @param {AbortSignal} [signal]
   * @returns {Stream}
   */
  attach(run, signal) {
    return new Stream(this, run, signal, null);
  }

  /**
   * @param {string} run
   * @returns {Promise<string>} an address for `EventSource`, which can send no headers; good once, for half a minute
   * @throws {StreamError}
   */
  async ticket(run) {
    const response = await this.ask(`${this.base}/_headgate/tickets`, undefined, {
      method: "POST",
      body: JSON.stringify({ run }),
      headers: { "content-type": "application/json" },
    });
    if (!response.ok) throw await refusal(response);
    const { ticket } = await response.json();
    return `${this.eventsOf(run)}?ticket=${encodeURIComponent(ticket)}`;
  }

  /** @param {string} run */
  eventsOf(run) {
    return `${this.base}/_headgate/runs/${run}/events`;
  }

  /**
   * @param {string} url @param {AbortSignal | undefined} signal
   * @param {{method?: string, body?: BodyInit | null, headers?: Record<string, string>}} [init]
   */
  async ask(url, signal, { headers, ...init } = {}) {
    const own = await this.headers();
    return this.send(url, { ...init, headers: { ...own, ...headers }, credentials: this.credentials, signal });
  }
}

/** One run as its events come. Iterate over it once; leaving the loop stops reading, and not the run. */
export class Stream {
  /**
   * @param {StreamClient} client @param {string} run @param {AbortSignal | undefined} signal
   * @param {((signal: AbortSignal) => Promise<Response>) | null} begin null: the run has begun elsewhere
   */
  constructor(client, run, signal, begin) {
    this.client = client;
    /** The id that events are asked for by. */
    this.run = run;
    /** What was decided, as Headgate says it; "" until the answer begins. */
    this.decision = "";
    this.reading = new AbortController();
    /** @type {RunEvent[]} */
    this.queue = [];
    this.isRead = this.isOver = this.isCut = false;
    /** @type {(() => void)[]} who waits until something changes */
    this.waiting = [];
    this.lastId = "";
    this.retryMs = BASE_MS;
    this.reading.signal.addEventListener("abort", () => this.wake());
    if (signal?.aborted) this.reading.abort();
    signal?.addEventListener("abort", () => this.reading.abort(), { once: true, signal: this.reading.signal });
    /** The answer. Rejects with a `StreamError`. @type {Promise<Result>} */
    this.result = this.follow(begin).finally(() => {
      this.isOver = true;
      this.reading.abort(); // takes every listener off that this stream has set
      this.wake();
    });
    this.result.catch(() => {}); // whoever only iterates is told there
  }

  /** Ends the run itself. It may have ended already; then nothing happens. */
  async stop() {
    await this.client.ask(`${this.client.base}/_headgate/runs/${this.run}`, undefined, { method: "DELETE" });
  }

  /** @returns {AsyncGenerator<RunEvent, void, void>} throws what `result` rejects with, after the last event */
  async *[Symbol.asyncIterator]() {
    if (this.isRead || this.isCut) throw new TypeError("a stream is iterated over once, from its beginning on");
    this.isRead = true;
    try {
      for (;;) {
        const event = this.queue.shift();
        if (event !== undefined) {
          this.wake();
          yield event;
        } else if (this.isOver) break;
        else await this.change();
      }
    } finally {
      if (!this.isOver) this.reading.abort();
    }
    await this.result;
  }

  change() {
    return new Promise((/** @type {(value: void) => void} */ resolve) => this.waiting.push(resolve));
  }

  wake() {
    for (const resolve of this.waiting.splice(0)) resolve();
  }

  /** @param {RunEvent} event */
  async say(event) {
    // Who only waits for the result reads nothing, and must not stop the stream by that.
    if (!this.isRead && this.queue.length >= MAX_QUEUED) {
      this.queue.length = 0;
      this.isCut = true;
    }
    while (this.isRead && this.queue.length >= MAX_QUEUED && !this.reading.signal.aborted) await this.change();
    this.queue.push(event);
    this.wake();
  }

  /** @param {((signal: AbortSignal) => Promise<Response>) | null} begin @returns {Promise<Result>} */
  async follow(begin) {
    let ask = begin;
    for (let tries = 0; ; ) {
      const before = this.lastId;
      try {
        const ended = await this.read(ask ?? ((signal) => this.resume(signal)), ask !== null);
        if (ended !== null) return ended;
      } catch (error) {
        if (!this.reading.signal.aborted && (error instanceof StreamError || error instanceof RangeError)) throw error;
      }
      const { aborted, reason } = this.reading.signal;
      if (aborted) throw new StreamError("aborted", "The stream was left.", { cause: reason });
      ask = null;
      tries = this.lastId === before ? tries + 1 : 0;
      if (tries >= MAX_TRIES) throw new StreamError("lost", "The connection was lost, and does not come back.", { retryAvailable: true });
      await this.pause(tries);
    }
  }

  /** @param {AbortSignal} signal */
  resume(signal) {
    const headers = { accept: "text/event-stream", ...(this.lastId && { "last-event-id": this.lastId }) };
    return this.client.ask(this.client.eventsOf(this.run), signal, { headers });
  }

  /**
   * @param {(signal: AbortSignal) => Promise<Response>} ask @param {boolean} isFirst
   * @returns {Promise<Result | null>} null: it was cut, and may be taken up again
   */
  async read(ask, isFirst) {
    const watchdog = new Watchdog(this.reading.signal);
    try {
      const response = await ask(isFirst ? this.reading.signal : watchdog.signal);
      this.decision = response.headers.get("headgate-decision") ?? this.decision;
      this.run = response.headers.get("headgate-run") ?? this.run;
      if (isFirst && !this.decision.startsWith("stream")) return await this.readBatch(response);
      if (response.body !== null && response.headers.get("content-type")?.startsWith("text/event-stream"))
        return await this.readEvents(response.body, watchdog);
      if (isFirst) return await this.readBatch(response);
      if (PASSING.has(response.status)) return null;
      throw await refusal(response);
    } finally {
      watchdog.stop();
    }
  }

  /** @param {ReadableStream<Uint8Array>} body @param {Watchdog} watchdog @returns {Promise<Result | null>} */
  async readEvents(body, watchdog) {
    const decoder = new EventDecoder();
    const reader = body.getReader();
    const cancel = () => void reader.cancel().catch(() => {});
    watchdog.signal.addEventListener("abort", cancel, { once: true });
    try {
      for (;;) {
        watchdog.hear();
        const { value, done } = await reader.read();
        if (done) return null;
        for (const { data, id } of decoder.feed(value)) {
          /** @type {RunEvent} */
          const event = JSON.parse(data);
          watchdog.pause();
          await this.say(event);
          this.lastId = id;
          const ended = endOf(event);
          if (ended !== null) return ended;
        }
        this.retryMs = decoder.retry ?? this.retryMs;
      }
    } finally {
      watchdog.signal.removeEventListener("abort", cancel);
      cancel();
    }
  }

  /** @param {Response} response @returns {Promise<Result>} */
  async readBatch(response) {
    const text = await response.text();
    if (text.length > MAX_ANSWER_CHARS) throw new StreamError("too_large", "The answer is too long.", { status: response.status });
    if (!response.ok) throw new StreamError("http", text.slice(0, 1000), { status: response.status });
    await this.say({ type: "batch", panel: "", stage: "", content: text, metadata: { status: response.status } });
    return { status: response.status, text, mode: "batch", recovered: false };
  }

  /** @param {number} tries */
  pause(tries) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, pauseMs(this.client.random(), this.retryMs, tries));
      this.reading.signal.addEventListener("abort", () => (clearTimeout(timer), resolve(undefined)), { once: true });
    });
  }
}

/**
 * Full jitter: those who were cut together do not come back together.
 * @param {number} random 0 to 1 @param {number} retryMs what the stream asks for @param {number} tries in a row, so far
 */
export function pauseMs(random, retryMs, tries) {
  return random * Math.min(CAP_MS, retryMs * 2 ** tries);
}

/** Takes a connection for dead that is silent for too long. */
class Watchdog {
  /** @param {AbortSignal} outer ends it, too */
  constructor(outer) {
    this.outer = outer;
    this.connection = new AbortController();
    this.signal = this.connection.signal;
    this.end = () => this.connection.abort();
    if (outer.aborted) this.end();
    outer.addEventListener("abort", this.end);
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
  }

  hear() {
    this.pause();
    this.timer = setTimeout(this.end, SILENCE_MS);
  }

  pause() {
    clearTimeout(this.timer);
  }

  stop() {
    this.pause();
    this.outer.removeEventListener("abort", this.end);
  }
}

/** @param {RunEvent} event @returns {Result | null} */
function endOf({ type, content, metadata }) {
  if (type === "stream_done")
    return { status: metadata.status, text: metadata.result ?? null, mode: "stream", recovered: metadata.recovered };
  if (type !== "error") return null;
  throw new StreamError(metadata.error_code, content, {
    status: metadata.status,
    retryAvailable: metadata.retry_available,
  });
}

/** @param {Response} response */
async function refusal(response) {
  const problem = await response.json().catch(() => ({}));
  const code = response.status === 404 ? "lost" : "http";
  return new StreamError(code, problem.detail ?? response.statusText, { status: response.status });
}

/** A random UUID; `crypto.randomUUID` is for pages by https alone. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
