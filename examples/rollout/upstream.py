"""A batch API that can also stream, fails now and then, and whose streaming can be broken.

`POST /answers` takes `{"question": …}` and answers after a moment; with `"stream": true` by server-sent
events, with the same text, which begins with the question. `POST /break` makes many streams end in the
middle of a sentence.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator

import click
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from examples.clinic.listening import serve

FAILING = 0.08
"""Share of all requests that fail, for all users: high, so that a minute shows some failures."""

BROKEN = 0.4
"""Share of the streams that end in the middle, after `POST /break`."""

TEXT = "The fever began on Monday. It answers to the second antibiotic, and the culture is still to come."


def _pause_s() -> float:
    """Duration of one answer: mostly a quarter of a second, sometimes more than twice that."""
    return min(random.lognormvariate(-1.5, 0.5), 2.0)


def text_for(question: str) -> str:
    """The answer to a question, different for each question."""
    return f"{question} {TEXT}"


class Upstream:
    """The API, and whether its streaming is broken.

    Args:
        failing: share of the requests that fail, 0 to 1, whoever asks.
        broken: share of the streams that are cut, 0 to 1, after `POST /break`.
    """

    def __init__(self, failing: float = FAILING, broken: float = BROKEN) -> None:
        self._failing = failing
        self._broken = broken
        self._is_broken = False

    async def answers(self, request: Request) -> Response:
        asked = await request.json()
        pause_s = _pause_s()
        if random.random() < self._failing:
            await asyncio.sleep(pause_s)
            return JSONResponse({"detail": "the model did not answer"}, 502)
        text = text_for(asked["question"])
        if asked.get("stream"):
            cut = self._is_broken and random.random() < self._broken
            return StreamingResponse(_stream(text, pause_s, cut=cut), media_type="text/event-stream")
        await asyncio.sleep(pause_s)
        return JSONResponse({"answer": text})

    async def break_streams(self, request: Request) -> Response:
        self._is_broken = True
        return Response(status_code=204)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})


async def _stream(text: str, pause_s: float, *, cut: bool) -> AsyncIterator[bytes]:
    words = text.split(" ")
    for at, word in enumerate(words):
        if cut and at == len(words) // 2:
            return
        piece = word if at == 0 else f" {word}"
        yield f"data: {json.dumps({'text': piece})}\n\n".encode()
        await asyncio.sleep(pause_s / len(words))
    yield f"event: answer\ndata: {json.dumps({'answer': text})}\n\n".encode()


def app(upstream: Upstream) -> Starlette:
    return Starlette(
        routes=[
            Route("/answers", upstream.answers, methods=["POST"]),
            Route("/break", upstream.break_streams, methods=["POST"]),
            Route("/health", upstream.health),
        ]
    )


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--failing", type=click.FloatRange(0, 1), default=FAILING, help="Share of all requests.")
@click.option("--broken", type=click.FloatRange(0, 1), default=BROKEN, help="Share of streams, once broken.")
def main(port: int, failing: float, broken: float) -> None:
    """Serve until SIGTERM."""
    serve(uvicorn.Config(app(Upstream(failing, broken)), port=port, log_level="warning"), name="upstream")


if __name__ == "__main__":
    main()
