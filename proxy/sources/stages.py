"""The source `stages`: a group run as its single-stage calls, each result handed to the next.

For upstreams whose single-stage calls are equivalent to the group call. A failed stage ends the group,
with what was finished kept.
"""

from functools import partial
from typing import Any

import orjson

from proxy.errors import Fault, UpstreamMalformed
from proxy.http.headers import CONDITIONS, Headers
from proxy.runs.run import Run
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.blocks.sources import StageCallSettings
from proxy.sources.repeat import repeating
from proxy.text.sections import MalformedBody
from proxy.text.slow_json import SEARCH_BYTES, document_of, searched
from proxy.text.templates import PATH, REQUEST, MissingValue, fill, fill_known, references
from proxy.upstream.client import Answer, Request, Upstream


class StagesSource:
    """Several calls, one answer."""

    def __init__(self, upstream: Upstream, route: RouteSettings) -> None:
        assert route.stages is not None
        self._upstream = upstream
        self._calls = route.stages.calls
        self._answer = route.stages.answer
        self._limit = int(route.max_answer)
        self._paths: dict[str, set[str]] = {}
        """The values that templates refer to, by name."""
        for template in (self._answer, *(call.body for call in self._calls)):
            for name, path in references(template):
                self._paths.setdefault(name, set()).add(path)

    async def answer(self, run: Run) -> Answer:
        """The group's own answer, assembled; or the answer of the call that failed."""
        values: dict[str, Any] = {PATH: dict(run.call.parameters)}
        if REQUEST in self._paths:
            values[REQUEST] = await self._body(run.call.request)
        for call in self._calls:
            _begin(run, call.stage)
            request = self._request(run, call, values)
            ask = partial(
                self._upstream.fetch,
                request,
                max_bytes=self._limit,
                fresh=True,
                admit=run.answer_share.take,
            )
            answer = await repeating(run, ask)
            if not 200 <= answer.status < 300:
                return answer
            try:
                values[call.stage] = await document_of(answer.body, self._paths.get(call.stage, ()))
            except MalformedBody:
                raise UpstreamMalformed(f"stage {call.stage}: not JSON", answer.flaw) from None
            await self._show(run, values)
        body = self._json(self._answer, values, "the group's answer")
        return Answer(200, [(b"content-type", b"application/json")], body)

    async def _body(self, request: Request) -> Any:
        """The client's own JSON, for templates; None if there is none."""
        try:
            return await document_of(request.body, self._paths[REQUEST])
        except MalformedBody:
            return None

    def _request(self, run: Run, call: StageCallSettings, values: dict[str, Any]) -> Request:
        method, _, path = call.request.partition(" ")
        headers = _own_headers(run.call.request.headers)
        body = b""
        if call.body is not None:
            body = self._json(call.body, values, f"the body of {call.stage}")
            headers.append((b"content-type", b"application/json"))
        return Request(method, path.format_map(run.call.parameters).encode("latin-1"), headers, body)

    def _json(self, template: Any, values: dict[str, Any], what: str) -> bytes:
        try:
            return orjson.dumps(fill(template, values))
        except MissingValue as exc:
            raise UpstreamMalformed(f"{what}: {exc}") from None
        except TypeError:  # a lone surrogate, for example
            raise UpstreamMalformed(f"{what}: no JSON can say it") from None

    async def _show(self, run: Run, values: dict[str, Any]) -> None:
        """Show each section that the answer, as far as it is known, already has."""
        known = fill_known(self._answer, values)
        for section in run.sections:
            if run.is_complete(section):
                continue
            size = 0 if section.keys is not None else SEARCH_BYTES + 1
            text = await searched(size, section.find, known)
            if text is not None and not await run.show(section, text):
                raise UpstreamMalformed(f"stage {section.stage}: an error sentence", Fault.FAILURE_TEXT)


def _begin(run: Run, stage: str) -> None:
    for section in run.sections:
        if section.stage == stage:
            run.begin(section)


def _own_headers(headers: Headers) -> Headers:
    """The client's headers but for those about its body."""
    about_body = {b"content-type", b"content-length", b"content-encoding", b"expect"}
    # One key for several calls would have the second answered with the first's answer.
    dropped = about_body | CONDITIONS | {b"idempotency-key"}
    return [(name, value) for name, value in headers if name not in dropped]
