/** @returns {Remembered[]} */
export function remembered(): Remembered[];
/** @param {Remembered} run */
export function remember(run: Remembered): void;
/** @param {string} run */
export function forget(run: string): void;
/** @param {string} run @param {readonly Stage[]} stages */
export function keepText(run: string, stages: readonly Stage[]): void;
/** @param {string} run @returns {readonly Stage[]} what was kept, which is kept no longer */
export function takeText(run: string): readonly Stage[];
/** Characters of a text that is kept, with its frame; a longer one is not. */
export const MAX_KEPT_CHARS: number;
export type Stage = import("../state.js").Stage;
/**
 * a run, the path of its call, and when that was sent
 */
export type Remembered = {
    run: string;
    path: string;
    at: number;
};
