/** @typedef {import("../state.js").Failure} Failure */
/** @typedef {import("../state.js").StreamState} StreamState */
/** @typedef {import("../state.js").Stage} Stage */
/** @typedef {import("./announcer.js").Announcer} Announcer */
/** What can be done about an answer. @typedef {"stop" | "retry" | "replay"} Action */
/** All words that are shown or said; a page gives its own in another language. */
export const LABELS: Readonly<{
    waiting: "Waiting for the answer";
    live: "Live, not final yet";
    done: "Complete";
    failed: "Incomplete";
    stopped: "Stopped";
    replaced: "corrected";
    complete: "complete";
    begins: "begins";
    step: "Step {index} of {total}";
    soFar: "{seconds} s so far";
    toGo: "about {seconds} s to go";
    copy: "Copy";
    copied: "Copied";
    notCopied: "Copying is not allowed here";
    stop: "Stop";
    retry: "Try again";
    replay: "Replay";
    newest: "Newest text";
    kept: "What came before is kept above; it is not complete.";
    error: "The answer could not be completed.";
    lost: "The connection was lost.";
    timeout: "The answer took too long.";
    refused: "The request was refused.";
}>;
/** @typedef {{box: HTMLElement, mark: HTMLElement, view: MarkdownView, smoother: Smoother, stage: Stage}} Shown */
export class AnswerView {
    /**
     * @param {object} options
     * @param {Announcer} options.announcer
     * @param {Labels} options.labels
     * @param {Readonly<Record<string, string>>} options.titles of stages, by their names
     * @param {(stage: Stage) => boolean} options.takes whether a stage is shown here
     * @param {readonly Action[]} options.actions those that are offered when they make sense
     * @param {(action: Action) => void} options.onAction
     * @param {() => void} options.onGrown called after text was added
     * @param {number} options.level of the headings of stages
     */
    constructor({ announcer, labels, titles, takes, actions, onAction, onGrown, level }: {
        announcer: Announcer;
        labels: Labels;
        titles: Readonly<Record<string, string>>;
        takes: (stage: Stage) => boolean;
        actions: readonly Action[];
        onAction: (action: Action) => void;
        onGrown: () => void;
        level: number;
    });
    announcer: import("./announcer.js").Announcer;
    labels: {
        error: string;
        stop: string;
        failed: string;
        waiting: string;
        stopped: string;
        copy: string;
        complete: string;
        done: string;
        live: string;
        timeout: string;
        lost: string;
        begins: string;
        replaced: string;
        step: string;
        soFar: string;
        toGo: string;
        copied: string;
        notCopied: string;
        retry: string;
        replay: string;
        newest: string;
        kept: string;
        refused: string;
    };
    titles: Readonly<Record<string, string>>;
    takes: (stage: Stage) => boolean;
    actions: readonly Action[];
    onAction: (action: Action) => void;
    onGrown: () => void;
    level: number;
    /** @type {Map<string, Shown>} */
    shown: Map<string, Shown>;
    /** @type {StreamState["phase"] | null} */
    phase: StreamState["phase"] | null;
    /** @type {{elapsedS: number, etaS: number | null, atMs: number} | null} */
    progress: {
        elapsedS: number;
        etaS: number | null;
        atMs: number;
    } | null;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    clock: ReturnType<typeof setInterval> | undefined;
    root: HTMLElement;
    failure: HTMLElement;
    stages: HTMLElement;
    dots: HTMLElement;
    bar: HTMLElement;
    status: HTMLElement;
    /** @type {Map<Action | "copy", HTMLButtonElement>} */
    buttons: Map<Action | "copy", HTMLButtonElement>;
    /** @param {StreamState} state */
    set(state: StreamState): void;
    state: import("../state.js").StreamState | undefined;
    /** Frames and timers end; what is shown stays. */
    close(): void;
    /** The whole text, as it was sent. */
    get text(): string;
    /** @param {Stage} stage */
    setStage(stage: Stage): void;
    /** @param {Stage} stage @returns {Shown} */
    open(stage: Stage): Shown;
    /** @param {StreamState} state */
    showFailure({ phase, error, partial }: StreamState): void;
    /** Which buttons make sense now. */
    offer(): void;
    /** @param {HTMLButtonElement} button */
    focusNear(button: HTMLButtonElement): void;
    /** How far it is, in one line. */
    tell(): void;
    /** @param {{elapsedS: number, etaS: number | null, atMs: number}} progress @returns {string[]} */
    times({ elapsedS, etaS, atMs }: {
        elapsedS: number;
        etaS: number | null;
        atMs: number;
    }): string[];
    /** @param {Action | "copy"} name */
    press(name: Action | "copy"): void;
    copy(): Promise<void>;
    stopClock(): void;
}
export type Failure = import("../state.js").Failure;
export type StreamState = import("../state.js").StreamState;
export type Stage = import("../state.js").Stage;
export type Announcer = import("./announcer.js").Announcer;
/**
 * What can be done about an answer.
 */
export type Action = "stop" | "retry" | "replay";
export type Labels = Partial<Record<keyof typeof LABELS, string>>;
export type Shown = {
    box: HTMLElement;
    mark: HTMLElement;
    view: MarkdownView;
    smoother: Smoother;
    stage: Stage;
};
import { MarkdownView } from "../markdown.js";
import { Smoother } from "../smoother.js";
