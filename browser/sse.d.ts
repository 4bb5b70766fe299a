/**
 * Bytes to server-sent events. The same bytes give the same events, however they are cut.
 *
 * Source: WHATWG HTML 9.2, https://html.spec.whatwg.org/multipage/server-sent-events.html
 */
/** Characters that one event may have, with its unfinished line. */
export const MAX_EVENT_CHARS: number;
/**
 * What a browser would dispatch.
 * @typedef {object} ServerSentEvent
 * @property {string} data
 * @property {string} event its type, `message` if the stream names none
 * @property {string} id the last event id of the stream so far
 */
export class EventDecoder {
    /** @param {number} [maxEventChars] */
    constructor(maxEventChars?: number);
    maxEventChars: number;
    /** The reconnection time that the stream last set, in milliseconds. @type {number | null} */
    retry: number | null;
    text: TextDecoder;
    isStart: boolean;
    afterCr: boolean;
    id: string;
    /** @type {string[]} pieces of the line that is not finished: joined once, or a drip would cost its square */
    line: string[];
    /** @type {string[]} */
    data: string[];
    dataChars: number;
    held: number;
    event: string;
    /**
     * @param {Uint8Array} bytes
     * @returns {ServerSentEvent[]} the events that these bytes complete
     * @throws {RangeError} one event is longer than `maxEventChars`
     */
    feed(bytes: Uint8Array): ServerSentEvent[];
    /** @param {string} piece */
    hold(piece: string): void;
    /** @param {string} line @param {ServerSentEvent[]} events */
    endLine(line: string, events: ServerSentEvent[]): void;
    clear(): void;
}
/**
 * What a browser would dispatch.
 */
export type ServerSentEvent = {
    data: string;
    /**
     * its type, `message` if the stream names none
     */
    event: string;
    /**
     * the last event id of the stream so far
     */
    id: string;
};
