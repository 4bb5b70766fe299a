/** @param {Place} place @param {Element} element whether what was found there is still that */
export function isStill(place: Place, element: Element): boolean;
/** @param {Place} place @returns {Element | null} the one visible element that it names */
export function find(place: Place): Element | null;
/** @param {PanelPlace} place @returns {Element | null} the element that the live text is the last child of */
export function anchorOf(place: PanelPlace): Element | null;
export type Place = import("./routes.js").Place;
export type PanelPlace = import("./routes.js").PanelPlace;
