/**
 * @param {string} text
 * @param {{level?: number}} [options]
 * @returns {DocumentFragment} a text that is whole
 */
export function renderMarkdown(text: string, options?: {
    level?: number;
}): DocumentFragment;
/** @typedef {import("./markdown/inline.js").Made} Made */
/** @typedef {import("./markdown/inline.js").Piece} Piece */
/** One text as it grows. It owns the children of `root`. */
export class MarkdownView {
    /**
     * @param {Element} root
     * @param {{level?: number}} [options] `level`: of the heading that the text stands under, 1 to 5
     */
    constructor(root: Element, { level }?: {
        level?: number;
    });
    root: Element;
    level: number;
    text: string;
    /** Characters whose elements are final, and how many these are. */
    settledChars: number;
    settledNodes: number;
    settledLevel: number;
    /**
     * @param {string} text the whole of it so far; one that does not go on from the one before replaces it
     * @param {{isFinal?: boolean}} [options] nothing more will come: what is open is text
     */
    set(text: string, { isFinal }?: {
        isFinal?: boolean;
    }): void;
}
export type Made = import("./markdown/inline.js").Made;
export type Piece = import("./markdown/inline.js").Piece;
