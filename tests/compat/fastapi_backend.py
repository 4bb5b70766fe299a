"""FastAPI, under uvicorn."""

from collections.abc import AsyncIterator

from answers import answer
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

app = FastAPI()
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@app.api_route("/{path:path}", methods=METHODS)
async def every(request: Request) -> Response:
    target = request.scope["raw_path"].decode()
    if request.scope["query_string"]:
        target += "?" + request.scope["query_string"].decode()
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    status, fields, pieces, is_streamed = answer(request.method, target, headers, await request.body())

    async def one_by_one() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    reply = StreamingResponse(one_by_one(), status) if is_streamed else Response(b"".join(pieces), status)
    for name, value in fields:
        reply.headers.append(name, value)
    return reply
