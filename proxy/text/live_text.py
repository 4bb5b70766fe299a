"""Texts while they are being made: cut into words as they come, with the beginning of a word held back.

A piece of a text ends anywhere, also within a word. Whole words are shown at once or, where several short
ones make one chunk, after `HOLD_S` at the latest; the beginning of a word waits for its end.
"""

import asyncio
from asyncio.events import TimerHandle
from collections.abc import Callable
from typing import Final, Protocol

from proxy.text.chunking import Chunker, split

HOLD_S: Final = 0.04
"""Seconds that a whole word may wait for the next one: with a flush of a viewer after it, well below 100
ms."""


LARGE_CHARS: Final = 1000
"""More at once is no model's token, and is not cut into words: a megabyte of them would take seconds."""

LARGE_PIECES: Final = 64
"""About so many does a large piece of a text become, with as many smaller ones at its end."""


class ChunkSink(Protocol):
    """The receiver of chunks that were held back."""

    def show_chunks(self, stage: str, chunks: list[str]) -> None: ...


class LiveTexts:
    """The unfinished texts of one run, by their stages.

    The sink is an argument, and is kept no longer than `HOLD_S`: the run owns its texts, so that
    a reference back to it would be a cycle.

    Args:
        chunker: a new one for a text.
    """

    __slots__ = (
        "_chunkers",
        "_new_chunker",
        "_timer",
    )

    def __init__(self, chunker: Callable[[], Chunker]) -> None:
        self._new_chunker = chunker
        self._chunkers: dict[str, Chunker] = {}
        self._timer: TimerHandle | None = None

    def add(self, stage: str, text: str, shows: ChunkSink) -> list[str]:
        """The next piece: what is to be shown of it now. `shows` gets what is held back for a while."""
        chunker = self._chunkers.get(stage)
        if chunker is None:
            chunker = self._chunkers[stage] = self._new_chunker()
        if len(text) > LARGE_CHARS:
            *chunks, text = _pieces(chunker.unfeed() + text)
            chunks += chunker.feed(text)
        else:
            chunks = chunker.feed(text)
        if self._timer is None and chunker.holds_words:
            self._timer = asyncio.get_running_loop().call_later(HOLD_S, self._held_long_enough, shows)
        return chunks

    def finish(self, stage: str) -> list[str]:
        """The text is whole: what was held back of it."""
        chunker = self._chunkers.pop(stage, None)
        return [] if chunker is None else chunker.flush()

    def drop(self, stage: str) -> None:
        """Drop the part of the text that is held back."""
        self._chunkers.pop(stage, None)

    def close(self) -> None:
        """Show nothing more of any text."""
        self._chunkers.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _held_long_enough(self, shows: ChunkSink) -> None:
        self._timer = None
        for stage, chunker in self._chunkers.items():
            shows.show_chunks(stage, chunker.flush_words())


def _pieces(text: str) -> list[str]:
    """A large text in pieces, the last of which is a small one."""
    *pieces, last = split(text, max(LARGE_CHARS, len(text) // LARGE_PIECES))
    return [*pieces, *split(last, LARGE_CHARS)]
