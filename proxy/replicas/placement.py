"""Which shard of the store has what. No I/O.

A value has a slot, by a keyed hash, and a slot a shard, by rendezvous hashing (Thaler and Ravishankar, 1998).
The order of shards says nothing, their names do. One that is added takes an equal part of each of the others,
and leaves the rest where it is.
"""

from collections.abc import Sequence
from hashlib import blake2b, shake_256
from struct import unpack

SLOTS = 4096
"""With 64 shards each has 64 of them, give or take 8."""


class ShardPlacement:
    """The places of values. Making one costs some 2 ms for each shard.

    Args:
        names: of the shards.
        secret: 32 bytes, the same for all replicas; without it nobody can choose a value's place.
    """

    def __init__(self, names: Sequence[str], secret: bytes) -> None:
        self._secret = secret
        weights = [
            unpack(f"<{SLOTS}Q", shake_256(secret + name.encode()).digest(SLOTS * 8)) for name in names
        ]
        shards = range(len(names))
        self._shards = [max(shards, key=of_slot.__getitem__) for of_slot in zip(*weights, strict=True)]

    def of(self, value: str) -> int:
        """The index of the shard that has a value. Some 3 µs."""
        digest = blake2b(value.encode(), key=self._secret, digest_size=8).digest()
        return self._shards[int.from_bytes(digest) % SLOTS]


def part(bound: int, shards: int) -> int:
    """A shard's part of a bound of this process. All may have twice the bound, since one may have more to do
    than another."""
    return min(bound, 2 * bound // shards)
