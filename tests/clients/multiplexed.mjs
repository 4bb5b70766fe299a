// Many requests over one connection of HTTP/2, as a browser sends them.
//
//     node multiplexed.mjs ORIGIN AUTHORITY.pem [{"method", "path", "headers", "body", "awaits"}, …]
//     {"alpn": "h2", "heads": [{":status": 200, …}, …]}       when each has the text that it awaits, if any
//
// Then lines of standard input: a list of numbers, whose requests it leaves, and at last "end".
//
//     {"texts": ["…", …]}                                     when all that it has not left are at their end
import { readFileSync } from "node:fs";
import { connect, constants } from "node:http2";
import { createInterface } from "node:readline";

const [origin, authority, requests] = process.argv.slice(2);
const session = connect(origin, { ca: readFileSync(authority) });

function ask({ method, path, headers, body, awaits }) {
  const stream = session.request({ ":method": method, ":path": path, ...headers }, { endStream: !body });
  const asked = { stream, head: null, text: "", left: false };
  asked.here = new Promise((resolve, reject) => {
    if (!awaits) resolve();
    stream.on("data", (text) => (asked.text += text).includes(awaits) && resolve());
    stream.on("close", () => reject(new Error(`${path} ended with ${stream.rstCode}: ${asked.text}`)));
  });
  asked.ended = new Promise((resolve) => stream.on("close", resolve));
  asked.here.catch(() => {});
  stream.setEncoding("utf8");
  stream.on("response", (head) => (asked.head = head));
  stream.on("error", (error) => (asked.text += error));
  if (body) stream.end(body);
  return asked;
}

const all = JSON.parse(requests).map(ask);
await Promise.all(all.map(({ here }) => here));
console.log(JSON.stringify({ alpn: session.alpnProtocol, heads: all.map(({ head }) => head) }));

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "end") break;
  for (const number of JSON.parse(line)) {
    all[number].left = true;
    all[number].stream.close(constants.NGHTTP2_CANCEL);
  }
}
await Promise.all(all.filter(({ left }) => !left).map(({ ended }) => ended));
console.log(JSON.stringify({ texts: all.map(({ text }) => text) }));
session.close();
