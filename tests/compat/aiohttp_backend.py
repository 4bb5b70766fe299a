"""aiohttp's own server: `python aiohttp_backend.py PORT`."""

import sys

from aiohttp import web
from answers import answer


async def every(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    status, fields, pieces, is_streamed = answer(
        request.method, request.raw_path, list(request.headers.items()), body
    )
    if not is_streamed:
        whole = web.Response(body=b"".join(pieces), status=status)
        whole.headers.popall("content-type", None)
        for name, value in fields:
            whole.headers.add(name, value)
        return whole
    reply = web.StreamResponse(status=status)
    for name, value in fields:
        reply.headers.add(name, value)
    await reply.prepare(request)
    for piece in pieces:
        await reply.write(piece)
    await reply.write_eof()
    return reply


app = web.Application(client_max_size=1 << 24)
app.router.add_route("*", "/{path:.*}", every)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
