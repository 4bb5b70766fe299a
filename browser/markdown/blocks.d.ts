export class Blocks {
    /** @param {number} top level of what it stands under @param {number} level of the heading before @param {boolean} grows */
    constructor(top: number, level: number, grows: boolean);
    top: number;
    level: number;
    grows: boolean;
    /** @param {string} text @returns {Block[]} */
    read(text: string): Block[];
    /**
     * @param {readonly string[]} lines @param {readonly string[]} raw the same, for their lengths @param {number} depth
     * @returns {Block[]}
     */
    blocks(lines: readonly string[], raw: readonly string[], depth: number): Block[];
    /** @param {readonly string[]} lines @param {number} depth @param {boolean} isLast more may come to them @returns {Made[]} */
    pieces(lines: readonly string[], depth: number, isLast: boolean): Made[];
    /** @param {readonly string[]} lines @param {number} at @param {number} depth @returns {[Made | null, number]} and the next line */
    block(lines: readonly string[], at: number, depth: number): [Made | null, number];
    /** @param {readonly string[]} lines @param {number} at */
    interrupts(lines: readonly string[], at: number): boolean;
    /** @param {string} line @param {number} marks @param {boolean} isLast */
    heading(line: string, marks: number, isLast: boolean): import("./inline.js").Made;
    /** @param {readonly string[]} lines @param {number} at @param {number} depth @returns {[Made, number]} */
    quote(lines: readonly string[], at: number, depth: number): [Made, number];
    /** @param {readonly string[]} lines @param {number} at @param {number} depth @returns {[Made, number]} */
    list(lines: readonly string[], at: number, depth: number): [Made, number];
    /**
     * @param {readonly string[]} lines @param {number} at @param {RegExpExecArray} item
     * @returns {[string[], number]} the item's own lines, and where the next one begins
     */
    item(lines: readonly string[], at: number, [, indent, , text]: RegExpExecArray): [string[], number];
    /** @param {readonly string[]} lines @param {number} at */
    isTable(lines: readonly string[], at: number): boolean;
    /** @param {readonly string[]} lines @param {number} at @returns {[Made, number]} */
    table(lines: readonly string[], at: number): [Made, number];
}
export type Made = import("./inline.js").Made;
/**
 * `end`: where the text after it begins; `level`: of the last heading
 */
export type Block = {
    piece: Made;
    end: number;
    level: number;
};
