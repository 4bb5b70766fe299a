// `browser/attach/routes.js`: which calls are shown, and which tell that the page has turned to something else.

import assert from "node:assert/strict";
import { test } from "node:test";
import { leaves, routeOf, subjectOf } from "../../browser/attach/routes.js";

const START = { name: "start", method: "POST", path: "/api/cases/{case_id}/start", panels: {} };
const ASK = { name: "ask", method: "POST", path: "/api/ask", panels: {} };
const call = (method, path) => ({ method, url: new URL(path, "https://app.example.org") });

test("a call is a route's by its method and each segment of its path", () => {
  const named = (method, path) => routeOf([START, ASK], call(method, path))?.name ?? null;

  assert.equal(named("POST", "/api/cases/7/start?x=1"), "start");
  assert.equal(named("POST", "/api/ask"), "ask");
  for (const path of ["/api/cases/7", "/api/cases/7/start/", "/api/cases//start", "/x/api/cases/7/start", "/api/cases/7/8/start"])
    assert.equal(named("POST", path), null, path);
  assert.equal(named("GET", "/api/ask"), null);
});

test("a page leaves what a call was about by another one of its kind, a new one, or by signing out", () => {
  const leaving = (method, path) => leaves(START, "/api/cases/7/start", call(method, path));

  for (const [method, path] of [
    ["GET", "/api/cases/8"],
    ["GET", "/api/cases/8/details"],
    ["POST", "/api/cases"],
    ["POST", "/api/cases/"],
    ["POST", "/auth/v1/logout"],
    ["POST", "/session/sign-out"],
    ["GET", "/logoff"],
    ["POST", "/api/login"],
  ])
    assert.equal(leaving(method, path), true, path);
});

test("a page stays with it by what it asks of the same one, of lists, and of all else", () => {
  const leaving = (method, path) => leaves(START, "/api/cases/7/start", call(method, path));

  for (const [method, path] of [
    ["GET", "/api/cases/7/details"],
    ["POST", "/api/cases/7/messages"],
    ["GET", "/api/cases"],
    ["GET", "/api/cases/"],
    ["GET", "/api/cases/recent"],
    ["POST", "/api/telemetry/8"],
    ["GET", "/blogs/logoutfits"],
    ["GET", "/api/login"],
    ["POST", "/auth/v1/token"],
  ])
    assert.equal(leaving(method, path), false, path);
  assert.equal(leaves(ASK, "/api/ask", call("POST", "/api/other")), false);
});

test("ids without digits are ids, too", () => {
  assert.equal(leaves(START, "/api/cases/ann/start", call("GET", "/api/cases/bob")), true);
});

test("a refreshed token is of the same user, and what is no token is only itself", () => {
  const token = (claims) => `Bearer x.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.sig`;
  const ann = subjectOf(token({ sub: "änn", iss: "i", exp: 1 }));

  assert.equal(subjectOf(token({ sub: "änn", iss: "i", exp: 2 })), ann);
  assert.notEqual(subjectOf(token({ sub: "bob", iss: "i", exp: 1 })), ann);
  assert.notEqual(subjectOf(token({ sub: "änn", iss: "j", exp: 1 })), ann);
  assert.equal(subjectOf("Basic YTpi"), "Basic YTpi");
  assert.equal(subjectOf(undefined), "");
});
