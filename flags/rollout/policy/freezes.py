"""Freezes: weekdays, dates and hours of a time zone in which nothing advances. Pure.

A local time that a clock change skips is the moment of the change. One that comes twice begins a window the
first time and ends it the second. So a window is never shorter than the local clock shows.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from flags.rollout.policy.value_types import PolicyBlock

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

DAY_MIN = 24 * 60
LOOK_AHEAD = 800
"""Adjoining windows, which make one freeze, that are searched for its end."""


_CLOCK = re.compile(r"([0-2]?[0-9]):([0-5][0-9])")


def _clock(value: Any) -> int:
    found = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    minutes = int(found[1]) * 60 + int(found[2]) if found else DAY_MIN + 1
    if minutes > DAY_MIN:
        # YAML 1.1 reads 15:00 without quotes as the number 900.
        raise ValueError('must be a time of day in quotes, "00:00" to "24:00"')
    return minutes


def _date(value: Any) -> date:
    if type(value) is date:  # and no datetime, which is one too
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("must be a date, for example 2026-12-20") from None


def _zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError("must be an IANA time zone, for example Europe/Berlin or UTC")
    return value


TimeOfDay = Annotated[
    int,
    BeforeValidator(_clock, json_schema_input_type=Annotated[str, Field(pattern=f"^{_CLOCK.pattern}$")]),
]
Date = Annotated[date, BeforeValidator(_date)]


class Window(PolicyBlock):
    """Every local day that is in `days` and in `dates`, as far as they are given, `from` .. `to`."""

    days: Annotated[tuple[Day, ...], Field(min_length=1)] | None = None
    """Weekdays on which it begins."""
    dates: Annotated[tuple[Date, ...], Field(min_length=1, max_length=2)] | None = None
    """One date, or the first and the last."""
    from_min: TimeOfDay = Field(
        default=0,
        alias="from",
        validate_default=False,
        json_schema_extra={"kind": "time of day", "default": '`"00:00"`'},
    )
    """Local time at which it begins."""
    to_min: TimeOfDay = Field(
        default=DAY_MIN,
        alias="to",
        validate_default=False,
        json_schema_extra={"kind": "time of day", "default": '`"24:00"`'},
    )
    """Local time at which it ends; if that is not after `from`, on the day after."""

    @field_validator("dates")
    @classmethod
    def _in_order(cls, value: tuple[date, ...] | None) -> tuple[date, ...] | None:
        if value is not None and value[0] > value[-1]:
            raise ValueError("must be the first date, then the last")
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("must say when: `days`, `dates`, or `from` and `to`")
        return self

    def begins_on(self, day: date) -> bool:
        in_days = self.days is None or DAYS[day.weekday()] in self.days
        return in_days and (self.dates is None or self.dates[0] <= day <= self.dates[-1])

    def __str__(self) -> str:
        parts = [" ".join(self.days)] if self.days else []
        parts += [f"{self.dates[0]} to {self.dates[-1]}"] if self.dates else []
        return ", ".join([*parts, f"{_written(self.from_min)}-{_written(self.to_min)}"])


class Freeze(PolicyBlock):
    """Times in which nothing advances. Going back and the kill switch are never frozen."""

    zone: Annotated[str, AfterValidator(_zone)]
    """IANA name of the place whose clock and calendar count."""
    windows: Annotated[tuple[Window, ...], Field(min_length=1, max_length=100)]
    """Any of them freezes."""


def frozen(freeze: Freeze | None, at_utc: datetime) -> str | None:
    """The freeze at this moment and its end, in words; None without one.

    Raises ValueError for a moment without a time zone.
    """
    if at_utc.tzinfo is None:
        raise ValueError("a moment without a time zone is no moment")
    found = _covering(freeze, at_utc.astimezone(UTC)) if freeze is not None else None
    if freeze is None or found is None:
        return None
    window, end = found
    for _ in range(LOOK_AHEAD):
        following = _covering(freeze, end)
        if following is None:
            local = end.astimezone(ZoneInfo(freeze.zone))
            return f"frozen by {window} ({freeze.zone}) until {local.isoformat(timespec='minutes')}"
        end = following[1]
    return f"frozen by {window} ({freeze.zone}) with no end in sight: look at the windows"


def _covering(freeze: Freeze, moment: datetime) -> tuple[Window, datetime] | None:
    """The window that holds this moment, and its end; of several, the one that ends last."""
    zone = ZoneInfo(freeze.zone)
    today = moment.astimezone(zone).date()
    held = [
        (end, -number)
        for number, window in enumerate(freeze.windows)
        for begin, end in _around(window, today, zone)
        if begin <= moment < end
    ]
    if not held:
        return None
    end, number = max(held)
    return freeze.windows[-number], end


def _around(window: Window, today: date, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
    """Windows that began today or yesterday, as begin and end."""
    over_midnight = DAY_MIN if window.to_min <= window.from_min else 0
    for day in (today - timedelta(days=1), today):
        if window.begins_on(day):
            begin = _moments(day, window.from_min, zone)
            end = _moments(day, window.to_min + over_midnight, zone)
            yield begin[0], end[1]


def _moments(day: date, minutes: int, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The first and the last moment at which the zone's local time is this; equal except in a fold."""
    wall = datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)
    first, last = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if last >= first:
        return first, last
    # The clock skips it: the two readings lie around the moment of the change.
    low, high = int(last.timestamp()), int(first.timestamp())
    before = datetime.fromtimestamp(low, zone).utcoffset()
    offset = bisect_left(
        range(low, high), True, key=lambda s: datetime.fromtimestamp(s, zone).utcoffset() != before
    )
    change = datetime.fromtimestamp(low + offset, UTC)
    return change, change


def _written(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"
