/**
 * Bytes to server-sent events. The same bytes give the same events, however they are cut.
 *
 * Source: WHATWG HTML 9.2, https://html.spec.whatwg.org/multipage/server-sent-events.html
 */

/** Characters that one event may have, with its unfinished line. */
export const MAX_EVENT_CHARS = 64 * 1024 * 1024;

/**
 * What a browser would dispatch.
 * @typedef {object} ServerSentEvent
 * @property {string} data
 * @property {string} event its type, `message` if the stream names none
 * @property {string} id the last event id of the stream so far
 */

export class EventDecoder {
  /** @param {number} [maxEventChars] */
  constructor(maxEventChars = MAX_EVENT_CHARS) {
    this.maxEventChars = maxEventChars;
    /** The reconnection time that the stream last set, in milliseconds. @type {number | null} */
    this.retry = null;
    this.text = new TextDecoder("utf-8", { ignoreBOM: true }); // replaces what is no UTF-8
    this.isStart = true;
    this.afterCr = false;
    this.id = "";
    /** @type {string[]} pieces of the line that is not finished: joined once, or a drip would cost its square */
    this.line = [];
    /** @type {string[]} */
    this.data = [];
    this.dataChars = this.held = 0;
    this.event = "";
  }

  /**
   * @param {Uint8Array} bytes
   * @returns {ServerSentEvent[]} the events that these bytes complete
   * @throws {RangeError} one event is longer than `maxEventChars`
   */
  feed(bytes) {
    /** @type {ServerSentEvent[]} */
    const events = [];
    let text = this.text.decode(bytes, { stream: true });
    if (text === "") return events;
    // By hand: of a stream that comes in single bytes some decoders take off every mark.
    if (this.isStart && text[0] === "\ufeff") text = text.slice(1);
    this.isStart = false;
    // A CR ends its line at once, so an LF that follows it may come with a later read.
    if (this.afterCr && text[0] === "\n") text = text.slice(1);
    this.afterCr = text === "" ? false : text.endsWith("\r");
    const lines = text.split(/\r\n|\n|\r/);
    const rest = /** @type {string} */ (lines.pop());
    for (const line of lines) {
      this.hold(line);
      const whole = this.line.length === 1 ? line : this.line.join("");
      this.line = [];
      this.held = this.dataChars;
      this.endLine(whole, events);
    }
    if (rest !== "") this.hold(rest);
    return events;
  }

  /** @param {string} piece */
  hold(piece) {
    this.held += piece.length;
    if (this.held > this.maxEventChars) throw new RangeError(`an event of more than ${this.maxEventChars} characters`);
    this.line.push(piece);
  }

  /** @param {string} line @param {ServerSentEvent[]} events */
  endLine(line, events) {
    if (line === "") {
      if (this.data.length > 0) events.push({ data: this.data.join("\n"), event: this.event || "message", id: this.id });
      this.clear();
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "data") {
      this.data.push(value);
      this.dataChars += value.length + 1;
      this.held = this.dataChars;
    } else if (field === "event") this.event = value;
    else if (field === "id" && !value.includes("\0")) this.id = value;
    else if (field === "retry" && /^[0-9]{1,15}$/.test(value)) this.retry = Number(value);
  }

  clear() {
    this.data = [];
    this.dataChars = this.held = 0;
    this.event = "";
  }
}
