/**
 * Text that arrives in bursts, shown at a steady pace: never more than `MAX_BEHIND_MS` behind, and at once where pacing
 * would be wrong: in a hidden tab, whose frames stop, and for readers who want less motion.
 */
/** A text that is all here is shown within so many milliseconds. */
export const MAX_BEHIND_MS: 400;
export class Smoother {
    /**
     * @param {(text: string) => void} show called with what a reader is to see now, at most once a frame
     * @param {Surroundings} [page]
     */
    constructor(show: (text: string) => void, page?: Surroundings);
    show: (text: string) => void;
    page: Surroundings;
    text: string;
    shown: number;
    /** How long the text was when it came, and until when all of that is shown. @type {{length: number, dueMs: number}[]} */
    due: {
        length: number;
        dueMs: number;
    }[];
    /** @type {number | null} */
    frame: number | null;
    lastMs: number;
    stopListening: () => void;
    /** @param {string} text the whole of it so far; a text that does not go on from the one before is shown at once */
    set(text: string): void;
    /** Shows all that is here. */
    flush(): void;
    /** Nothing is shown any more. */
    close(): void;
    ask(): void;
    /** @param {number} ms */
    step(ms: number): void;
}
/**
 * what a smoother asks of its page; another one is given to tests
 */
export type Surroundings = {
    /**
     * milliseconds, of the clock that frames are called with
     */
    now: () => number;
    requestFrame: (callback: (ms: number) => void) => number;
    cancelFrame: (handle: number) => void;
    /**
     * whether to show everything at once
     */
    isStill: () => boolean;
    /**
     * calls back when that may have changed; returns how to stop it
     */
    onStill: (callback: () => void) => () => void;
};
