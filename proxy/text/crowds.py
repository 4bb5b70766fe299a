"""Those who follow a log or a run: mostly one, seldom thousands. They are in the order in which they came."""

from typing import TypeVar

T = TypeVar("T")

FEW = 8
"""The most that are a tuple: a set or dict of one takes 200 bytes, and a long tuple takes long to change."""

Crowd = tuple[T, ...] | dict[T, None]


def with_one(crowd: Crowd[T], one: T) -> Crowd[T]:
    """The crowd, and one more; the same who is in it already."""
    if isinstance(crowd, dict):
        crowd[one] = None
    elif one not in crowd:
        crowd = (*crowd, one)
        if len(crowd) > FEW:
            crowd = dict.fromkeys(crowd)
    return crowd


def without(crowd: Crowd[T], one: T) -> Crowd[T]:
    """The crowd, and one less, if that was in it."""
    if isinstance(crowd, dict):
        crowd.pop(one, None)
    elif one in crowd:
        crowd = tuple([each for each in crowd if each != one])
    return crowd
