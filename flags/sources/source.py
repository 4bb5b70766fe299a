"""A source of flags as a process sees it: answers out of memory, and what the source says of itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from flags.arms import FlagInForce, Placement
from flags.decision import FlagAnswer, FlagState
from flags.sources.in_force import Condition, InForce
from flags.sources.kill_switch import KillSwitch

T = TypeVar("T")


class FlagSource(ABC):
    """A source of flags, read by `async with`, which owns the tasks that look again. A `FlagState`.

    Args:
        what: the source, in log lines.
        kill_flag: the flag that stops streaming for everybody.
        stale_s: seconds after which flags that nobody has confirmed count for nothing.
        clock: seconds; it only goes forward.
    """

    def __init__(self, what: str, *, kill_flag: str, stale_s: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._in_force = InForce(what, kill_flag=kill_flag, stale_s=stale_s, clock=clock)
        self._condition = Condition(what)

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(self, *exc: object) -> None: ...

    @abstractmethod
    async def once(self, ask: Callable[[Self], T]) -> T:
        """Instead of `async with`: what `ask` finds in the flags as they are now. Raises FlagsError."""

    async def verify(self, flags: Collection[str] = ()) -> list[str]:
        """Instead of `async with`: read once, and log what is doubtful. Raises FlagsError.

        Returns those of `flags` that the source lacks.
        """
        return await self.once(lambda _: self._in_force.lacking(flags))

    @property
    def problem(self) -> str | None:
        """The fault of the source now; None while it is good."""
        return self._condition.problem

    @property
    def age_s(self) -> float:
        """Seconds since the flags were last known to be right; infinite if they never were."""
        return self._in_force.age_s

    @property
    def stale(self) -> bool:
        return self._in_force.stale

    @property
    def killed(self) -> bool:
        return self._in_force.killed

    def evaluate(self, flag: str, context: Mapping[str, Any] | None) -> FlagAnswer:
        """Ask one flag about one user. Raises TypeError for a context that is not Unicode text."""
        return self._in_force.evaluate(flag, context)

    def placed(self, flag: str, context: Mapping[str, Any] | None) -> Placement | None:
        """A user's place in the flag's arms; None for a flag without arms."""
        return self._in_force.placed(flag, context)

    def found(self, flag: str) -> FlagInForce:
        """A flag as it is now, whoever asks."""
        return self._in_force.found(flag)


@dataclass(frozen=True, slots=True)
class Flags:
    """The one object that `decide` asks. The caller owns both parts."""

    source: FlagState
    switch: KillSwitch

    @property
    def killed(self) -> bool:
        return self.source.killed or self.switch.engaged

    @property
    def stale(self) -> bool:
        return self.source.stale

    def evaluate(self, flag: str, context: Mapping[str, Any] | None) -> FlagAnswer:
        return self.source.evaluate(flag, context)
