/** A card within an element of the page. */
export class Card {
    /** @param {string} panel @param {Element} anchor */
    constructor(panel: string, anchor: Element);
    anchor: Element;
    texts: Texts;
    host: HTMLElement;
    puts: number;
    maxPx: number;
    fields: Element[];
    /** @param {readonly Stage[]} stages @returns {boolean} whether it can be shown here */
    set(stages: readonly Stage[]): boolean;
    /** Stands as the last child, also after a render of the page. */
    put(): boolean;
    fit(): boolean;
    remove(): void;
}
/** A small window in a corner: it can be moved, folded up and closed. */
export class Dock {
    /** @param {string} panel @param {string} about what the text is, in words @param {() => void} onClose */
    constructor(panel: string, about: string, onClose: () => void);
    texts: Texts;
    host: HTMLElement;
    words: HTMLElement;
    dock: HTMLElement;
    /** @param {PointerEvent} begun */
    drag(begun: PointerEvent): void;
    /** @param {string} about */
    say(about: string): void;
    /** @param {readonly Stage[]} stages @returns {boolean} whether it can be shown */
    set(stages: readonly Stage[]): boolean;
    remove(): void;
}
export type Stage = import("../state.js").Stage;
/** The texts of some stages, each of which only grows or is replaced. */
declare class Texts {
    /** @param {number} level of the heading that they stand under */
    constructor(level: number);
    level: number;
    element: HTMLElement;
    /** @type {Map<string, MarkdownView>} by stage */
    shown: Map<string, MarkdownView>;
    /** @param {readonly Stage[]} stages */
    set(stages: readonly Stage[]): void;
}
import { MarkdownView } from "../markdown.js";
export {};
