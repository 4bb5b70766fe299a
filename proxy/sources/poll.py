"""The source `poll`: while the call runs, read a resource that already shows finished stages.

For an upstream that commits stage by stage and can answer while it is busy. A row counts as this run's only
if its time differs from the one it had before the call was sent. So no clocks are compared, and an earlier
run's text is never shown as new. The batch answer remains the authority.
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonpath import JSONPath, JSONPathError

from proxy.errors import UpstreamError
from proxy.http.headers import CONDITIONS, Headers
from proxy.runs.run import Run
from proxy.settings.blocks.route import RouteSettings, SectionSettings
from proxy.settings.blocks.sources import PollSettings
from proxy.sources.batch import ask
from proxy.text.sections import MalformedBody, Section, compile_path, parse
from proxy.text.slow_json import is_slow, searched
from proxy.upstream.client import Answer, Request, Upstream

logger = logging.getLogger("headgate.poll")

BEFORE_S = 2.0
"""Seconds the first look may take; the call waits for it, so it is short."""

BLOCKED_AFTER = 5
"""A look that takes this many intervals (and `BLOCKED_MIN_S`) meets an upstream that cannot answer
while it is busy: a single process that blocks, for example."""

BLOCKED_MIN_S = 3.0

STRIKES = 3
"""Failed looks in a row after which the source counts as lost."""

JITTER = 0.2

NOT_OF_A_LOOK = CONDITIONS | {
    b"content-type",
    b"content-length",
    b"content-encoding",
    b"expect",
    b"idempotency-key",  # the upstream would have answered the call already, with the look
}


class LookFailed(Exception):
    """A look failed, or gave a document that cannot be read."""


@dataclass(frozen=True, slots=True)
class RowsBefore:
    """Times and texts of a section's rows before the call. None of them is this run's."""

    times: frozenset[str]
    texts: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rows:
    """The places of a section's rows in the polled document, and of a row's text and time."""

    rows: JSONPath
    updated_at: tuple[JSONPath, ...]
    text: JSONPath

    @classmethod
    def compile(cls, settings: PollSettings, section: SectionSettings) -> "Rows":
        """Raises `ValueError` that names the expression."""
        assert section.poll_at is not None
        return cls(
            compile_path(settings.row.replace("{stage}", section.stage)),
            tuple(compile_path(path) for path in settings.updated_at),
            compile_path(section.poll_at),
        )

    def earlier(self, document: Any) -> RowsBefore:
        """The times and texts of the rows in this document."""
        rows = self._rows(document)
        return RowsBefore(
            frozenset(filter(None, map(self._time, rows))), frozenset(filter(None, map(self._text, rows)))
        )

    def new_text(self, document: Any, earlier: RowsBefore) -> str | None:
        """The text of the last row written since `earlier`; None if there is no such row, or its text is an
        earlier one.

        A row may be touched before its text is written, so that its time is new and its text is not.
        """
        for row in reversed(self._rows(document)):
            time = self._time(row)
            if time is not None and time not in earlier.times:
                text = self._text(row)
                return None if text in earlier.texts else text
        return None

    def _text(self, row: Any) -> str | None:
        texts = _found(self.text, row)
        return texts[0] if len(texts) == 1 and isinstance(texts[0], str) else None

    def _rows(self, document: Any) -> list[Any]:
        return _found(self.rows, document)

    def _time(self, row: Any) -> str | None:
        for path in self.updated_at:
            found = _found(path, row)
            if len(found) == 1 and isinstance(found[0], str | int | float):
                return str(found[0])
        return None


def _found(path: JSONPath, value: Any) -> list[Any]:
    """The matches in a value. A string has none: the library would parse it as JSON."""
    try:
        return path.findall(value) if isinstance(value, dict | list) else []
    except JSONPathError:  # too deep for `$..`, or a filter that cannot be applied
        return []


@dataclass(frozen=True, slots=True)
class Polled:
    """One section that can be polled."""

    section: Section
    rows: Rows


@dataclass(frozen=True, slots=True)
class Look:
    """The content of the polled resource."""

    document: Any
    size: int
    """Of its body, in bytes."""


class PollSource:
    """The source `poll`: the call itself, and looks at another resource while it lasts."""

    def __init__(self, upstream: Upstream, route: RouteSettings) -> None:
        assert route.poll is not None
        self._upstream = upstream
        self._settings = route.poll
        self._polled = [
            (index, Rows.compile(route.poll, section))
            for index, section in enumerate(route.sections)
            if section.poll_at is not None
        ]

    async def answer(self, run: Run) -> Answer:
        looks = Poller(self._upstream, run, self._settings)
        polled = [Polled(run.sections[index], rows) for index, rows in self._polled]
        try:
            async with asyncio.timeout(BEFORE_S):
                before = await looks.look()
        except (TimeoutError, LookFailed) as exc:
            run.lose_source(f"no look before the call: {exc or 'it took too long'}")
            return await ask(self._upstream, run, run.call.request)
        seen = {p.section.stage: await searched(before.size, p.rows.earlier, before.document) for p in polled}
        poller = asyncio.get_running_loop().create_task(_poll_safely(run, looks, polled, seen))
        try:
            return await ask(self._upstream, run, run.call.request)
        finally:
            poller.cancel()
            await asyncio.wait({poller})


class Poller:
    """Reads the polled resource with the credentials of the run's own request."""

    def __init__(self, upstream: Upstream, run: Run, settings: PollSettings) -> None:
        self._upstream = upstream
        self._share = run.answer_share
        self._limit = int(run.call.route.settings.max_answer)
        path = settings.path.format_map(run.call.parameters)
        self._request = Request("GET", path.encode("latin-1"), headers_of_look(run.call.request.headers))
        self.every_s = settings.every_ms / 1000

    async def look(self) -> "Look":
        """The document as it is now. Raises `LookFailed`."""
        held = 0

        async def admit(size: int) -> None:
            nonlocal held
            if not self._share.take_now(size):
                raise LookFailed("no room")
            held += size

        try:
            # A kept connection may be to the worker that is busy with the call.
            answer = await self._upstream.fetch(self._request, max_bytes=self._limit, fresh=True, admit=admit)
            if answer.status != 200:
                raise LookFailed(f"status {answer.status}")
            if await is_slow(answer.body):
                raise LookFailed("too many values")
            return Look(parse(answer.body), len(answer.body))
        except (UpstreamError, MalformedBody) as exc:
            raise LookFailed(type(exc).__name__) from exc
        finally:
            self._share.give_back(held)

    @property
    def blocked_s(self) -> float:
        return max(BLOCKED_MIN_S, BLOCKED_AFTER * self.every_s)


async def _poll_safely(run: Run, looks: Poller, polled: list[Polled], seen: Mapping[str, RowsBefore]) -> None:
    try:
        await _poll(run, looks, polled, seen)
    except Exception:  # a mistake of ours beside the call costs the live text, never the answer
        logger.exception("polling failed", extra={"run": run.id})
        run.lose_source("a mistake of ours")


async def _poll(run: Run, looks: Poller, polled: list[Polled], seen: Mapping[str, RowsBefore]) -> None:
    """Show each section as soon as it is stored, until all are shown, the source is lost or we are ended."""
    loop = asyncio.get_running_loop()
    wait_s, strikes = looks.every_s, 0
    left = list(polled)
    begin_next(run)
    while left:
        await asyncio.sleep(wait_s * random.uniform(1 - JITTER, 1 + JITTER))
        began = loop.time()
        try:
            async with asyncio.timeout(looks.blocked_s):
                look = await looks.look()
        except TimeoutError:
            run.lose_source("the upstream does not answer while it is busy with the call")
            return
        except LookFailed as exc:
            strikes += 1
            if strikes == STRIKES:
                run.lose_source(f"{STRIKES} looks failed in a row, the last with {exc}")
                return
            continue
        strikes = 0
        # A resource slower than the interval is asked half of the time at most.
        wait_s = max(looks.every_s, loop.time() - began)
        left = [p for p in left if not await _show(run, p, look, seen[p.section.stage])]


async def _show(run: Run, polled: Polled, look: Look, earlier: RowsBefore) -> bool:
    """Show a section if this run has stored it. True if there is nothing more to wait for."""
    if run.is_complete(polled.section):
        return True
    text = await searched(look.size, polled.rows.new_text, look.document, earlier)
    if not text:  # a row may be there before its text is
        return False
    if await run.show(polled.section, text):
        begin_next(run)
    return True


def begin_next(run: Run) -> None:
    """Stages follow one another: the first that is not complete is the one at work."""
    for section in run.sections:
        if not run.is_complete(section):
            run.begin(section)
            return


def headers_of_look(headers: Headers) -> Headers:
    """A request's headers but for those about its body, its conditions and its repetition."""
    return [(name, value) for name, value in headers if name not in NOT_OF_A_LOOK]
