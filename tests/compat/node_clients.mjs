// `node node_clients.mjs undici|axios CASES ORIGIN…`, as python_clients.py.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { Readable } from "node:stream";
import axios from "../stacks/node_modules/axios/index.js";
import { Agent, request } from "../stacks/node_modules/undici/index.js";

const [name, file, ...origins] = process.argv.slice(2);
const BODIES = {
  json: Buffer.from('{"a": [1, "ü"]}'),
  large: Buffer.from(Array.from({ length: 1 << 18 }, (_, index) => index % 256)),
};
const PIECES = ["one ", "two ".repeat(5000), "three"];
const TYPES = { json: "application/json", large: "application/x-own", streamed: "application/x-own" };
const dispatcher = new Agent();

const CLIENTS = {
  async undici(url, method, headers, body) {
    const reply = await request(url, { method, headers, body, dispatcher });
    return [reply.statusCode, reply.headers, Buffer.from(await reply.body.arrayBuffer())];
  },
  async axios(url, method, headers, data) {
    const options = { url, method, headers, data, maxRedirects: 0, validateStatus: null, responseType: "arraybuffer" };
    const reply = await axios(options);
    return [reply.status, { ...reply.headers }, Buffer.from(reply.data)];
  },
};

for (const origin of origins) {
  for (const line of readFileSync(file, "utf8").trim().split("\n")) {
    const [called, method, path, kind] = line.split("\t");
    const body = kind === "streamed" ? Readable.from(PIECES.map(Buffer.from)) : BODIES[kind];
    const headers = TYPES[kind] ? { "content-type": TYPES[kind] } : {};
    const [status, fields, bytes] = await CLIENTS[name](origin + path, method, headers, body);
    const pairs = Object.entries(fields).flatMap(([key, value]) => [value].flat().map((each) => `${key}: ${each}`));
    const shown =
      bytes.length < 4096
        ? JSON.stringify(bytes.toString("latin1").replaceAll(origin.replace("http://", ""), "ORIGIN"))
        : createHash("sha256").update(bytes).digest("hex");
    console.log([origin, called, status, bytes.length, shown, pairs.sort().join("\x1f")].join("\t"));
  }
}
process.exit();
