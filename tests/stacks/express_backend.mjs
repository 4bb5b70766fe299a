/** Express, and two ways in which it calls a model. */
import http from "node:http";
import express from "express";

const url = `${process.env.MODEL_URL}/v1/chat/completions`;
const body = JSON.stringify({ model: "m", messages: [{ role: "user", content: "summary" }] });
const headers = { "content-type": "application/json" };
const textOf = (completion) => ({ text: completion.choices[0].message.content });

const byHttp = () =>
    new Promise((resolve, reject) => {
        const length = Buffer.byteLength(body);
        const options = { method: "POST", headers: { ...headers, "content-length": length } };
        const call = http.request(url, options, (answer) => {
            const parts = [];
            answer.on("data", (part) => parts.push(part));
            answer.on("end", () => resolve(JSON.parse(Buffer.concat(parts).toString())));
        });
        call.on("error", reject);
        call.end(body);
    });

const app = express();
app.post("/ask/express-fetch", async (request, response) => {
    const answer = await fetch(url, { method: "POST", headers, body });
    response.json(textOf(await answer.json()));
});
app.post("/ask/express-http", async (request, response) => {
    response.json(textOf(await byHttp()));
});
app.listen(Number(process.argv[2]), "127.0.0.1");
