/**
 * @param {readonly AttachRoute[]} routes @param {Call} call
 * @returns {AttachRoute | null} the first one whose method and path the call has
 */
export function routeOf(routes: readonly AttachRoute[], { method, url }: Call): AttachRoute | null;
/**
 * Whether a call shows that the page has left the thing that another call was about: it begins another one, opens one
 * with another id, or signs out or in. In doubt it has.
 * @param {AttachRoute} route @param {string} path of the earlier call, which is one of the route's @param {Call} call
 */
export function leaves(route: AttachRoute, path: string, { method, url }: Call): boolean;
/**
 * Whether a call shows that the page has left what an earlier one of the route was about, or that somebody else asks.
 * @param {AttachRoute} route @param {Call & {headers: [string, string][]}} one
 * @param {Call & {headers: [string, string][]}} later its headers, if it goes where the earlier one went
 */
export function turnsFrom(route: AttachRoute, one: Call & {
    headers: [string, string][];
}, later: Call & {
    headers: [string, string][];
}): boolean;
/**
 * @param {string | undefined} authorization
 * @returns {string} who a bearer token is for, as far as it says; the whole value if it does not
 */
export function subjectOf(authorization: string | undefined): string;
export function valueOf(headers: readonly [string, string][], wanted: string): string | undefined;
/**
 * an element, by one of these
 */
export type Place = {
    text?: string | undefined;
    role?: string | undefined;
    placeholder?: string | undefined;
    label?: string | undefined;
    css?: string | undefined;
};
export type PanelPlace = Place & {
    up?: number;
    into?: string;
};
/**
 * as `attach.json` has it
 */
export type AttachRoute = {
    name: string;
    method: string;
    /**
     * with `{name}` for single segments
     */
    path: string;
    panels: Record<string, PanelPlace>;
    waiting?: Place | undefined;
    /**
     * where a text is kept over a reload
     */
    keep_text: "nowhere" | "sessionStorage";
};
/**
 * what is known of one of the page's calls
 */
export type Call = {
    method: string;
    url: URL;
};
