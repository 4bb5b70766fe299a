"""A batch API that can also stream, fails now and then, and whose streaming can be broken.

`POST /answers` takes `{"question": …}` and answers after a moment; with `"stream": true` by server-sent
events, with the same text. `POST /break` makes nearly half of the streams end in the middle of a sentence.
"""

import asyncio
import json
import random

import click
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from examples.clinic.listening import serve

FAILING = 0.08
"""Of all requests, whoever asks: high, so that a minute says something about failures."""

BROKEN = 0.4
"""Of the streams, once they are broken."""

TEXT = "The fever began on Monday. It answers to the second antibiotic, and the culture is still to come."


def _pause_s() -> float:
    """Of one answer: most take a quarter of a second, some more than twice that."""
    return min(random.lognormvariate(-1.5, 0.5), 2.0)


class Upstream:
    """The API, and whether its streaming is broken."""

    def __init__(self) -> None:
        self._broken = False

    async def answers(self, request: Request) -> Response:
        asked = await request.json()
        pause_s = _pause_s()
        if random.random() < FAILING:
            await asyncio.sleep(pause_s)
            return JSONResponse({"detail": "the model did not answer"}, 502)
        if asked.get("stream"):
            cut = self._broken and random.random() < BROKEN
            return StreamingResponse(self._stream(pause_s, cut=cut), media_type="text/event-stream")
        await asyncio.sleep(pause_s)
        return JSONResponse({"answer": TEXT})

    async def _stream(self, pause_s: float, *, cut: bool):  # type: ignore[no-untyped-def]
        words = TEXT.split(" ")
        for at, word in enumerate(words):
            if cut and at == len(words) // 2:
                return
            piece = word if at == 0 else f" {word}"
            yield f"data: {json.dumps({'text': piece})}\n\n".encode()
            await asyncio.sleep(pause_s / len(words))
        yield f"event: answer\ndata: {json.dumps({'answer': TEXT})}\n\n".encode()

    async def break_streams(self, request: Request) -> Response:
        self._broken = True
        return Response(status_code=204)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})


def app() -> Starlette:
    """One upstream."""
    upstream = Upstream()
    return Starlette(
        routes=[
            Route("/answers", upstream.answers, methods=["POST"]),
            Route("/break", upstream.break_streams, methods=["POST"]),
            Route("/health", upstream.health),
        ]
    )


@click.command()
@click.option("--port", type=int, required=True)
def main(port: int) -> None:
    """Serve until SIGTERM."""
    serve(uvicorn.Config(app(), port=port, log_level="warning"), name="upstream")


if __name__ == "__main__":
    main()
