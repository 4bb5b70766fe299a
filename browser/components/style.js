/**
 * The style of the elements. Colours follow the page's `color-scheme`; a page sets its own by the properties that begin
 * with `--headgate-`. Sizes are relative to the page's font, and sides to the direction of its text.
 */
export const STYLE = `
:host {
  --ink: var(--headgate-ink, light-dark(#14313a, #e4eef0));
  --soft: var(--headgate-soft, light-dark(#4a646d, #a9bfc5));
  --line: var(--headgate-line, light-dark(#c9d6da, #3a4f56));
  --paper: var(--headgate-paper, light-dark(#ffffff, #12201f));
  --accent: var(--headgate-accent, light-dark(#0b6e69, #6fd0c8));
  --accent-soft: var(--headgate-accent-soft, light-dark(#e2f1ef, #17393a));
  --warn: var(--headgate-warn, light-dark(#a3261f, #ffb4ab));
  --warn-soft: var(--headgate-warn-soft, light-dark(#fdecea, #43201d));
  display: flex; flex-direction: column; position: relative; min-height: 0; min-width: 0;
  color: var(--ink); background: var(--paper); border: 1px solid var(--line); border-radius: 0.6em; overflow: hidden;
}
:host([hidden]) { display: none; }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.area { flex: 1; min-height: 0; overflow-y: auto; padding: 0.7em 0.9em; overflow-wrap: anywhere; overflow-anchor: none; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; border-radius: 0.3em; }
p, ul, ol, pre, blockquote, h1, h2, h3, h4, h5, h6 { margin: 0; padding: 0; }

.answer + .answer, .said + .answer, .answer + .said { margin-block-start: 1em; }
.said { width: fit-content; max-width: 92%; margin-inline-start: auto; padding: 0.5em 0.8em; border-radius: 0.8em; background: var(--accent-soft); white-space: pre-wrap; }
.stage + .stage { margin-block-start: 1em; }
.head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0.2em 0.7em; margin-block-end: 0.3em; padding-inline-start: 0.6em; border-inline-start: 3px solid var(--accent); }
.head > * { font-size: 1em; font-weight: 600; color: var(--accent); }
.head .mark { font-size: 0.85em; font-weight: 400; color: var(--soft); }
.text > * + * { margin-block-start: 0.5em; }
.text p, .text li { white-space: pre-wrap; }
.text ul, .text ol { padding-inline-start: 1.5em; }
.text li > ul, .text li > ol { white-space: normal; }
.text h1, .text h2, .text h3, .text h4, .text h5, .text h6 { font-size: 1em; margin-block-start: 0.8em; }
.text blockquote { padding-inline-start: 0.8em; border-inline-start: 3px solid var(--line); color: var(--soft); }
.text a { color: var(--accent); text-underline-offset: 0.2em; }
.text code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 0.9em; }
.text pre { padding: 0.6em 0.8em; background: var(--accent-soft); border-radius: 0.4em; white-space: pre-wrap; text-align: left; direction: ltr; }
.text hr { border: 0; border-block-start: 1px solid var(--line); }
.table { overflow-x: auto; overflow-wrap: break-word; }
.table table { border-collapse: collapse; font-size: 0.95em; }
.table th, .table td { min-width: 5em; text-align: start; vertical-align: top; padding-block: 0.2em; padding-inline: 0 0.9em; border-block-end: 1px solid var(--line); }
.table th { color: var(--soft); }

.dots { display: flex; gap: 0.4em; padding-block: 0.6em; }
.dots i { width: 0.5em; height: 0.5em; border-radius: 50%; background: var(--accent); animation: pulse 1.2s infinite; }
.dots i:nth-child(2) { animation-delay: 0.2s; }
.dots i:nth-child(3) { animation-delay: 0.4s; }
@keyframes pulse { 0%, 60%, 100% { opacity: 0.25; } 30% { opacity: 1; } }
.failure:not(:empty) { margin-block-start: 0.7em; padding: 0.5em 0.8em; color: var(--warn); background: var(--warn-soft); border: 1px solid var(--warn); border-radius: 0.5em; }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: 0.4em; margin-block-start: 0.7em; }
.status { flex: 1 1 12em; font-size: 0.87em; color: var(--soft); }
.answer[data-phase="done"] .status { color: var(--accent); }
.answer[data-phase="failed"] .status { color: var(--warn); }
button { font: inherit; font-size: 0.87em; min-height: 1.9em; min-width: 1.9em; padding: 0.15em 0.8em; color: var(--accent); background: var(--paper); border: 1px solid var(--accent); border-radius: 0.5em; cursor: pointer; }
button:hover { background: var(--accent-soft); }
.newest { position: absolute; inset-block-end: 0.6em; inset-inline: 0; width: fit-content; margin-inline: auto; background: var(--accent); color: var(--paper); }
.newest:hover { color: var(--accent); }
.newest:focus-visible { outline-offset: 2px; }

@media (prefers-reduced-motion: reduce) { .dots i { animation: none; opacity: 0.6; } }
@media (forced-colors: active) { .dots i { background: CanvasText; } .head, .failure:not(:empty) { border-color: CanvasText; } }
`;
