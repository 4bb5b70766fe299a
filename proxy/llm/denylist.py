"""The denylist: models that are asked for no streams, why, and until when. Does no I/O.

A stream that makes no batch answer costs its call twice. All workers and replicas share the denylist through
a `DenylistStore`, so that only one of them pays. Each keeps its own copy for the time when the store is down.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from time import time
from typing import Protocol

import orjson

logger = logging.getLogger("headgate.llm")

MAX_ENTRIES = 1024
"""The most models on the denylist."""

MAX_NAME_CHARS = 200
"""The longest part of a model's name that the admin port shows, in characters."""


class StreamDefect(StrEnum):
    """The reason why a model's streams cannot be used."""

    UNFAITHFUL = "unfaithful"
    """No batch answer can be made of them."""
    NO_STREAM = "no_stream"
    """The provider sends something that is neither a stream nor a batch answer."""
    REFUSED = "refused"
    """The provider refuses them, and answers the batch call."""
    FAILS = "fails"
    """They fail before their first token, and the provider answers the batch call."""
    BREAKS = "breaks"
    """Their connections break before the first token, and the provider answers the batch call."""


FIRST_DENIAL_S: Mapping[StreamDefect, float] = {StreamDefect.FAILS: 600.0, StreamDefect.BREAKS: 0.0}
"""Seconds that the first entry of a model holds, if fewer than `llm.learned_s`: the provider or the network
may have a bad hour. A second defect with no good stream between them is the model's."""


@dataclass(frozen=True, slots=True)
class DenylistEntry:
    """One model of the denylist."""

    provider: str
    model: str
    why: StreamDefect
    until: float
    """The time from which the model is asked for streams again; seconds since the epoch."""

    def shown(self, now: float) -> dict[str, str | int]:
        """The entry as the admin port shows it."""
        return {
            "provider": self.provider,
            "model": self.model,
            "why": self.why,
            "for_s": max(0, round(self.until - now)),
        }

    def packed(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def unpacked(cls, value: bytes) -> "DenylistEntry | None":
        """Read a packed entry; None: another release packed it."""
        try:
            fields = orjson.loads(value)
            return cls(
                str(fields["provider"]),
                str(fields["model"]),
                StreamDefect(fields["why"]),
                float(fields["until"]),
            )
        except (ValueError, TypeError, KeyError):
            return None


class DenylistStore(Protocol):
    """The entries of all processes, by names of 64 hexadecimal digits. A store that is down raises
    nothing."""

    async def put_denylist_entry(self, name: str, value: bytes, ttl_s: float) -> None:
        """Keep an entry for at least `ttl_s` seconds."""

    async def find_denylist_entry(self, name: str) -> bytes | None: ...
    async def drop_denylist_entry(self, name: str) -> None: ...
    async def denylist_entries(self) -> dict[str, bytes]:
        """All entries, by name."""


class StreamDenylist:
    """The denylist, as this process knows it.

    Args:
        keeps_s: seconds that an entry holds.
        store: shared by all processes.
        clock: seconds since the epoch, the same for all processes.
    """

    def __init__(self, keeps_s: float, store: DenylistStore, clock: Callable[[], float] = time) -> None:
        self._keeps_s = keeps_s
        self._store = store
        self._clock = clock
        self._entries: OrderedDict[str, DenylistEntry] = OrderedDict()

    async def defect(self, provider: str, model: str) -> StreamDefect | None:
        """The reason why a model is asked for no stream now. None: it is not on the denylist."""
        name = _name(provider, model)
        entry = self._entries.get(name)
        if entry is None or entry.until <= self._clock():
            value = await self._store.find_denylist_entry(name)
            found = None if value is None else DenylistEntry.unpacked(value)
            if found is not None:
                entry = found
                self._remember(name, found)
        return entry.why if entry is not None and entry.until > self._clock() else None

    async def note_defect(self, provider: str, model: str, why: StreamDefect) -> None:
        """A stream of the model had a defect: add the model, unless it is on the denylist already."""
        name, now = _name(provider, model), self._clock()
        before = self._entries.get(name)
        if before is not None and before.until > now:
            return
        lasts_s = self._keeps_s
        if before is None:
            lasts_s = min(lasts_s, FIRST_DENIAL_S.get(why, lasts_s))
        shown = model[:MAX_NAME_CHARS].encode(errors="replace").decode()  # half a character is no JSON
        entry = DenylistEntry(provider, shown, why, now + lasts_s)
        if lasts_s:
            extra = {"provider": provider, "why": why, "for_s": round(lasts_s)}
            logger.warning("a model is asked for no streams", extra=extra)
        self._remember(name, entry)
        stored = await self._stored()
        if len(stored) < MAX_ENTRIES or name in stored:
            await self._store.put_denylist_entry(name, entry.packed(), lasts_s + self._keeps_s)

    async def note_success(self, provider: str, model: str) -> None:
        """A stream of the model was good: an entry that no longer holds was about a bad hour. Drop it."""
        name = _name(provider, model)
        entry = self._entries.get(name)
        if entry is not None and entry.until <= self._clock():
            del self._entries[name]
            await self._store.drop_denylist_entry(name)

    async def active(self) -> list[DenylistEntry]:
        """The entries of all processes that hold now."""
        now = self._clock()
        found = self._entries | await self._stored()
        return sorted(
            (entry for entry in found.values() if entry.until > now),
            key=lambda entry: (entry.provider, entry.model),
        )

    async def _stored(self) -> dict[str, DenylistEntry]:
        """The store's entries. Those that expired `keeps_s` ago no longer count as a first defect: drop
        them."""
        unpacked = {
            name: DenylistEntry.unpacked(value)
            for name, value in (await self._store.denylist_entries()).items()
        }
        found = {name: entry for name, entry in unpacked.items() if entry is not None}
        old = [name for name, entry in found.items() if entry.until + self._keeps_s <= self._clock()]
        for name in old:
            del found[name]
            await self._store.drop_denylist_entry(name)
        return found

    def _remember(self, name: str, entry: DenylistEntry) -> None:
        self._entries[name] = entry
        self._entries.move_to_end(name)
        if len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)


def _name(provider: str, model: str) -> str:
    return hashlib.sha256(f"{provider}\n{model}".encode(errors="surrogatepass")).hexdigest()
