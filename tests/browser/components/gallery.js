// A page with both elements, and the states that they may be in.

import { StreamClient } from "/_headgate/client.js";
import { Presentation } from "/_headgate/components.js";
import { MarkdownView, renderMarkdown } from "/_headgate/markdown.js";
import { EMPTY, reduce } from "/_headgate/state.js";

const TEXT = `# Findings

Fever of **38.9 °C** and a *productive* cough for 4 days; see [the guideline](https://example.org/cap). \`CRP\` is 148 mg/L.

| Factor | Value | Note |
| --- | --- | --- |
| SpO₂ | 91 % | on room air |
| Creatinine | 97 µmol/L | |

1. Chest X-ray
2. Blood cultures
   - before antibiotics

> Confusion is absent.

\`\`\`
CURB-65 = 1
\`\`\`
`;
const ARABIC = "# النتائج\n\nحمى **38.9 °C** وسعال منذ أربعة أيام.\n\n- أشعة للصدر\n- مزرعة دم\n\n| العامل | القيمة |\n| --- | --- |\n| SpO₂ | 91 % |\n";

const event = (type, panel, stage, content = "", metadata = {}) => ({ type, panel, stage, content, metadata });
const start = (panel, stage) => event("stage_start", panel, stage, "", { index: 0, total_expected: 2 });
const chunk = (panel, stage, content) => event("content_chunk", panel, stage, content);
const complete = (panel, stage) => event("stage_complete", panel, stage);
const failed = (code, content, more = {}) =>
  event("error", "", "", content, { error_code: code, retry_available: true, partial: true, status: 502, ...more });
const progress = (more = {}) => event("progress", "", "", "", { elapsed_s: 12, stage_index: 1, total_expected: 2, ...more });
const whole = (text) => [
  ...[start("reasoning", "extraction"), chunk("reasoning", "extraction", text), complete("reasoning", "extraction")],
  ...[start("chat", "summary"), chunk("chat", "summary", text), complete("chat", "summary")],
];

const STATES = {
  waiting: [],
  progress: [start("reasoning", "extraction"), progress({ eta_s: 30 })],
  unknown: [start("reasoning", "extraction"), progress()],
  live: [...whole(TEXT).slice(0, 3), start("chat", "summary"), chunk("chat", "summary", TEXT.slice(0, 260))],
  replaced: [...whole(TEXT).slice(0, 2), event("content_replace", "reasoning", "extraction", "Another text."), complete("reasoning", "extraction")],
  done: [...whole(TEXT), event("stream_done", "", "", "", { status: 200, recovered: false })],
  error: [...whole(TEXT).slice(0, 5), failed("upstream_broke", "The answer broke off.")],
  refused: [failed("http", "{}", { partial: false, retry_available: false, status: 422 })],
  unavailable: [failed("http", "{}", { partial: false, retry_available: false })],
  stopped: [...whole(TEXT).slice(0, 5), failed("cancelled", "", { retry_available: false })],
  arabic: [...whole(ARABIC), event("stream_done", "", "", "", { status: 200, recovered: false })],
};

const elements = [...document.querySelectorAll("headgate-panel, headgate-chat")];

window.gallery = {
  STATES: Object.keys(STATES),
  TEXT,
  elements,
  renderMarkdown,
  MarkdownView,
  /** @param {string} name of a state */
  show(name) {
    const state = STATES[name].reduce(reduce, EMPTY);
    for (const element of elements) {
      element.begin();
      if (element.localName === "headgate-chat") element.say("A cough for 4 days.");
      element.state = state;
      element.view.shown.forEach(({ smoother }) => smoother.flush());
    }
  },
  /** Text in the panel, as it comes: `next(text)` gives it more. */
  live() {
    elements[0].begin();
    let state = [start("reasoning", "extraction")].reduce(reduce, EMPTY);
    elements[0].state = state;
    return (text) => {
      state = reduce(state, chunk("reasoning", "extraction", text));
      elements[0].state = state;
    };
  },
  present: () => (window.presentation = new Presentation(elements, () => new StreamClient().stream({ url: "/ask", method: "POST" }))),
};
