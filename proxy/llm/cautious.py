"""A guard around all that reads and shows a model's calls: a mistake in it costs live text, never the answer.

A dialect reads what anybody may have written, and a run shows it: both are beside the call.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar, TypeVarTuple

from proxy.llm.assembly.dialect import (
    Assembler,
    Dialect,
    Headers,
    NotStreamable,
    Prompt,
    ProviderFailed,
    StreamCall,
    Unfaithful,
)
from proxy.llm.taps.tap import TappedCall

logger = logging.getLogger("headgate.taps")

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

WHY = "a mistake of ours"


class CautiousDialect:
    """A dialect that raises nothing but what its port says; a `Dialect`."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.media_type = dialect.media_type
        self.answer_type = dialect.answer_type
        self.usage = dialect.usage

    def is_call(self, method: str, target: bytes) -> bool:
        return _tried(False, self._dialect.is_call, method, target)

    def is_stream(self, method: str, target: bytes, body: bytes) -> bool:
        return _tried(False, self._dialect.is_stream, method, target, body)

    def as_stream(self, method: str, target: bytes, body: bytes) -> StreamCall | None:
        try:
            return self._dialect.as_stream(method, target, body)
        except NotStreamable:
            raise
        except Exception:
            logger.exception(WHY)
            raise NotStreamable(WHY) from None

    def prompt(self, method: str, target: bytes, body: bytes) -> Prompt | None:
        return _tried(None, self._dialect.prompt, method, target, body)

    def assembler(self, choices: int | None = None) -> "CautiousAssembler":
        return CautiousAssembler(self._dialect.assembler(choices))

    def is_answer(self, body: bytes, choices: int) -> bool:
        return _tried(False, self._dialect.is_answer, body, choices)


class CautiousAssembler:
    """The same of an assembler: what it cannot read is unfaithful."""

    def __init__(self, assembler: Assembler) -> None:
        self._assembler = assembler
        self.arguments = ""
        self.is_terminated = False

    @property
    def headers(self) -> Headers:
        return self._assembler.headers

    @property
    def is_complete(self) -> bool:
        return _faithful(lambda: self._assembler.is_complete)

    def feed(self, data: str) -> str:
        assembler = self._assembler
        try:
            piece = assembler.feed(data)
            self.arguments, self.is_terminated = assembler.arguments, assembler.is_terminated
        except (Unfaithful, ProviderFailed):
            raise
        except Exception:
            logger.exception(WHY)
            raise Unfaithful(WHY) from None
        return piece

    def answer(self) -> bytes:
        return _faithful(self._assembler.answer)

    def kept_fields(self) -> Iterable[str]:
        return _tried([], lambda: list(self._assembler.kept_fields()))


class CautiousCall:
    """A call of a run, which shows no more after a mistake; a `TappedCall`."""

    def __init__(self, call: TappedCall) -> None:
        self._call = call
        self._is_lost = False

    def add(self, piece: str) -> None:
        if piece and not self._is_lost:
            try:
                self._call.add(piece)
            except Exception:
                logger.exception(WHY)
                self._is_lost = True

    def add_arguments(self, piece: str) -> None:
        if piece and not self._is_lost:
            try:
                self._call.add_arguments(piece)
            except Exception:
                logger.exception(WHY)
                self._is_lost = True

    async def finish(self) -> None:
        if self._is_lost:
            await self.fail()
            return
        try:
            await self._call.finish()
        except Exception:
            logger.exception(WHY)

    async def fail(self) -> None:
        with suppress(Exception):
            await self._call.fail()


def _tried(otherwise: T, read: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    try:
        return read(*arguments)
    except Exception:
        logger.exception(WHY)
        return otherwise


def _faithful(read: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    try:
        return read(*arguments)
    except (Unfaithful, ProviderFailed):
        raise
    except Exception:
        logger.exception(WHY)
        raise Unfaithful(WHY) from None
