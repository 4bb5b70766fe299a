/**
 * One pass over a text, so that its cost is linear whatever stands there.
 * @param {string} text @param {boolean} grows what is open at its end is taken for closed
 * @returns {Piece[]}
 */
export function inline(text: string, grows: boolean): Piece[];
/** @param {string} tag @param {readonly Piece[]} children @param {Readonly<Record<string, string>>} [attributes] @returns {Made} */
export function make(tag: string, children: readonly Piece[], attributes?: Readonly<Record<string, string>>): Made;
/** What stands within a line of Markdown: emphasis, code and links, as elements to be. Pure. */
/**
 * @typedef {object} Made an element to be
 * @property {string} tag
 * @property {Readonly<Record<string, string>>} attributes
 * @property {readonly Piece[]} children
 */
/** @typedef {string | Made} Piece */
/** Quotes, lists and emphasis within one another; deeper ones are text. */
export const MAX_DEPTH: 12;
/**
 * an element to be
 */
export type Made = {
    tag: string;
    attributes: Readonly<Record<string, string>>;
    children: readonly Piece[];
};
export type Piece = string | Made;
/**
 * a mark that is still to be closed
 */
export type Open = {
    mark: string;
    tag: string;
    children: Piece[];
};
