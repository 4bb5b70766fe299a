"""aiohttp on both sides."""

import os
import sys

from aiohttp import ClientSession, web

URL = os.environ["MODEL_URL"] + "/v1/chat/completions"
CALL = {"model": "m", "messages": [{"role": "user", "content": "summary"}]}


async def ask(request: web.Request) -> web.Response:
    async with ClientSession() as client, client.post(URL, json=CALL) as answer:
        completion = await answer.json()
    return web.json_response({"text": completion["choices"][0]["message"]["content"]})


app = web.Application()
app.add_routes([web.post("/ask/aiohttp-server", ask)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
