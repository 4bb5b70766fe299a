/** Says to a screen reader what a text has come to: whole sentences and stages, never single words. */
/** Milliseconds between two things that are said. */
export const PAUSE_MS: 1000;
export class Announcer {
    /** @param {HTMLElement} region with `aria-live` */
    constructor(region: HTMLElement);
    region: HTMLElement;
    /** @type {string[]} */
    due: string[];
    /** Characters of each text that were said or are due. @type {Map<string, number>} */
    said: Map<string, number>;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    timer: ReturnType<typeof setTimeout> | undefined;
    /** @param {string} words */
    say(words: string): void;
    /**
     * Says the sentences that are new.
     * @param {string} name of the text @param {string} text the whole of it so far @param {boolean} isWhole
     */
    follow(name: string, text: string, isWhole: boolean): void;
    /** Another answer comes. */
    forget(): void;
    /** Nothing is said any more. */
    close(): void;
    next(): void;
}
