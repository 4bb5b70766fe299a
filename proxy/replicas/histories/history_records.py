"""Batches and sums as they are stored, sealed; and users' histories as bytes. No I/O.

A *batch* is what one process has learned of a route's users since its batch before. A *sum* is what all
batches up to one of them add up to. Both are sealed as a whole, the users' hashes too.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.observe.users.histories import Changes, Histories, History
from proxy.replicas.store.sealing import Box, Unsealable

MAX_BATCH = 512
"""Users in a batch, of 16 bytes each: one process writes 0.8 kB a second for a route, at most."""

MAX_SENDERS = 512
"""Processes whose last batch is known, so that a batch which comes twice counts once; the newest."""

_HISTORY = struct.Struct("<8sHHI")
_CALIBRATION = struct.Struct("<dd")
_SENDER = struct.Struct("<16sI")
_NUMBER = struct.Struct("<H")


class Senders:
    """The last batch of each process."""

    def __init__(self, last: Mapping[str, int] | None = None) -> None:
        self._last = dict(last or {})

    def is_new(self, sender: str, number: int) -> bool:
        """Note a batch; return True if it was not there before."""
        last = self._last.pop(sender, 0)
        self._last[sender] = max(last, number)
        while len(self._last) > MAX_SENDERS:
            del self._last[next(iter(self._last))]
        return number > last

    def last(self) -> Mapping[str, int]:
        """By process, the number of its last batch."""
        return self._last


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """An entry of the log."""

    entry: bytes
    """Its id in the store's stream."""
    sender: str
    """The process, as 32 hexadecimal digits."""
    number: int
    """From 1, one more for each batch of this process."""
    value: bytes
    """Sealed."""

    def opened(self, box: Box) -> bytes:
        """Raises `Unsealable`."""
        return box.open(f"batch {self.sender}", self.number, self.value)


@dataclass(slots=True)
class Sum:
    """Everything up to one entry of the log."""

    plain: bytes = b""
    """As its memory has it."""
    senders: Senders = field(default_factory=Senders)

    @classmethod
    def opened(cls, box: Box, upto: bytes, value: bytes) -> "Sum":
        """Raises `Unsealable`."""
        plain = box.open(_sum_kind(upto), 0, value)
        [number] = _NUMBER.unpack_from(plain)
        rest = _NUMBER.size + number * _SENDER.size
        senders = _SENDER.iter_unpack(plain[_NUMBER.size : rest])
        return cls(plain[rest:], Senders({sender.hex(): last for sender, last in senders}))

    def sealed(self, box: Box, upto: bytes) -> bytes:
        """Return the sum as it is stored, up to this entry of the log."""
        last = self.senders.last()
        senders = b"".join(_SENDER.pack(bytes.fromhex(sender), number) for sender, number in last.items())
        plain = _NUMBER.pack(len(last)) + senders + self.plain
        return box.seal(_sum_kind(upto), 0, plain)


def sealed_batch(box: Box, sender: str, number: int, plain: bytes) -> bytes:
    return box.seal(f"batch {sender}", number, plain)


def folded(
    box: Box,
    known: Sum,
    batches: Iterable[tuple[StoredBatch, float]],
    fold: Callable[[bytes, Sequence[tuple[bytes, float]], float], bytes],
    now_s: float,
) -> tuple[Sum, int]:
    """A sum and the batches after it, by the bounds of their memory; and how many of these batches cannot be
    read. It takes a tenth of a second: do it in another thread."""
    readable, unreadable = [], 0
    for batch, at_s in batches:
        try:
            plain = batch.opened(box)
        except Unsealable:
            unreadable += 1
            continue
        if known.senders.is_new(batch.sender, batch.number):
            readable.append((plain, at_s))
    return Sum(fold(known.plain, readable, now_s), known.senders), unreadable


class HistoryMemory:
    """The histories of one route's users. Counts are only added, so their order does not matter."""

    kind = "histories"
    in_order = False

    def __init__(self, route: str, known: Histories) -> None:
        self.route = route
        self._known = known

    def share(self) -> None:
        self._known.share()

    def take(self) -> bytes:
        changes = self._known.take(MAX_BATCH)
        return _plain(changes) if changes else b""

    def merge(self, batch: bytes, at_s: float, *, mine: bool) -> Iterable[None]:
        return _merged(self._known, _changes(batch))

    def begin_again(self, known: bytes) -> Iterable[None]:
        return self._known.begin_again(_changes(known))

    def known(self) -> bytes:
        return _plain(self._known.shared())

    def folded(self, known: bytes, batches: Sequence[tuple[bytes, float]], now_s: float) -> bytes:
        histories = Histories()
        for plain in (known, *(plain for plain, _ in batches)):
            for _ in _merged(histories, _changes(plain)):
                pass
        histories.forget(now_s)
        return _plain(histories.shared())

    def leave(self, now_s: float) -> None:
        """What was learned waits for the store."""


def _merged(histories: Histories, changes: Changes) -> Iterator[None]:
    histories.calibrate(changes.agreed, changes.forecast)
    for history in changes.histories:
        histories.merge(history)
        yield


def _sum_kind(upto: bytes) -> str:
    return f"sum {upto.decode('latin-1')}"


def _plain(changes: Changes) -> bytes:
    histories = b"".join(_HISTORY.pack(*history) for history in changes.histories)
    return _CALIBRATION.pack(changes.agreed, changes.forecast) + histories


def _changes(plain: bytes) -> Changes:
    if not plain:
        return Changes()
    histories: Sequence[History] = [
        History(*fields) for fields in _HISTORY.iter_unpack(plain[_CALIBRATION.size :])
    ]
    return Changes(list(histories), *_CALIBRATION.unpack_from(plain))
