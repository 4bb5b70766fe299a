/**
 * Which calls of a page are shown live, and which tell that the page has turned to something else. Pure.
 */

/**
 * @typedef {object} Place an element, by one of these
 * @property {string} [text]
 * @property {string} [role]
 * @property {string} [placeholder]
 * @property {string} [label]
 * @property {string} [css]
 */

/** @typedef {Place & {up?: number, into?: string}} PanelPlace */

/**
 * @typedef {object} AttachRoute as `attach.json` has it
 * @property {string} name
 * @property {string} method
 * @property {string} path with `{name}` for single segments
 * @property {Record<string, PanelPlace>} panels
 * @property {Place} [waiting]
 * @property {"nowhere" | "sessionStorage"} keep_text where a text is kept over a reload
 */

/**
 * @typedef {object} Call what is known of one of the page's calls
 * @property {string} method
 * @property {URL} url
 */

/** Calls that end a session, or begin another one, by their path. */
const SIGNS_OUT = /(?:log|sign)[-_]?(?:out|off)\b/i;
const SIGNS_IN = /(?:log|sign)[-_]?(?:in|on)\b/i;

const PARAMETER = /^\{[a-z_][a-z0-9_]*\}$/;

/** @param {string} path */
const segmentsOf = (path) => path.split("/").slice(1);

/**
 * @param {readonly AttachRoute[]} routes @param {Call} call
 * @returns {AttachRoute | null} the first one whose method and path the call has
 */
export function routeOf(routes, { method, url }) {
  return routes.find((route) => route.method === method && fits(segmentsOf(route.path), segmentsOf(url.pathname))) ?? null;
}

/** @param {string[]} template @param {string[]} segments */
function fits(template, segments) {
  return (
    template.length === segments.length &&
    template.every((part, at) => (PARAMETER.test(part) ? segments[at] !== "" : part === segments[at]))
  );
}

/**
 * Whether a call shows that the page has left the thing that another call was about: it begins another one, opens one
 * with another id, or signs out or in. In doubt it has.
 * @param {AttachRoute} route @param {string} path of the earlier call, which is one of the route's @param {Call} call
 */
export function leaves(route, path, { method, url }) {
  const isReading = method === "GET" || method === "HEAD";
  if (SIGNS_OUT.test(url.pathname) || (!isReading && SIGNS_IN.test(url.pathname))) return true;
  const template = segmentsOf(route.path);
  const at = template.findIndex((part) => PARAMETER.test(part));
  if (at < 0) return false;
  const segments = segmentsOf(url.pathname.replace(/\/$/, ""));
  if (!template.slice(0, at).every((part, index) => part === segments[index])) return false;
  if (segments.length === at) return !isReading;
  const [mine, other] = [segmentsOf(path)[at], segments[at]];
  return other !== mine && (/\d/.test(other) || !/\d/.test(mine));
}

/** @param {readonly [string, string][]} headers @param {string} wanted @returns {string | undefined} */
export const valueOf = (headers, wanted) => headers.find(([name]) => name.toLowerCase() === wanted)?.[1];

/**
 * Whether a call shows that the page has left what an earlier one of the route was about, or that somebody else asks.
 * @param {AttachRoute} route @param {Call & {headers: [string, string][]}} one
 * @param {Call & {headers: [string, string][]}} later its headers, if it goes where the earlier one went
 */
export function turnsFrom(route, one, later) {
  if (leaves(route, one.url.pathname, later)) return true;
  const authorization = valueOf(later.headers, "authorization");
  return authorization !== undefined && subjectOf(authorization) !== subjectOf(valueOf(one.headers, "authorization"));
}

/**
 * @param {string | undefined} authorization
 * @returns {string} who a bearer token is for, as far as it says; the whole value if it does not
 */
export function subjectOf(authorization) {
  try {
    const [, payload] = (authorization ?? "").split(" ")[1].split(".");
    const { iss, sub } = JSON.parse(atob(payload.replace(/-/g, "+").replace(/_/g, "/")));
    if (typeof sub === "string") return JSON.stringify([iss ?? null, sub]);
  } catch {
    // no token of that kind
  }
  return authorization ?? "";
}
