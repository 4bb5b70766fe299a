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
export const EMPTY = Object.freeze({
  phase: "waiting",
  stages: Object.freeze(/** @type {Stage[]} */ ([])),
  total: 0,
  progress: null,
  error: null,
  partial: false,
  result: null,
  recovered: false,
});

/** @type {Readonly<Record<RunEvent["type"], (state: StreamState, event: RunEvent) => StreamState>>} */
const TABLE = {
  stage_start: (state, { stage, panel, metadata }) => ({
    ...put(state, stage, (known) => ({ ...known, panel })),
    total: metadata.total_expected || state.total,
  }),
  content_chunk: (state, { stage, panel, content }) => ({
    ...put(state, stage, (known) => ({ ...known, panel, text: known.text + content })),
    phase: "live",
    progress: null,
  }),
  content_replace: (state, { stage, panel, content }) => ({
    ...put(state, stage, (known) => ({
      ...known,
      panel,
      text: content,
      replaced: known.replaced || !content.startsWith(known.text),
    })),
    phase: "live",
    progress: null,
  }),
  stage_complete: (state, { stage }) => put(state, stage, (known) => ({ ...known, complete: true })),
  progress: (state, { metadata }) => ({
    ...state,
    progress: { elapsedS: metadata.elapsed_s, etaS: metadata.eta_s ?? null, total: metadata.total_expected },
  }),
  error: (state, { content, metadata }) => ({
    ...state,
    phase: "failed",
    progress: null,
    partial: metadata.partial,
    error: {
      code: metadata.error_code,
      message: content,
      status: metadata.status,
      retryAvailable: metadata.retry_available,
    },
  }),
  stream_done: (state, { metadata }) => ({
    ...state,
    phase: "done",
    progress: null,
    result: metadata.result ?? null,
    recovered: metadata.recovered,
  }),
  batch: (state, { content }) => ({ ...state, phase: "done", progress: null, result: content }),
};

/**
 * @param {StreamState} state
 * @param {RunEvent} event
 * @returns {StreamState} the same one after the end, and for an event that is not known
 */
export function reduce(state, event) {
  if (state.phase === "done" || state.phase === "failed" || !Object.hasOwn(TABLE, event.type)) return state;
  return TABLE[event.type](state, event);
}

/**
 * @param {StreamState} state
 * @param {string} name
 * @returns {string} the text of one stage; empty before it begins
 */
export function textOf(state, name) {
  return state.stages.find((stage) => stage.name === name)?.text ?? "";
}

/**
 * @param {StreamState} state
 * @param {string} panel
 * @returns {readonly Stage[]} the stages of one panel
 */
export function stagesOf(state, panel) {
  return state.stages.filter((stage) => stage.panel === panel);
}

/** @param {StreamState} state @param {string} name @param {(known: Stage) => Stage} change @returns {StreamState} */
function put(state, name, change) {
  const at = state.stages.findIndex((stage) => stage.name === name);
  const known = at < 0 ? { name, panel: "", text: "", complete: false, replaced: false } : state.stages[at];
  const stages = [...state.stages];
  stages[at < 0 ? stages.length : at] = change(known);
  return { ...state, stages };
}
