/**
 * Full jitter: those who were cut together do not come back together.
 * @param {number} random 0 to 1 @param {number} retryMs what the stream asks for @param {number} tries in a row, so far
 */
export function pauseMs(random: number, retryMs: number, tries: number): number;
/** @typedef {import("./state.js").RunEvent} RunEvent */
/** Milliseconds between two tries to come back are at most so many, and the first ones at most `BASE_MS` times 1, 2, 4 … */
export const BASE_MS: 1000;
export const CAP_MS: 30000;
/** Tries in a row that bring nothing; then the stream fails. */
export const MAX_TRIES: 10;
/** Silence for so many milliseconds is a dead connection: twice the longest that Headgate leaves between two heartbeats. */
export const SILENCE_MS: 30000;
/** Events that wait for a reader; then nothing more is read from the connection. */
export const MAX_QUEUED: 1000;
/** Characters of a batch answer; a longer one fails. */
export const MAX_ANSWER_CHARS: number;
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
    constructor(code: string, message: string, { status, retryAvailable, cause }?: {
        status?: number;
        retryAvailable?: boolean;
        cause?: unknown;
    });
    /** An `error_code` of Headgate's, or `aborted`, `http`, `lost`, `too_large`. */
    code: string;
    status: number;
    retryAvailable: boolean;
}
export class StreamClient {
    /** @param {ClientOptions} [options] */
    constructor({ base, headers, credentials, fetch, random }?: ClientOptions);
    base: string;
    headers: () => Record<string, string> | Promise<Record<string, string>>;
    credentials: RequestCredentials | undefined;
    send: typeof fetch;
    random: () => number;
    /**
     * Sends a request, and reads its answer, whichever way that comes.
     * @param {StreamRequest} request
     * @returns {Stream}
     */
    stream(request: StreamRequest): Stream;
    /**
     * Reads a run that somebody else has begun: this page before it was loaded again, or another request of it.
     * @param {string} run its id
     * @param {AbortSignal} [signal]
     * @returns {Stream}
     */
    attach(run: string, signal?: AbortSignal): Stream;
    /**
     * @param {string} run
     * @returns {Promise<string>} an address for `EventSource`, which can send no headers; good once, for half a minute
     * @throws {StreamError}
     */
    ticket(run: string): Promise<string>;
    /** @param {string} run */
    eventsOf(run: string): string;
    /**
     * @param {string} url @param {AbortSignal | undefined} signal
     * @param {{method?: string, body?: BodyInit | null, headers?: Record<string, string>}} [init]
     */
    ask(url: string, signal: AbortSignal | undefined, { headers, ...init }?: {
        method?: string;
        body?: BodyInit | null;
        headers?: Record<string, string>;
    }): Promise<Response>;
}
/** One run as its events come. Iterate over it once; leaving the loop stops reading, and not the run. */
export class Stream {
    /**
     * @param {StreamClient} client @param {string} run @param {AbortSignal | undefined} signal
     * @param {((signal: AbortSignal) => Promise<Response>) | null} begin null: the run has begun elsewhere
     */
    constructor(client: StreamClient, run: string, signal: AbortSignal | undefined, begin: ((signal: AbortSignal) => Promise<Response>) | null);
    client: StreamClient;
    /** The id that events are asked for by. */
    run: string;
    /** What was decided, as Headgate says it; "" until the answer begins. */
    decision: string;
    reading: AbortController;
    /** @type {RunEvent[]} */
    queue: RunEvent[];
    isRead: boolean;
    isOver: boolean;
    isCut: boolean;
    /** @type {(() => void)[]} who waits until something changes */
    waiting: (() => void)[];
    lastId: string;
    retryMs: number;
    /** The answer. Rejects with a `StreamError`. @type {Promise<Result>} */
    result: Promise<Result>;
    /** Ends the run itself. It may have ended already; then nothing happens. */
    stop(): Promise<void>;
    change(): Promise<void>;
    wake(): void;
    /** @param {RunEvent} event */
    say(event: RunEvent): Promise<void>;
    /** @param {((signal: AbortSignal) => Promise<Response>) | null} begin @returns {Promise<Result>} */
    follow(begin: ((signal: AbortSignal) => Promise<Response>) | null): Promise<Result>;
    /** @param {AbortSignal} signal */
    resume(signal: AbortSignal): Promise<Response>;
    /**
     * @param {(signal: AbortSignal) => Promise<Response>} ask @param {boolean} isFirst
     * @returns {Promise<Result | null>} null: it was cut, and may be taken up again
     */
    read(ask: (signal: AbortSignal) => Promise<Response>, isFirst: boolean): Promise<Result | null>;
    /** @param {ReadableStream<Uint8Array>} body @param {Watchdog} watchdog @returns {Promise<Result | null>} */
    readEvents(body: ReadableStream<Uint8Array>, watchdog: Watchdog): Promise<Result | null>;
    /** @param {Response} response @returns {Promise<Result>} */
    readBatch(response: Response): Promise<Result>;
    /** @param {number} tries */
    pause(tries: number): Promise<any>;
    /** @returns {AsyncGenerator<RunEvent, void, void>} throws what `result` rejects with, after the last event */
    [Symbol.asyncIterator](): AsyncGenerator<RunEvent, void, void>;
}
export type RunEvent = import("./state.js").RunEvent;
export type StreamRequest = {
    url: string;
    /**
     * GET if it is not given
     */
    method?: string | undefined;
    /**
     * not a stream
     */
    body?: BodyInit | null | undefined;
    /**
     * beside those of the client
     */
    headers?: Record<string, string> | undefined;
    /**
     * stops reading; the run itself goes on, see `Stream.stop`
     */
    signal?: AbortSignal | undefined;
};
export type Result = {
    status: number;
    /**
     * the whole answer, byte for byte; null where the route does not send it with its stream
     */
    text: string | null;
    mode: "stream" | "batch";
    recovered: boolean;
};
export type ClientOptions = {
    /**
     * where Headgate is, if it is not this page's origin
     */
    base?: string | undefined;
    /**
     * asked before each request, so that a
     * token that was refreshed meanwhile is the new one
     */
    headers?: (() => Record<string, string> | Promise<Record<string, string>>) | undefined;
    credentials?: RequestCredentials | undefined;
    fetch?: typeof fetch | undefined;
    /**
     * 0 to 1
     */
    random?: (() => number) | undefined;
};
/** Takes a connection for dead that is silent for too long. */
declare class Watchdog {
    /** @param {AbortSignal} outer ends it, too */
    constructor(outer: AbortSignal);
    outer: AbortSignal;
    connection: AbortController;
    signal: AbortSignal;
    end: () => void;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    timer: ReturnType<typeof setTimeout> | undefined;
    hear(): void;
    pause(): void;
    stop(): void;
}
export {};
