"""What has been learned of the providers' models: which are asked for no stream, and until when.

A stream that makes no batch answer costs its call twice. So it is learned once, for all workers and replicas:
what is learned is kept where they all look (`LessonStore`), and here, for when that is away. Does no I/O.
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


MAX_LESSONS = 1024
"""Models that this is remembered of."""

MAX_NAME_CHARS = 200
"""Of a model's name, as it is shown."""


class Why(StrEnum):
    """What is wrong with the streams of a model."""

    UNFAITHFUL = "unfaithful"
    """They make no batch answer."""
    NO_STREAM = "no_stream"
    """What comes in their place is neither a stream nor a batch answer."""
    REFUSED = "refused"
    """They are refused, and the batch call is answered."""
    FAILS = "fails"
    """They fail before their first token, and the batch call is answered."""
    BREAKS = "breaks"
    """Their connections break before it, and the batch call is answered."""


FIRST_S: Mapping[Why, float] = {Why.FAILS: 600.0, Why.BREAKS: 0.0}
"""How long a model is asked for no stream after the first one that was so: the hour may be bad, or the way.
If the next one is so as well, and none between them was good, it is the streams."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """Of one model."""

    provider: str
    model: str
    why: Why
    until: float
    """When it is asked for a stream again; seconds since the epoch."""

    def shown(self, now: float) -> dict[str, str | int]:
        """For the admin port."""
        return {
            "provider": self.provider,
            "model": self.model,
            "why": self.why,
            "for_s": max(0, round(self.until - now)),
        }

    def packed(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def unpacked(cls, value: bytes) -> "Lesson | None":
        """None: another release has packed it."""
        try:
            said = orjson.loads(value)
            return cls(str(said["provider"]), str(said["model"]), Why(said["why"]), float(said["until"]))
        except (ValueError, TypeError, KeyError):
            return None


class LessonStore(Protocol):
    """Where lessons are for all processes, by names of 64 hexadecimal digits. A store that is away raises
    nothing.
    """

    async def put_lesson(self, name: str, value: bytes, ttl_s: float) -> None:
        """Keep it for at least so long."""
        ...

    async def find_lesson(self, name: str) -> bytes | None: ...
    async def drop_lesson(self, name: str) -> None: ...
    async def lessons(self) -> dict[str, bytes]:
        """All of them, by name."""
        ...


class Learned:
    """All lessons.

    Args:
        keeps_s: how long one holds.
        clock: seconds since the epoch, the same for all processes.
    """

    def __init__(self, keeps_s: float, shelf: LessonStore, clock: Callable[[], float] = time) -> None:
        self._keeps_s = keeps_s
        self._shelf = shelf
        self._clock = clock
        self._lessons: OrderedDict[str, Lesson] = OrderedDict()

    async def why_not(self, provider: str, model: str) -> Why | None:
        """Why a model is asked for no stream now; None: it is asked."""
        name = _name(provider, model)
        lesson = self._lessons.get(name)
        if lesson is None or lesson.until <= self._clock():
            value = await self._shelf.find_lesson(name)
            found = None if value is None else Lesson.unpacked(value)
            if found is not None:
                lesson = found
                self._keep(name, found)
        return lesson.why if lesson is not None and lesson.until > self._clock() else None

    async def learn(self, provider: str, model: str, why: Why) -> None:
        """Its streams are so."""
        name, now = _name(provider, model), self._clock()
        before = self._lessons.get(name)
        if before is not None and before.until > now:
            return
        lasts_s = self._keeps_s
        if before is None:
            lasts_s = min(lasts_s, FIRST_S.get(why, lasts_s))
        shown = model[:MAX_NAME_CHARS].encode(errors="replace").decode()  # half a character is no JSON
        lesson = Lesson(provider, shown, why, now + lasts_s)
        if lasts_s:
            extra = {"provider": provider, "why": why, "for_s": round(lasts_s)}
            logger.warning("a model is asked for no streams", extra=extra)
        self._keep(name, lesson)
        shelved = await self._on_the_shelf()
        if len(shelved) < MAX_LESSONS or name in shelved:
            await self._shelf.put_lesson(name, lesson.packed(), lasts_s + self._keeps_s)

    async def forget(self, provider: str, model: str) -> None:
        """A stream of it was good: what was learned before was of an hour that was bad."""
        name = _name(provider, model)
        lesson = self._lessons.get(name)
        if lesson is not None and lesson.until <= self._clock():
            del self._lessons[name]
            await self._shelf.drop_lesson(name)

    async def in_force(self) -> list[Lesson]:
        """Everything that is learned now, by any process."""
        now = self._clock()
        found = self._lessons | await self._on_the_shelf()
        return sorted(
            (lesson for lesson in found.values() if lesson.until > now),
            key=lambda lesson: (lesson.provider, lesson.model),
        )

    async def _on_the_shelf(self) -> dict[str, Lesson]:
        """What is there; what is over for so long that it says nothing of the next failure is taken down."""
        unpacked = {name: Lesson.unpacked(value) for name, value in (await self._shelf.lessons()).items()}
        found = {name: lesson for name, lesson in unpacked.items() if lesson is not None}
        old = [name for name, lesson in found.items() if lesson.until + self._keeps_s <= self._clock()]
        for name in old:
            del found[name]
            await self._shelf.drop_lesson(name)
        return found

    def _keep(self, name: str, lesson: Lesson) -> None:
        self._lessons[name] = lesson
        self._lessons.move_to_end(name)
        if len(self._lessons) > MAX_LESSONS:
            self._lessons.popitem(last=False)


def _name(provider: str, model: str) -> str:
    return hashlib.sha256(f"{provider}\n{model}".encode(errors="surrogatepass")).hexdigest()
