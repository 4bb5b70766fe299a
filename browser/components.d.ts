export { Presentation } from "./components/presentation.js";
/** Answers and messages that a conversation shows; the oldest go first. */
export const MAX_TURNS: 200;
export class HeadgatePanel extends AnswerElement {
}
/** A conversation: what a person says, and answers, which stay when the next one comes. */
export class HeadgateChat extends AnswerElement {
    /** Shows what a person says. @param {string} text */
    say(text: string): void;
    bound(): void;
}
export type StreamState = import("./state.js").StreamState;
export type Action = import("./components/answer-view.js").Action;
export type Labels = import("./components/answer-view.js").Labels;
/**
 * What both elements have. Attributes: `label`; `panel`, whose stages alone are shown; `actions`, of `stop retry replay`;
 * `level` of the headings of stages, 3 if it is not given.
 *
 * It fires `headgate-action` with an `Action` as its `detail`.
 */
declare class AnswerElement extends HTMLElement {
    /** Words in the page's own language. @type {Labels} */
    labels: Labels;
    /** Titles of stages, by their names. @type {Readonly<Record<string, string>>} */
    titles: Readonly<Record<string, string>>;
    /** @type {AnswerView | null} */
    view: AnswerView | null;
    /** @type {StreamState} */
    current: StreamState;
    follows: boolean;
    area: HTMLDivElement;
    inner: HTMLDivElement;
    newest: HTMLButtonElement;
    announcer: Announcer;
    connectedCallback(): void;
    growing: ResizeObserver | undefined;
    disconnectedCallback(): void;
    get areaRole(): string;
    set state(state: import("./state.js").StreamState);
    /** What is shown; begins an answer if none has begun. */
    get state(): import("./state.js").StreamState;
    /** Another answer comes. @param {{again?: boolean}} [options] `again`: it takes the place of the one before */
    begin(options?: {
        again?: boolean;
    }): void;
    /** @param {{again?: boolean}} options */
    retire(options: {
        again?: boolean;
    }): void;
    open(): AnswerView;
    /** Whether the reader is at the end; who scrolled away is left there. */
    look(): void;
    offerNewest(): void;
    keepUp(): void;
    toNewest(): void;
}
import { AnswerView } from "./components/answer-view.js";
import { Announcer } from "./components/announcer.js";
