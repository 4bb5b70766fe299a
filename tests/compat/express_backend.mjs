// Express: `node express_backend.mjs PORT`. The answers are those of answers.py.
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import express from "../stacks/node_modules/express/index.js";

const HOP_BY_HOP = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings"];
const STATUSES = { "/none": 204, "/unchanged": 304, "/missing": 404, "/busy": 503, "/broken": 500 };
const app = express().disable("etag"); // of bodies that name a port

app.use(express.raw({ type: () => true, limit: "16mb" }));
app.use((request, response) => {
  const body = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
  switch (request.path) {
    case "/echo": {
      const kept = Object.entries(request.headers).filter(([name]) => !HOP_BY_HOP.includes(name)).sort();
      const sha = createHash("sha256").update(body).digest("hex");
      return response.json([request.method, request.originalUrl, kept, body.length, sha]);
    }
    case "/stream":
      response.type("text/event-stream");
      for (let number = 0; number < 5; number += 1) response.write(`data: ${number}\n\n`);
      return response.end();
    case "/large":
      return response.type("application/octet-stream").send(Buffer.alloc(1 << 20, "0123456789abcdef"));
    case "/gzip":
      return response.type("text").set("content-encoding", "gzip").send(gzipSync("grau ".repeat(999)));
    case "/cookies":
      return response.cookie("a", "1").cookie("b", "2", { httpOnly: true }).send("two");
    case "/moved":
      return response.redirect("/echo?moved");
    default: {
      const status = STATUSES[request.path] ?? 200;
      return response.status(status).set("x-own", "\u00dcn\u00ef").send(`status ${status}`);
    }
  }
});
app.listen(Number(process.argv[2]), "127.0.0.1");
