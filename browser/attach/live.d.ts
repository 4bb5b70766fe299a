export { kept };
/**
 * @typedef {object} LiveCall
 * @property {string} run
 * @property {import("./routes.js").AttachRoute} route
 * @property {string} base where Headgate is
 * @property {typeof globalThis.fetch} fetch the page's own, from before the script
 * @property {() => Record<string, string>} headers credentials as the page last set them
 * @property {RequestCredentials} credentials
 * @property {(step: () => void) => void} guard runs a step, and counts its failure
 * @property {() => void} onNothing there is no such run: what was said of this route is not so any more
 * @property {string} about for a text that no panel waits for; "" if the page waits
 * @property {readonly import("../state.js").Stage[]} stages what the tab has kept of it
 */
export class Live {
    /** @param {LiveCall} call */
    constructor(call: LiveCall);
    call: LiveCall;
    /** @type {import("../state.js").StreamState} */
    state: import("../state.js").StreamState;
    isOver: boolean;
    isBound: boolean;
    address: string;
    /** @type {Map<string, Element | null>} by panel; null: in a window */
    anchors: Map<string, Element | null>;
    /** @type {Element | null} */
    waiting: Element | null;
    /** @type {Map<string, Card | Dock>} */
    views: Map<string, Card | Dock>;
    /** @type {Dock | null} */
    docked: Dock | null;
    /** @type {(() => void) | null} */
    cancelRender: (() => void) | null;
    reading: AbortController;
    observer: MutationObserver;
    bindBy: number;
    whole: Promise<void>;
    /** Reads no further. */
    leave(): void;
    read(): Promise<void>;
    /** Finds where the text will stand, while the page may still be about to show that it waits. */
    bind(): void;
    /** Whether all is still as it was when the call was sent; if not, the text is gone. */
    look(): void;
    renderSoon(): void;
    render(): void;
    /** @param {string} panel */
    view(panel: string): Card | Dock;
    /** One for all panels that have no other place. @param {string} panel the first of them */
    window(panel: string): Dock;
    /** A panel that has no room for the card, or does not keep it. @param {string} panel @param {Card | Dock} view */
    dock(panel: string, view: Card | Dock): void;
    /** @param {MouseEvent} event */
    heedClick({ target }: MouseEvent): void;
    /** @param {MutationRecord[]} records */
    heed(records: MutationRecord[]): void;
    isAnswered: boolean;
    /** @type {Map<string, number>} when the page last changed something in a panel, by its name */
    renderedAt: Map<string, number>;
    /**
     * The page has its answer, and may have shown it already.
     * @param {boolean} isGood whether it will show a text
     */
    answered(isGood: boolean): void;
    /** A run of before the page was loaded has ended: nothing of the page will show it. */
    finish(): void;
    /** The page is about to be unloaded. */
    keep(): void;
    /** @param {string} name @param {Card | Dock} view */
    drop(name: string, view: Card | Dock): void;
    /** Nothing of it is shown, or will be. */
    end(): void;
}
export type LiveCall = {
    run: string;
    route: import("./routes.js").AttachRoute;
    /**
     * where Headgate is
     */
    base: string;
    /**
     * the page's own, from before the script
     */
    fetch: typeof globalThis.fetch;
    /**
     * credentials as the page last set them
     */
    headers: () => Record<string, string>;
    credentials: RequestCredentials;
    /**
     * runs a step, and counts its failure
     */
    guard: (step: () => void) => void;
    /**
     * there is no such run: what was said of this route is not so any more
     */
    onNothing: () => void;
    /**
     * for a text that no panel waits for; "" if the page waits
     */
    about: string;
    /**
     * what the tab has kept of it
     */
    stages: readonly import("../state.js").Stage[];
};
import * as kept from "./kept.js";
import { Card } from "./view.js";
import { Dock } from "./view.js";
