"""What users' requests say in their order, as bytes. No I/O.

All processes must read the same, so another form of these bytes needs other keys (`WatchMemory.kind`).
"""

import struct
from collections.abc import Iterable, Iterator, Sequence

from flags.decision import Arm
from proxy.observe.users.user_watch import EndedBatch, Known, UserWatch
from proxy.observe.users.watched_users import Ended, OfAll, Watched

MAX_WATCH_BATCH = 2048
"""Runs of a user's requests that are alike, in a batch: 25 bytes each, 5 kB a second for a route at most."""

_PRIOR = struct.Struct("<dd")
_ENDED = struct.Struct("<8sBHdHf")
_OF_ALL = struct.Struct("<IIdQd")
_USER = struct.Struct("<8sdHHIIIBdId")
_ARMS = tuple(Arm)
_FAILED = 0x80


class WatchMemory:
    """The watched users of one route."""

    kind = "watched"
    in_order = True

    def __init__(self, route: str, watch: UserWatch) -> None:
        self.route = route
        self._watch = watch

    def share(self) -> None:
        self._watch.share()

    def take(self) -> bytes:
        batch = self._watch.take(MAX_WATCH_BATCH)
        return _PRIOR.pack(*batch.prior) + b"".join(map(_packed, batch.ended)) if batch.ended else b""

    def merge(self, batch: bytes, at_s: float, *, mine: bool) -> Iterable[None]:
        return self._watch.merge(_batch(batch), at_s, mine=mine)

    def begin_again(self, known: bytes) -> Iterable[None]:
        return self._watch.begin_again(_known(known))

    def known(self) -> bytes:
        return _plain(self._watch.known())

    def folded(self, known: bytes, batches: Sequence[tuple[bytes, float]], now_s: float) -> bytes:
        watch = UserWatch(lambda arm, limit: None)
        for _ in watch.begin_again(_known(known)):
            pass
        for plain, at_s in batches:
            for _ in watch.merge(_batch(plain), at_s, mine=False):
                pass
        watch.forget(now_s)
        return _plain(watch.known())

    def leave(self, now_s: float) -> None:
        self._watch.leave(now_s)


def _packed(ended: Ended) -> bytes:
    kind = _ARMS.index(ended.arm) | _FAILED * ended.failed
    return _ENDED.pack(ended.user, kind, ended.requests, ended.expected, ended.answers, ended.log_seconds)


def _batch(plain: bytes) -> EndedBatch:
    ended = [
        Ended(user, _ARMS[kind & ~_FAILED], bool(kind & _FAILED), *rest)
        for user, kind, *rest in _ENDED.iter_unpack(plain[_PRIOR.size :])
    ]
    rate, weight = _PRIOR.unpack_from(plain)
    return EndedBatch((rate, weight), ended)


def _plain(known: Known) -> bytes:
    of_all = known.of_all
    head = _OF_ALL.pack(known.group, of_all.rollout, of_all.compared_s, of_all.answers, of_all.log_seconds)
    return head + b"".join(
        _USER.pack(
            user,
            one.seen_s,
            one.failed,
            one.requests,
            one.run_failed,
            one.run_requests,
            one.rollout,
            one.passed,
            one.expected,
            one.answers,
            one.log_seconds,
        )
        for user, one in known.users
    )


def _known(plain: bytes) -> Known:
    if not plain:
        return Known(0, OfAll(), ())
    group, *of_all = _OF_ALL.unpack_from(plain)
    return Known(group, OfAll(*of_all), _users(plain[_OF_ALL.size :]))


def _users(plain: bytes) -> Iterator[tuple[bytes, Watched]]:
    for user, *fields in _USER.iter_unpack(plain):
        yield user, Watched(*fields)
