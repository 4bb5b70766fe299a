"""What befell users by the flag's draw, in its order, as bytes. No I/O.

All processes must read the same, so another form of these bytes needs other keys (`DrawMemory.kind`).
"""

import struct
from collections.abc import Iterable, Iterator, Sequence

from flags.decision import Arm
from proxy.observe.users.draws import HARMS, Drawn, KnownDraws
from proxy.observe.users.shared_draws import Changed, DrawBatch, LoggedDraws, Met, SharedDraws

MAX_DRAW_BATCH = 2048
"""Runs of a user's requests that are alike, in a batch: 13 bytes each, 3 kB a second for a route at most."""

_BATCH = struct.Struct("<ddH")
_GENERATION = struct.Struct("16s")
_SAID = struct.Struct("<8sBHH")
_KNOWN = struct.Struct(f"<dI16sBB{len(HARMS)}d")
_NUMBER = struct.Struct("<16sB")
_USER = struct.Struct(f"<8sdHHIbIB{len(HARMS)}d")
_SINCE = struct.Struct("<BII")
_ARMS = tuple(Arm)
_CHANGED = 0x40
_FAILED = 0x80


class DrawMemory:
    """The draw of one route's users."""

    kind = "drawn"
    in_order = True

    def __init__(self, route: str, draws: SharedDraws) -> None:
        self.route = route
        self._draws = draws

    def share(self) -> None:
        self._draws.share()

    def take(self) -> bytes:
        batch = self._draws.take(MAX_DRAW_BATCH)
        return _of_batch(batch) if batch.said else b""

    def merge(self, batch: bytes, at_s: float, *, mine: bool) -> Iterable[None]:
        return self._draws.merge(_batch(batch), at_s, mine=mine)

    def begin_again(self, known: bytes) -> Iterable[None]:
        return self._draws.begin_again(_known(known))

    def known(self) -> bytes:
        return _plain(self._draws.known())

    def folded(self, known: bytes, batches: Sequence[tuple[bytes, float]], now_s: float) -> bytes:
        draws = SharedDraws()
        for _ in draws.begin_again(_known(known)):
            pass
        for plain, at_s in batches:
            for _ in draws.merge(_batch(plain), at_s, mine=False):
                pass
        draws.forget(now_s)
        return _plain(draws.known())

    def leave(self, now_s: float) -> None:
        self._draws.leave(now_s)


def _of_batch(batch: DrawBatch) -> bytes:
    """The prior, the flag's generations, and what is said, with the number of a generation."""
    numbers: dict[str, int] = {}

    def number_of(generation: str) -> int:
        return numbers.setdefault(generation, len(numbers))

    said = []
    for one in batch.said:
        if isinstance(one, Met):
            kind = _ARMS.index(one.arm) | _FAILED * one.failed
            said.append(_SAID.pack(one.user, kind, number_of(one.generation), one.requests))
        else:
            share, number = one.share.to_bytes(8), number_of(one.generation)
            said.append(_SAID.pack(share, _CHANGED, number, number_of(one.before)))
    generations = [_GENERATION.pack(generation.encode()) for generation in numbers]
    return b"".join((_BATCH.pack(*batch.prior, len(numbers)), *generations, *said))


def _batch(plain: bytes) -> DrawBatch:
    failures, requests, number = _BATCH.unpack_from(plain)
    begin = _BATCH.size + number * _GENERATION.size
    generations = [_name(name) for (name,) in _GENERATION.iter_unpack(plain[_BATCH.size : begin])]
    said: list[Met | Changed] = []
    for what, kind, generation, other in _SAID.iter_unpack(plain[begin:]):
        name = generations[generation]
        if kind == _CHANGED:
            said.append(Changed(generations[other], name, int.from_bytes(what)))
        else:
            said.append(Met(what, _ARMS[kind & ~_FAILED], name, bool(kind & _FAILED), other))
    return DrawBatch((failures, requests), said)


def _plain(known: LoggedDraws) -> bytes:
    draws = known.draws
    head = _KNOWN.pack(
        known.changed_s,
        draws.rollout,
        draws.generation.encode(),
        len(draws.shares),
        len(draws.numbers),
        *draws.sums,
    )
    numbers = [_NUMBER.pack(name.encode(), number) for name, number in draws.numbers.items()]
    users = []
    for user, one in draws.users:
        since = one.since if one.rollout == draws.rollout else []
        users.append(
            _USER.pack(
                user,
                one.seen_s,
                one.requests,
                one.failed,
                one.rollout,
                -1 if one.entry is None else one.entry,
                one.told_at,
                len(since),
                *(one.told or (0.0,) * len(HARMS)),
            )
        )
        users += [_SINCE.pack(*at) for at in since]
    return b"".join((head, bytes(draws.shares), *numbers, *users))


def _known(plain: bytes) -> LoggedDraws:
    if not plain:
        return LoggedDraws(0.0, KnownDraws(0, "", (), {}, (0.0,) * len(HARMS), ()))
    changed_s, rollout, generation, shares, numbers, *sums = _KNOWN.unpack_from(plain)
    begin = _KNOWN.size + shares
    end = begin + numbers * _NUMBER.size
    of_generation = {_name(name): number for name, number in _NUMBER.iter_unpack(plain[begin:end])}
    of_share = tuple(plain[_KNOWN.size : begin])
    draws = KnownDraws(rollout, _name(generation), of_share, of_generation, sums, _users(plain, end))
    return LoggedDraws(changed_s, draws)


def _users(plain: bytes, at: int) -> Iterator[tuple[bytes, Drawn]]:
    while at < len(plain):
        user, seen_s, requests, failed, rollout, entry, told_at, number, *told = _USER.unpack_from(plain, at)
        at += _USER.size
        end = at + number * _SINCE.size
        since = [list(one) for one in _SINCE.iter_unpack(plain[at:end])]
        at = end
        entered = None if entry < 0 else entry
        yield user, Drawn(seen_s, requests, failed, rollout, since, entered, tuple(told), told_at)


def _name(packed: bytes) -> str:
    return packed.rstrip(b"\0").decode()
