"""A completion as an HTTP answer, at its pace and with its fault. Batch and stream take equally long."""

from collections.abc import AsyncIterator

import anyio
from starlette.responses import JSONResponse, Response, StreamingResponse

from examples.clinic.model.completion import Completion, Pace, as_json
from examples.clinic.model.shape import Shape

FAILED = 500
RETRY_AFTER_S = 1


class CutOff(Exception):
    """Ends the connection in the middle of an answer, as a fault asks."""


async def respond(completion: Completion, shape: Shape, pace: Pace) -> Response:
    fault = completion.fault
    if fault and fault.kind == "slow":
        await anyio.sleep_forever()
    if fault and fault.kind == "format":
        return JSONResponse({"output": "another shape"}, headers=shape.headers(completion))
    if fault and fault.kind == "status":
        return refuse(shape, fault.status)
    if completion.asked.is_stream:
        headers = {"cache-control": "no-cache", **shape.headers(completion)}
        events = _events(completion, shape, pace)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    await pace.wait_for(len(completion.tokens), completion.began)
    return _whole(completion, shape)


def refuse(shape: Shape, status: int) -> Response:
    headers = shape.headers(None)
    if status == 429:
        headers["retry-after"] = str(RETRY_AFTER_S)
    return JSONResponse(shape.error(status), status, headers)


def _whole(completion: Completion, shape: Shape) -> Response:
    body = as_json(shape.whole(completion))
    headers = shape.headers(completion)
    fault = completion.fault
    if fault is None:
        return Response(body, media_type="application/json", headers=headers)
    if fault.kind == "error":
        return refuse(shape, FAILED)
    share = fault.strikes_after(len(completion.tokens)) / len(completion.tokens)
    part = body[: int((len(body) - 1) * share)]  # Never all of it, even after the last token.
    if fault.kind == "malformed":
        return Response(part, media_type="application/json", headers=headers)
    headers["content-length"] = str(len(body))
    broken = _broken(part, stalls=fault.kind == "stall")
    return StreamingResponse(broken, media_type="application/json", headers=headers)


async def _broken(part: bytes, *, stalls: bool) -> AsyncIterator[bytes]:
    yield part
    if stalls:
        await anyio.sleep_forever()
    raise CutOff


async def _events(completion: Completion, shape: Shape, pace: Pace) -> AsyncIterator[bytes]:
    fault, tokens = completion.fault, len(completion.tokens)
    strikes_after = fault.strikes_after(tokens) if fault else None
    for event in shape.opening(completion):
        yield event
    for number in range(tokens + 1):
        if number:
            await pace.wait_for(number, completion.began)
            yield shape.token(completion, number)
        if fault and number == strikes_after:
            yield await _strike(fault.kind, completion, shape)
            if fault.kind == "error":
                return
    for event in shape.closing(completion):
        yield event


async def _strike(kind: str, completion: Completion, shape: Shape) -> bytes:
    if kind == "stall":
        await anyio.sleep_forever()
    if kind == "cut":
        raise CutOff
    if kind == "error":
        return shape.event(as_json(shape.error(FAILED)))
    return shape.event(as_json(shape.whole(completion))[:-20])
