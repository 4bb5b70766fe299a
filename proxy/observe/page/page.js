/* What `/now` says, as a page. Nothing is fetched from elsewhere, and no text becomes markup. */

const REASONS = {
  flag_on: "flag on", killed: "kill switch", flags_stale: "flags too old", breaker_open: "breaker open",
  overloaded: "no room", no_identity: "no identity", flag_unknown: "flag unknown", flag_off: "flag off for the user",
  flag_error: "flag error", variant_invalid: "variant invalid", dark: "dark: only compared",
  accept: "client takes no events",
};
const OUTCOMES = {
  complete: "complete", recovered: "recovered", fell_back: "fell back to the batch answer", failed: "failed",
  truncated: "cut short", client_left: "client left", cancelled: "cancelled", shutdown: "cut by a shutdown",
};
const PARITY = {
  equal: "as shown", suffix: "rest sent at the end", replaced: "replaced", unshown: "shown at the end", missing: "not in the answer",
};
const FINDINGS = { harm: "bad", safe: "good" };

const by = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const sum = (counts) => Object.values(counts ?? {}).reduce((all, each) => all + each, 0);
const many = (count, one, more = `${one}s`) => `${number.format(count)} ${count === 1 ? one : more}`;
const percent = (share) => `${number.format(Math.round(share * 10) / 10)}\u00a0%`;

/** An element with attributes and children; a child may be a text. What is null or false is left out. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null && value !== false) element.setAttribute(name, value);
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

function span(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
  return `${Math.max(0, Math.round(seconds))} s`;
}

const drawn = new Map();
/** Draws a part of the page again if what it shows has changed: what is selected or has the focus stays. */
function draw(id, shown, parts) {
  const key = JSON.stringify(shown);
  if (drawn.get(id) === key) return;
  drawn.set(id, key);
  by(id).replaceChildren(...parts().filter(Boolean));
}

function say(id, text) {
  if (by(id).textContent !== text) by(id).textContent = text;
}

function listed(counts, words, mark = () => "") {
  const found = Object.entries(counts ?? {}).filter(([, count]) => count).sort((a, b) => b[1] - a[1]);
  return found.flatMap(([name, count], at) => [
    at ? " · " : "", make("span", { class: mark(name) || null }, `${number.format(count)} ${words[name] ?? name.replaceAll("_", " ")}`),
  ]);
}

// What is streamed to whom.

function shown(route) {
  const { flag } = route;
  if (!flag.known) return "The flag is not there: nobody streams.";
  if (!flag.enabled) return "The flag is off: nobody streams.";
  return flag.share === null ? "Its strategies alone decide, and there is no control arm." : null;
}

function shares(route, killed) {
  const why = shown(route);
  if (why) return [make("p", { class: "key" }, why)];
  if (killed) return [make("div", { class: "overruled" }, ...shares(route, false), make("p", { class: "note" }, "So the flag says; nobody streams now."))];
  const { share, control, dark, targeted } = route.flag;
  const compared = share * dark;
  const bar = make("div", { class: "bar", "aria-hidden": "true" });
  for (const [arm, width] of [["stream", share - compared], ["dark", compared], ["control", control]]) {
    const part = make("span", { class: arm });
    part.style.width = `${width}%`;
    if (width) bar.append(part);
  }
  const rest = 100 - share - control;
  return [bar, make("p", { class: "key" },
    make("span", { class: share > compared ? "stream" : null }, `${percent(share - compared)} stream`),
    compared > 0 && make("span", { class: "dark" }, `${percent(compared)} in the dark: as before, and compared`),
    make("span", {}, `${percent(rest)} as before`),
    make("span", { class: "control" }, control ? `${percent(control)} control: as before, and compared` : "no control")),
    targeted && make("p", { class: "note" }, "Of those whom the flag's constraints, segments and parents let through; it is off for all others.")];
}

function pairs(rows) {
  const list = make("dl", { class: "counts" });
  for (const [term, parts] of rows) if (parts.length) list.append(make("dt", {}, term), make("dd", {}, ...parts));
  return list.childElementCount ? list : null;
}

function aRoute(route, killed) {
  const { stream, batch } = route.decisions;
  const bad = (name) => (name === "failed" || name === "truncated" ? "bad" : name === "fell_back" ? "busy" : "");
  const runs = Object.entries(route.runs).map(([source, ended]) => [`Runs from ${source}`, listed(ended, OUTCOMES, bad)]);
  return make("article", { class: "route" },
    make("div", { class: "top" },
      make("h3", {}, route.name),
      make("p", {}, "flag ", make("code", {}, route.flag.name), " · source ", make("code", {}, route.source)),
      make("p", {}, make("strong", {}, number.format(route.live)), ` ${route.live === 1 ? "run" : "runs"} under way · `,
        make("strong", {}, number.format(route.viewers)), ` ${route.viewers === 1 ? "viewer" : "viewers"}`)),
    ...shares(route, killed),
    pairs([
      ["Streamed", stream ? [number.format(sum(stream))] : []],
      ["Batch", listed(batch, REASONS, (name) => (["killed", "flags_stale", "breaker_open", "flag_unknown"].includes(name) ? "bad" : ""))],
      ...runs,
      ["Texts", listed(route.parity, PARITY, (name) => (name === "replaced" ? "busy" : ""))],
    ]) ?? make("p", { class: "note counts" }, "No request in the last five minutes."));
}

// The sentence above all.

function verdict(now) {
  const order = now.kill_switch;
  if (order) return ["bad", "Everybody gets batch: the kill switch is on.", `${order.by || "Somebody"}: ${order.reason || "no reason given"}`];
  if (now.kill_flag) return ["bad", "Everybody gets batch: the kill flag is on.", "It is turned off where flags are kept."];
  if (now.flags_stale) return ["bad", "Everybody gets batch: the flags could not be confirmed.", now.flags_problem ?? ""];
  if (!now.processes.some((each) => !each.draining)) return ["busy", "This replica drains, and begins no runs.", ""];
  if (!now.routes.length) return ["quiet", "No route is set: everything is relayed.", ""];
  const on = now.routes.filter(({ flag }) => flag.known && flag.enabled && flag.share !== 0);
  const breaker = now.processes.some((each) => each.breaker !== "closed") ? "The circuit breaker is open." : "";
  // A breaker that opened before stays open then: no run is begun that would try whether the upstream answers.
  if (!on.length) return ["quiet", "Nobody is shown live text: every flag is off or at 0 %.", breaker];
  if (on.every(({ flag }) => flag.dark === 1)) return ["quiet", "Nobody is shown live text: texts are only compared, in the dark.", breaker];
  if (breaker) return ["busy", "The upstream fails: new requests get batch until it answers.", breaker];
  const same = new Set(on.map(({ flag }) => (flag.share === null || flag.targeted ? null : flag.share * (1 - flag.dark))));
  const users = same.size === 1 && !same.has(null) ? `${percent([...same][0])} of users are` : "Some users are";
  const where = now.routes.length === 1 ? `on ${on[0].name}` : on.length === now.routes.length ? "on all routes" : `on ${on.length} of ${now.routes.length} routes`;
  const store = now.event_log_up === false;
  return [store ? "busy" : "good", `${users} shown live text ${where}.`, store ? "The store of runs does not answer: a viewer that is cut may not find its run." : ""];
}

function facts(now) {
  const age = now.flag_age_s === null ? "never read" : `${span(now.flag_age_s)} old`;
  const open = now.processes.filter((each) => each.breaker !== "closed").length;
  const runs = now.routes.reduce((all, route) => all + route.live, 0);
  return [
    ["Flags", age, now.flags_stale || now.flags_problem ? "bad" : ""],
    ["Kill switch", now.kill_switch ? "on" : now.kill_flag ? "off; kill flag on" : "off", now.killed ? "bad" : ""],
    ["Upstream", open ? "breaker open" : "breaker closed", open ? "busy" : ""],
    ["Runs are kept", now.event_log_up === null ? "in memory" : now.event_log_up ? "in the store" : `${now.event_log_shards_down.join(", ") || "store"} is down`, now.event_log_up === false ? "bad" : ""],
    ["Under way", many(runs, "run"), ""],
    ["Viewers", number.format(now.routes.reduce((all, route) => all + route.viewers, 0)), ""],
    ["Warnings", number.format(now.warnings), now.warnings ? "busy" : ""],
  ];
}

// Sources, models, rollout.

function table(heads, rows, caption) {
  const cell = (value, at) => (value instanceof Node && value.matches?.("td, th") ? value : make(at ? "td" : "th", at ? {} : { scope: "row" }, value));
  return make("table", {}, caption && make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", class: head.startsWith("#") ? "number" : null }, head.replace("#", ""))))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell)))));
}

const counted = (count, tone) => make("td", { class: `number ${count && tone ? tone : ""}` }, number.format(count ?? 0));

function health(now) {
  const parts = [];
  const sources = new Map();
  for (const route of now.routes) {
    const ended = (sources.get(route.source) ?? sources.set(route.source, {}).get(route.source));
    for (const [source, outcomes] of Object.entries(route.runs)) {
      const into = sources.get(source) ?? sources.set(source, source === route.source ? ended : {}).get(source);
      for (const [name, count] of Object.entries(outcomes)) into[name] = (into[name] ?? 0) + count;
    }
  }
  if (sources.size) parts.push(table(["Source", "#good", "#fell back", "#failed"], [...sources].map(([name, ended]) => [
    name, counted((ended.complete ?? 0) + (ended.recovered ?? 0)), counted(ended.fell_back, "busy"), counted((ended.failed ?? 0) + (ended.truncated ?? 0), "bad"),
  ])));
  if (now.providers.length) parts.push(table(["Model provider", "#answered", "#failed", "#caller left"],
    now.providers.map(({ name, calls }) => [name, counted(calls.answered), counted(calls.failed, "bad"), counted(calls.left)])));
  if (now.learned.length) parts.push(table(["Asked for no streams", "Model", "Why", "For"], now.learned.map((each) => [
    each.provider, each.model, make("td", { class: "busy" }, each.why.replaceAll("_", " ")), span(each.for_s)])));
  else if (now.providers.length) parts.push(make("p", { class: "note" }, "Every model is asked for streams."));
  if (now.kept_fields.length) parts.push(make("p", { class: "note" }, `Kept, though no table names them: ${now.kept_fields.slice(0, 8).map((each) => `${each.provider} ${each.field}`).join(", ")}.`));
  return parts.length ? parts : [make("p", { class: "note" }, "No source, and no model port.")];
}

/** The phase, and what the last look decided and why; an end is decided once. */
function state({ phase, move, reason }) {
  const said = move === "stay" ? [phase, reason === phase ? "" : reason] : [phase, move, reason === phase ? "" : reason];
  return said.filter(Boolean).join(" · ").replaceAll("_", " ");
}

function rollout(found) {
  if (found.problem) return [make("p", { class: "bad" }, found.problem)];
  if (!found.run) return [make("p", { class: "note" }, "No rollout was ever begun.")];
  const unlooked = found.asked_at - found.last_look_at;  // of that moment: it is not asked each second
  const silent = found.look_every_s && unlooked > 3 * found.look_every_s;
  const tone = found.phase === "rolled_back" || found.phase === "killed" ? "bad" : found.move === "hold" ? "busy" : "good";
  const { share } = found;
  const bar = make("div", { class: "bar", "aria-hidden": "true" }, make("span", { class: "stream" }));
  bar.firstChild.style.width = `${share.in_force ?? share.written ?? 0}%`;
  return [
    bar,
    pairs([
      ["State", [make("span", { class: tone }, state(found))]],
      ["Step", [`${found.step} of ${found.steps}, run ${found.run} of `, make("code", {}, found.flag), `, ${found.mode}`]],
      ["Share", [["planned", "decided", "written", "in_force", "observed"].filter((kind) => kind in share).map((kind) => `${kind.replace("_", " ")} ${percent(share[kind])}`).join(" · ")]],
      ["Problem", found.not_in_force ? [make("span", { class: "bad" }, "what is in force is not what was decided")] : []],
      ["Looked", silent ? [make("span", { class: "bad" }, `${span(unlooked)} ago: no controller looks`)] : []],
    ]),
    found.guardrails.length ? table(["Guardrail", "Finding", "#samples"], found.guardrails.map((each) => [
      each.name, make("td", { class: FINDINGS[each.finding] ?? "busy" }, each.finding.replaceAll("_", " ")),
      make("td", { class: "number" }, each.samples < each.needed ? `${number.format(each.samples)} of ${number.format(each.needed)}` : number.format(each.samples ?? 0))])) : null,
  ];
}

function killing(now) {
  const order = now.kill_switch;
  if (order) return [make("p", { class: "bad" }, "On: everybody gets batch."), pairs([["By", [order.by || "somebody"]], ["Reason", [order.reason || "none given"]], ["Since", [new Date(order.at).toLocaleString()]]])];
  if (now.kill_flag) return [make("p", { class: "bad" }, "Off here, and the kill flag is on.")];
  return [make("p", {}, "Off. It takes every new request of this machine back to batch, within a second; open streams go on to their end.")];
}

// What needs the token.

let token = "", seen = -1, latest = null;

async function asked(path, options = {}) {
  const response = await fetch(path, { ...options, cache: "no-store", headers: { authorization: `Bearer ${token}` } });
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  throw new Error(problem.detail ?? `Headgate answered ${response.status}.`);
}

function warnings(lines) {
  if (!lines.length) return [make("p", { class: "note" }, "None since this process began.")];
  const rows = lines.map((line) => make("tr", {},
    make("td", {}, new Date(1000 * line.at).toLocaleTimeString()),
    make("td", { class: line.level === "warning" ? "busy" : "bad" }, line.level),
    make("td", {}, line.message, make("span", { class: "fields" }, Object.entries(line.fields).map(([name, value]) => `${name}=${value}`).join(" ")))));
  return [make("div", { class: "scroll", tabindex: "0", role: "group", "aria-labelledby": "warnings-head" }, make("table", {},
    make("thead", {}, make("tr", {}, ...["Time", "Level", "Message"].map((head) => make("th", { scope: "col" }, head)))), make("tbody", {}, ...rows)))];
}

function settings(all) {
  const body = make("tbody");
  const search = make("input", { id: "filter", type: "search", autocomplete: "off" });
  const fill = () => body.replaceChildren(...all.filter(({ name }) => name.includes(search.value.trim())).map(({ name, value, default: unset }) =>
    make("tr", { class: unset ? "default" : null }, make("td", {}, name), make("td", {}, JSON.stringify(value)), make("td", {}, unset ? "default" : "set"))));
  search.addEventListener("input", fill);
  fill();
  return [make("label", { for: "filter" }, "Only names with"), search, make("div", { class: "scroll", tabindex: "0", role: "group", "aria-labelledby": "settings-head" },
    make("table", {}, make("thead", {}, make("tr", {}, ...["Name", "Value", ""].map((head) => make(head ? "th" : "td", head ? { scope: "col" } : {}, head)))), body))];
}

async function readWarnings() {
  const { warnings: lines } = await asked("/warnings");
  draw("warnings", lines, () => warnings(lines));
}

async function attempt(act) {
  say("said", "");
  try { await act(); } catch (error) { say("said", error.message); }
}

by("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    token = by("token").value;
    await readWarnings();
    const { settings: all } = await asked("/settings");
    draw("settings", all, () => settings(all));
    by("token").value = "";
    by("unlock").hidden = true;
    by("order").hidden = false;
    by("by").focus();
  });
});

by("order").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const name = encodeURIComponent(by("by").value);
    await asked(`/kill?by=${name}`, latest.kill_switch ? { method: "DELETE" } : { method: "POST", body: by("reason").value });
    by("reason").value = "";
  });
});

// Live.

function show(now) {
  latest = now;
  const [tone, sentence, because] = verdict(now);
  by("verdict").dataset.tone = tone;
  say("sentence", sentence);
  say("because", because);
  const all = facts(now);
  draw("facts", all, () => all.map(([term, text, mark]) => make("div", {}, make("dt", {}, term), make("dd", { class: mark || null }, text))));
  const [first] = now.processes;
  say("replica", `${now.version} · ${many(now.processes.length, "process", "processes")} · up ${span(now.at - first.began_at)}`);
  const stopped = now.killed || now.flags_stale;
  draw("routes", [now.routes, stopped], () => (now.routes.length ? now.routes.map((route) => aRoute(route, stopped)) : [make("p", { class: "note" }, "No route is set.")]));
  draw("health", [now.routes, now.providers, now.learned, now.kept_fields], () => health(now));
  by("rollout-card").hidden = now.rollout === null;
  if (now.rollout) draw("rollout", now.rollout, () => rollout(now.rollout));
  draw("kill", [now.kill_switch, now.kill_flag], () => killing(now));
  const on = now.kill_switch !== null;
  say("act", on ? "Let streaming be decided again" : "Stop all streaming");
  by("act").className = on ? "" : "stop";
  by("reason").required = !on;
  if (!now.kill_needs_token) say("unlock-note", "No admin_token is set: these are refused.");
  if (token && by("unlock").hidden && now.warnings !== seen) {
    seen = now.warnings;
    attempt(readWarnings);
  }
}

function linked(state, words) {
  by("link").dataset.link = state;
  say("link-words", words);
}

by("link").lastElementChild.id = "link-words";
const events = new EventSource("/now");
events.addEventListener("open", () => linked("live", "live"));
events.addEventListener("error", () => linked("lost", "not connected: what is shown is old"));
events.addEventListener("message", ({ data }) => show(JSON.parse(data)));
