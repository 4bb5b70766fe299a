export type AttachRoute = import("./attach/routes.js").AttachRoute;
export type Live = import("./attach/live.js").Live;
export type PageCall = {
    method: string;
    url: URL;
    /**
     * as the page has set them
     */
    headers: [string, string][];
    isAsync: boolean;
    run?: string | undefined;
    route?: import("./attach/routes.js").AttachRoute | undefined;
    isSent?: boolean | undefined;
    /**
     * the page has turned to something else since
     */
    isLeft?: boolean | undefined;
    live?: import("./attach/live.js").Live | undefined;
};
