"""The evidence of each tick: what settled between two readings, and for how long that counts."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from flags.errors import EvidenceError, InvalidReading
from flags.rollout.evidence.evidence import APART, ELIGIBLE, Batch, ComparedArm
from flags.rollout.evidence.growth import between, carried
from flags.rollout.evidence.readings import Reading, Readings
from flags.rollout.evidence.watermark import from_bytes, to_bytes
from flags.rollout.moves import Change
from flags.rollout.tick.drift import FlagDrift

MOST_IDLE_S = 3600.0
"""Time without a request of the stream arm that counts as time in the step, at most."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The two clocks of a machine, since either alone can mislead."""

    wall: Callable[[], float]
    """Unix time."""
    monotonic: Callable[[], float]


class ClockWatch:
    """Notices that somebody set the clock of this machine."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._drift_s: float | None = None

    def jump_s(self) -> float:
        """Seconds by which the wall clock was set since the last call."""
        drift_s = self._clocks.wall() - self._clocks.monotonic()
        jump_s = 0.0 if self._drift_s is None else drift_s - self._drift_s
        self._drift_s = drift_s
        return jump_s


@dataclass(frozen=True, slots=True)
class TickEvidence:
    """The requests that settled since the last tick, or why they are not known."""

    batch: Batch | None = None
    problem: str = ""
    proxies_change: bool = False
    dwelt_s: float = 0.0
    """Time since the last tick that counts as time in the step."""
    idle_s: float = 0.0
    """Time that will count with the next answer of the stream arm."""

    def timed(self, drift: FlagDrift | None, stale_after_s: float) -> "TickEvidence":
        """With the time in which users got what was written: time without evidence of that does not count.

        More than `stale_after_s` between two readings was an outage. The flag must be as it was written,
        before and after. Idle time counts up to an hour, once there is an answer of the stream arm again:
        a night is no test, and no outage either.

        Args:
            drift: of the flag; None: it could not be read.
            stale_after_s: as the policy has it.
        """
        if drift is None or drift.flag.killed or drift.state.was_unknown or drift.state.was_changed:
            return self
        state = drift.state
        if self.batch is None:
            return replace(self, idle_s=state.idle_s)
        took_s = self.batch.until_s - self.batch.since_s
        if took_s > stale_after_s or drift.change is not Change.NONE:
            return self
        if not self.batch.total(ComparedArm.STREAM, ELIGIBLE | APART):
            return replace(self, idle_s=state.idle_s + took_s)
        return replace(self, dwelt_s=took_s + min(state.idle_s, MOST_IDLE_S))


class EvidenceWindow:
    """The last reading, from which the next look counts on."""

    def __init__(self, readings: Readings, wall: Callable[[], float]) -> None:
        self._readings = readings
        self._wall = wall
        self._last: Reading | None = None
        self._proxies: frozenset[str] | None = None

    def restart(self, watermark: bytes | None = None) -> None:
        """Count on from a watermark of the journal; without one, from the next look."""
        self._last = None if watermark is None else from_bytes(watermark)

    @property
    def watermark(self) -> bytes | None:
        """The last reading, for the journal."""
        return None if self._last is None else to_bytes(self._last)

    @property
    def killed_s(self) -> float:
        """The time at which a proxy last found the kill flag on, in Unix time; 0 where that is not known."""
        return 0.0 if self._last is None else self._last.killed_s

    async def now(self) -> Reading | None:
        """A reading beside those that are counted from; None where there is none."""
        try:
            return await self._readings.read(self._wall())
        except EvidenceError:
            return None

    async def look(self, step: int) -> TickEvidence:
        """The counts that settled in this step since the last look; the first look only begins to count."""
        before = self._last
        try:
            reading = await self._readings.read(self._wall(), before)
            if before is not None and reading.at_s <= before.at_s:
                self._last = None  # or nothing would count until the clock has caught up
                raise InvalidReading("the clock went back; counting begins anew")
            batch = None if before is None else between(before, reading, step)
        except EvidenceError as exc:
            return TickEvidence(problem=exc.sentence)
        self._last = reading if before is None else carried(before, reading)
        proxies, self._proxies = self._proxies, frozenset(reading.seen)
        changed = proxies is not None and proxies != self._proxies
        if step < 0:
            batch = None  # nothing was written yet, so nobody is exposed
        return TickEvidence(batch, proxies_change=changed or bool(reading.missing))
