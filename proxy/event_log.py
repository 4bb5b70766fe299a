"""The append-only log of one run's events, in memory; and how viewers wait for more of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.events import Event, EventType
from proxy.sse import encode

MAX_AT_ONCE = 512
"""Entries that a reader takes at a time: a long log is not copied whole for each write."""

CONTENT = frozenset({EventType.CONTENT_CHUNK, EventType.CONTENT_REPLACE})


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, as it goes on the wire."""

    seq: int
    """From 1, without gaps."""
    wire: bytes
    known_at: float
    """The loop's time when the proxy had what this event says."""
    is_content: bool
    is_terminal: bool


class EventLog:
    """Events of one run. Encoded once, whoever reads them."""

    def __init__(self, run_id: str, retry_ms: int) -> None:
        self._run_id = run_id
        self._retry_ms = retry_ms
        self._entries: list[Entry] = []
        self._grown = asyncio.Event()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def ended(self) -> bool:
        return bool(self._entries) and self._entries[-1].is_terminal

    def append(self, event: Event, known_at: float) -> None:
        seq = len(self._entries) + 1
        wire = encode(event, f"{self._run_id}:{seq}", self._retry_ms if seq == 1 else None)
        self._entries.append(Entry(seq, wire, known_at, event.type in CONTENT, event.terminal))
        self.size_bytes += len(wire)
        self.wake()

    def after(self, seq: int) -> Sequence[Entry]:
        """The next entries beyond `seq`, at most `MAX_AT_ONCE` of them."""
        return self._entries[seq : seq + MAX_AT_ONCE]

    def wake(self) -> None:
        """Let everybody who waits look again."""
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def wait_beyond(self, seq: int, timeout_s: float) -> bool:
        """Wait until there is more than `seq` entries; False if there is not after `timeout_s`."""
        if len(self._entries) > seq:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._grown.wait()
        except TimeoutError:
            return False
        return True
