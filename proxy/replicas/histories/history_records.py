"""Users' histories as bytes, sealed, and their sum. No I/O.

A *batch* is what one process has learned of a route's users since its batch before. A *sum* is what all
batches up to one of them add up to. Both are sealed as a whole, the users' hashes too.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.observe.histories import Changes, Histories, History
from proxy.replicas.store.sealing import Box, Unsealable

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

    def opened(self, box: Box) -> Changes:
        """Raises `Unsealable`."""
        return _changes(box.open(f"batch {self.sender}", self.number, self.value))


@dataclass(slots=True)
class Sum:
    """Everything up to one entry of the log."""

    changes: Changes = field(default_factory=Changes)
    senders: Senders = field(default_factory=Senders)

    @classmethod
    def opened(cls, box: Box, upto: bytes, value: bytes) -> "Sum":
        """Raises `Unsealable`."""
        plain = box.open(_sum_kind(upto), 0, value)
        [number] = _NUMBER.unpack_from(plain)
        rest = _NUMBER.size + number * _SENDER.size
        senders = _SENDER.iter_unpack(plain[_NUMBER.size : rest])
        return cls(_changes(plain[rest:]), Senders({sender.hex(): last for sender, last in senders}))

    def sealed(self, box: Box, upto: bytes) -> bytes:
        """Return the sum as it is stored, up to this entry of the log."""
        last = self.senders.last()
        senders = b"".join(_SENDER.pack(bytes.fromhex(sender), number) for sender, number in last.items())
        plain = _NUMBER.pack(len(last)) + senders + _plain(self.changes)
        return box.seal(_sum_kind(upto), 0, plain)


def sealed_batch(box: Box, sender: str, number: int, changes: Changes) -> bytes:
    return box.seal(f"batch {sender}", number, _plain(changes))


def folded(box: Box, known: Sum, batches: Iterable[StoredBatch], now_s: float) -> tuple[Sum, int]:
    """A sum and the batches after it, by the bounds and the memory of `Histories`; and how many of these
    batches cannot be read. It takes a tenth of a second: do it in another thread."""
    histories, unreadable = Histories(), 0
    for history in known.changes.histories:
        histories.merge(history)
    histories.calibrate(known.changes.agreed, known.changes.forecast)
    for batch in batches:
        try:
            changes = batch.opened(box)
        except Unsealable:
            unreadable += 1
            continue
        if known.senders.is_new(batch.sender, batch.number):
            for history in changes.histories:
                histories.merge(history)
            histories.calibrate(changes.agreed, changes.forecast)
    histories.forget(now_s)
    return Sum(histories.shared(), known.senders), unreadable


def _sum_kind(upto: bytes) -> str:
    return f"sum {upto.decode('latin-1')}"


def _plain(changes: Changes) -> bytes:
    histories = b"".join(_HISTORY.pack(*history) for history in changes.histories)
    return _CALIBRATION.pack(changes.agreed, changes.forecast) + histories


def _changes(plain: bytes) -> Changes:
    histories: Sequence[History] = [
        History(*fields) for fields in _HISTORY.iter_unpack(plain[_CALIBRATION.size :])
    ]
    return Changes(list(histories), *_CALIBRATION.unpack_from(plain))
