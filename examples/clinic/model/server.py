"""A language model behind the paths of OpenAI, Azure and Gemini; one text for the same messages at each."""

import json
import time
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.clinic.model import faults
from examples.clinic.model.completion import Asked, Completion, Pace
from examples.clinic.model.delivery import refuse, respond
from examples.clinic.model.faults import Fault
from examples.clinic.model.gemini_shape import GeminiShape
from examples.clinic.model.openai_shape import OpenAiShape
from examples.clinic.model.shape import Shape
from examples.clinic.model.texts import Author, count_tokens, find_task

MODEL = "clinic-synthetic"


def create_app(pace: Pace, author: Author, *, has_obfuscation: bool = False) -> Starlette:
    struck: set[str] = set()
    """Messages that a fault for once has struck already."""

    def at(path: str, shape: Shape) -> Route:
        return Route(path, _endpoint(shape, pace, author, struck), methods=["POST"])

    openai, gemini = OpenAiShape(has_obfuscation), GeminiShape()
    return Starlette(
        routes=[
            at("/v1/chat/completions", openai),
            at("/openai/deployments/{deployment}/chat/completions", openai),
            # Which of the two Gemini's package asks for depends on its version.
            *(
                at(f"/{version}/models/{{model}}:{method}", gemini)
                for version in ("v1", "v1beta")
                for method in ("generateContent", "streamGenerateContent")
            ),
            Route("/v1/models", show_models),
        ]
    )


async def show_models(request: Request) -> Response:
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "clinic"}
    return JSONResponse({"object": "list", "data": [model]})


def _endpoint(
    shape: Shape, pace: Pace, author: Author, struck: set[str]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        began = time.monotonic()
        try:
            asked = shape.read(request, await request.json())
        except (ValueError, LookupError, TypeError, AttributeError):
            return refuse(shape, 400)
        tokens = author.write(asked.messages)
        if asked.is_structured:
            tokens = ['{"text": "', *(json.dumps(token, ensure_ascii=False)[1:-1] for token in tokens), '"}']
        prompt_tokens = sum(count_tokens(message) for message in asked.messages)
        fault = _fault(request, asked, struck)
        return await respond(Completion(asked, tokens, prompt_tokens, began, fault), shape, pace)

    return answer


def _fault(request: Request, asked: Asked, struck: set[str]) -> Fault | None:
    name = request.headers.get(faults.HEADER) or asked.model
    fault = faults.find_fault(name, find_task(asked.messages))
    if fault is None or not fault.is_once:
        return fault
    call = repr(asked.messages)
    if call in struck:
        return None
    struck.add(call)
    return fault
