/**
 * @param {StreamState} state
 * @param {RunEvent} event
 * @returns {StreamState} the same one after the end, and for an event that is not known
 */
export function reduce(state: StreamState, event: RunEvent): StreamState;
/**
 * @param {StreamState} state
 * @param {string} name
 * @returns {string} the text of one stage; empty before it begins
 */
export function textOf(state: StreamState, name: string): string;
/**
 * @param {StreamState} state
 * @param {string} panel
 * @returns {readonly Stage[]} the stages of one panel
 */
export function stagesOf(state: StreamState, panel: string): readonly Stage[];
/**
 * What a page shows of a run, as a value: `reduce(state, event)` gives the next one, and changes nothing.
 *
 *     const [state, dispatch] = useReducer(reduce, EMPTY);            // React
 *     state.value = reduce(state.value, event);                       // Vue, with a shallowRef
 *     state = reduce(state, event);                                   // Svelte
 */
/**
 * @typedef {object} RunEvent one event of Headgate's wire, or `batch`: the whole answer of a request that was not streamed
 * @property {"stage_start" | "content_chunk" | "content_replace" | "stage_complete" | "progress" | "error" | "stream_done"
 *   | "batch"} type
 * @property {string} panel
 * @property {string} stage
 * @property {string} content
 * @property {Readonly<Record<string, any>>} metadata
 */
/**
 * @typedef {object} Stage
 * @property {string} name
 * @property {string} panel
 * @property {string} text what a reader sees now
 * @property {boolean} complete
 * @property {boolean} replaced the text was another one before: the answer says something else
 */
/**
 * @typedef {object} Progress
 * @property {number} elapsedS seconds since the run began
 * @property {number | null} etaS seconds that are left; null where nobody knows
 * @property {number} total how many stages there will be
 */
/**
 * @typedef {object} Failure
 * @property {string} code
 * @property {string} message for a person; may be empty
 * @property {number} status the HTTP status that a batch client would have got
 * @property {boolean} retryAvailable
 */
/**
 * @typedef {object} StreamState
 * @property {"waiting" | "live" | "done" | "failed"} phase
 * @property {readonly Stage[]} stages in the order in which they began
 * @property {number} total how many stages there will be; 0 while unknown
 * @property {Progress | null} progress
 * @property {Failure | null} error
 * @property {boolean} partial it failed, and some of the text was shown and stays
 * @property {string | null} result the whole batch answer, if it was sent
 * @property {boolean} recovered something failed on the way, and the answer is whole all the same
 */
/** @type {StreamState} */
export const EMPTY: StreamState;
/**
 * one event of Headgate's wire, or `batch`: the whole answer of a request that was not streamed
 */
export type RunEvent = {
    type: "stage_start" | "content_chunk" | "content_replace" | "stage_complete" | "progress" | "error" | "stream_done" | "batch";
    panel: string;
    stage: string;
    content: string;
    metadata: Readonly<Record<string, any>>;
};
export type Stage = {
    name: string;
    panel: string;
    /**
     * what a reader sees now
     */
    text: string;
    complete: boolean;
    /**
     * the text was another one before: the answer says something else
     */
    replaced: boolean;
};
export type Progress = {
    /**
     * seconds since the run began
     */
    elapsedS: number;
    /**
     * seconds that are left; null where nobody knows
     */
    etaS: number | null;
    /**
     * how many stages there will be
     */
    total: number;
};
export type Failure = {
    code: string;
    /**
     * for a person; may be empty
     */
    message: string;
    /**
     * the HTTP status that a batch client would have got
     */
    status: number;
    retryAvailable: boolean;
};
export type StreamState = {
    phase: "waiting" | "live" | "done" | "failed";
    /**
     * in the order in which they began
     */
    stages: readonly Stage[];
    /**
     * how many stages there will be; 0 while unknown
     */
    total: number;
    progress: Progress | null;
    error: Failure | null;
    /**
     * it failed, and some of the text was shown and stays
     */
    partial: boolean;
    /**
     * the whole batch answer, if it was sent
     */
    result: string | null;
    /**
     * something failed on the way, and the answer is whole all the same
     */
    recovered: boolean;
};
