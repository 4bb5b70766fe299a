/** A replay waits so long for an event at most, in milliseconds. */
export const MAX_GAP_MS: 1000;
export class Presentation {
    /**
     * @param {readonly Shows[]} elements
     * @param {() => Stream} ask sends the request; called again when a reader wants it, after the answer before has failed
     * @param {{batch?: (text: string) => RunEvent[]}} [options] `batch`: the events that an answer stands for that was not
     *   streamed; without it the elements show that it is complete, and the page shows the text itself
     */
    constructor(elements: readonly Shows[], ask: () => Stream, { batch }?: {
        batch?: (text: string) => RunEvent[];
    });
    elements: readonly Shows[];
    ask: () => Stream;
    batch: (text: string) => RunEvent[];
    /** @type {StreamState} */
    state: StreamState;
    /** @type {Stream | null} */
    stream: Stream | null;
    isBusy: boolean;
    left: boolean;
    /** @type {number[]} milliseconds before each event of the answer, as it came first */
    pace: number[];
    /** Ends the replay's waiting; nothing is waited for without a replay. */
    skip: () => void;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    timer: ReturnType<typeof setTimeout> | undefined;
    listening: AbortController;
    /**
     * Asks, and shows the answer to its end.
     * @returns {Promise<Result | null>} null: it failed, and the elements say so
     */
    start(): Promise<Result | null>;
    /** The elements listen to this no more. Text that they show stays, and the run goes on. */
    close(): void;
    /** @param {Action} action */
    act(action: Action): Promise<void>;
    /** @param {Stream} before */
    retry(before: Stream): Promise<void>;
    isReplaying: boolean;
    /** The answer as it came, with shorter silences; at once for a reader who prefers less motion. @param {Stream} before */
    replay(before: Stream): Promise<void>;
    /**
     * @param {Stream} stream @param {readonly number[]} pace
     * @returns {Stream} the same, whose events come at this pace
     */
    paced(stream: Stream, pace: readonly number[]): Stream;
    /** @param {Stream} stream */
    isKept(stream: Stream): Promise<boolean>;
    /** @param {() => Stream} ask @param {boolean} again @returns {Promise<Result | null>} */
    follow(ask: () => Stream, again: boolean): Promise<Result | null>;
    showSoon(): void;
    show(): void;
    /** @param {unknown} error what no event has said: the connection's end, or a refusal */
    fail(error: unknown): void;
}
export type Stream = import("../client.js").Stream;
export type Result = import("../client.js").Result;
export type StreamState = import("../state.js").StreamState;
export type RunEvent = import("../state.js").RunEvent;
export type Action = import("./answer-view.js").Action;
/**
 * what an element must do to show answers
 */
export type Shows = {
    /**
     * another answer comes; `again`: the last one once more
     */
    begin: (options?: {
        again?: boolean;
    }) => void;
    state: StreamState;
    addEventListener: (type: string, listener: (event: any) => void, options?: AddEventListenerOptions) => void;
};
