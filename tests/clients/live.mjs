// Libraries that leave HTTP for a protocol of their own:
//
//     node live.mjs serve      a server of `ws` at /ws and of socket.io; prints its port, ends with its standard input
//     node live.mjs ask URL    what the clients of both libraries get there, as JSON
//
// Each server says again what it hears. socket.io is there twice: as it is, and for long polls alone, which a
// client that would rather have a WebSocket must find out.

import { createServer } from "node:http";
import { setTimeout as wait } from "node:timers/promises";
import { Server } from "socket.io";
import { io } from "socket.io-client";
import { WebSocket, WebSocketServer } from "ws";

const LARGE = 10_000_000;
const LONG_POLL_MS = 1500; // longer than a request may be silent that is not known to wait

const serve = () => {
  const server = createServer((_, answer) => answer.writeHead(404).end());
  const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: true, maxPayload: 2 * LARGE });
  const says = (socket) => socket.on("say", (said, done) => done(said));
  new Server(server, { destroyUpgrade: false }).on("connection", says);
  new Server(server, { path: "/polls/", transports: ["polling"], destroyUpgrade: false }).on("connection", says);
  server.on("upgrade", (request, socket, head) => {
    if (request.url.startsWith("/socket.io/")) return; // it answers by itself
    if (request.url !== "/ws") return socket.end("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    sockets.handleUpgrade(request, socket, head, (client) => {
      client.on("message", (message, isBinary) =>
        String(message) === "end" ? client.close(4001, "as you say") : client.send(message, { binary: isBinary }),
      );
    });
  });
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
  process.stdin.on("end", () => process.exit()).resume();
};

const askWs = (url) =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(`${url.replace("http", "ws")}/ws`, { maxPayload: 2 * LARGE });
    const large = Buffer.alloc(LARGE, "héadgate ");
    const got = {};
    socket.on("error", reject);
    socket.on("open", () => {
      got.extensions = socket.extensions;
      socket.send("hällo");
      socket.send(large);
      socket.send("end");
    });
    socket.on("message", (message, isBinary) => {
      if (isBinary) got.large = message.equals(large);
      else got.text = String(message);
    });
    socket.on("close", (code, reason) => resolve({ ...got, code, reason: String(reason) }));
  });

const askSocketIo = async (url, options) => {
  const socket = io(url, { forceNew: true, reconnection: false, ...options });
  try {
    const left = new Promise((_, reject) => socket.on("disconnect", reject));
    await new Promise((resolve, reject) => socket.on("connect", resolve).on("connect_error", reject));
    const { engine } = socket.io;
    if (options.upgrades && engine.transport.name !== "websocket")
      await new Promise((resolve) => engine.once("upgrade", resolve));
    const say = (said) => Promise.race([left, socket.timeout(10_000).emitWithAck("say", said)]);
    const said = [await say("hällo"), (await say(Buffer.alloc(100_000, 7))).length];
    await Promise.race([left, wait(LONG_POLL_MS)]);
    said.push(await say("still here"));
    return { transport: engine.transport.name, said };
  } finally {
    socket.removeAllListeners("disconnect").disconnect();
  }
};

const ask = async (url) => {
  const [ws, ...rest] = await Promise.all([
    askWs(url),
    askSocketIo(url, { transports: ["websocket"] }),
    askSocketIo(url, { transports: ["polling"] }),
    askSocketIo(url, { transports: ["polling", "websocket"], upgrades: true }),
    askSocketIo(url, { path: "/polls/", transports: ["websocket", "polling"], tryAllTransports: true }),
  ]);
  const [websocket, polling, upgraded, fallenBack] = rest;
  console.log(JSON.stringify({ ws, websocket, polling, upgraded, fallenBack }));
  process.exit();
};

const [what, url] = process.argv.slice(2);
await (what === "serve" ? serve() : ask(url));
