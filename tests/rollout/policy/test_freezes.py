"""Times in which nothing advances, over changes of the clock in both halves of the world."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flags.rollout.policy.freezes import Freeze, frozen

BERLIN = "Europe/Berlin"


def freeze(*windows: dict[str, Any], zone: str = BERLIN) -> Freeze:
    return Freeze.model_validate({"zone": zone, "windows": windows})


def at(moment: str) -> datetime:
    """UTC."""
    return datetime.fromisoformat(moment).replace(tzinfo=UTC)


def until(window: Freeze, moment: str) -> str | None:
    """Return when the freeze of this moment ends; None if there is none."""
    found = frozen(window, at(moment))
    return None if found is None else found.rpartition(" until ")[2]


WEEKEND = freeze({"days": ["fri"], "from": "15:00", "to": "24:00"}, {"days": ["sat", "sun"]})


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-05-08T12:59", None),  # Friday, 14:59 in Berlin
        ("2026-05-08T13:00", "2026-05-11T00:00+02:00"),
        ("2026-05-10T21:59", "2026-05-11T00:00+02:00"),
        ("2026-05-10T22:00", None),
        ("2026-03-27T13:59", None),  # winter time until Sunday
        ("2026-03-27T14:00", "2026-03-30T00:00+02:00"),  # and summer time when it ends
        ("2026-03-29T21:59", "2026-03-30T00:00+02:00"),
        ("2026-03-29T22:00", None),
        ("2026-10-25T22:59", "2026-10-26T00:00+01:00"),  # a Sunday of 25 hours
        ("2026-10-25T23:00", None),
    ],
)
def test_windows_that_touch_are_one_freeze(moment: str, expected: str | None) -> None:
    """From Friday afternoon to Monday, by the clock of the place, also when it changes in between."""
    assert until(WEEKEND, moment) == expected


GAP = freeze({"dates": ["2026-03-29"], "from": "02:30", "to": "04:00"})
INTO_GAP = freeze({"dates": ["2026-03-29"], "from": "01:00", "to": "02:30"})
FOLD = freeze({"dates": ["2026-10-25"], "from": "01:00", "to": "02:30"})
FROM_FOLD = freeze({"dates": ["2026-10-25"], "from": "02:30", "to": "02:45"})


@pytest.mark.parametrize(
    ("window", "moment", "expected"),
    [
        (GAP, "2026-03-29T00:59:59", None),
        (GAP, "2026-03-29T01:00", "2026-03-29T04:00+02:00"),
        (INTO_GAP, "2026-03-29T00:59:59", "2026-03-29T03:00+02:00"),
        (INTO_GAP, "2026-03-29T01:00", None),
        (FOLD, "2026-10-24T23:00", "2026-10-25T02:30+01:00"),
        (FOLD, "2026-10-25T00:45", "2026-10-25T02:30+01:00"),  # 02:45, the first time
        (FOLD, "2026-10-25T01:29:59", "2026-10-25T02:30+01:00"),
        (FOLD, "2026-10-25T01:30", None),  # 02:30, the second time
        (FROM_FOLD, "2026-10-25T00:29:59", None),
        (FROM_FOLD, "2026-10-25T00:30", "2026-10-25T02:45+01:00"),
        (FROM_FOLD, "2026-10-25T01:15", "2026-10-25T02:45+01:00"),
    ],
)
def test_a_change_of_the_clock_never_makes_a_freeze_shorter(
    window: Freeze, moment: str, expected: str | None
) -> None:
    """A time that is skipped is the moment of the change; one that comes twice begins early and ends late."""
    assert until(window, moment) == expected


SYDNEY = freeze({"dates": ["2026-10-04"], "from": "02:30", "to": "06:00"}, zone="Australia/Sydney")
SYDNEY_FOLD = freeze({"dates": ["2026-04-05"], "from": "00:00", "to": "02:30"}, zone="Australia/Sydney")
SANTIAGO = freeze({"days": ["sun"]}, zone="America/Santiago")
"""There the change is at midnight: 2026-09-06 begins at one o'clock."""

KIRITIMATI = freeze({"dates": ["2026-01-01"]}, zone="Pacific/Kiritimati")


@pytest.mark.parametrize(
    ("window", "moment", "expected"),
    [
        (SYDNEY, "2026-10-03T15:59:59", None),
        (SYDNEY, "2026-10-03T16:00", "2026-10-04T06:00+11:00"),
        (SYDNEY, "2026-10-03T19:00", None),
        (SYDNEY_FOLD, "2026-04-04T15:45", "2026-04-05T02:30+10:00"),
        (SYDNEY_FOLD, "2026-04-04T16:30", None),
        (SANTIAGO, "2026-09-06T03:59:59", None),
        (SANTIAGO, "2026-09-06T04:00", "2026-09-07T00:00-03:00"),
        (SANTIAGO, "2026-09-07T02:59:59", "2026-09-07T00:00-03:00"),
        (SANTIAGO, "2026-04-05T03:30", None),  # Saturday 23:30, the second time
        (SANTIAGO, "2026-04-05T04:00", "2026-04-06T00:00-04:00"),
        (KIRITIMATI, "2025-12-31T09:59:59", None),
        (KIRITIMATI, "2025-12-31T10:00", "2026-01-02T00:00+14:00"),
    ],
)
def test_the_south_and_the_far_east_have_clocks_too(
    window: Freeze, moment: str, expected: str | None
) -> None:
    """Summer begins there in October, at midnight in some places; and the year 14 hours before UTC's."""
    assert until(window, moment) == expected


NIGHT = freeze({"days": ["sun"], "from": "22:00", "to": "06:00"})
HOLIDAYS = freeze({"dates": ["2026-12-20", "2027-01-06"]})
MONDAYS_OF_MAY = freeze(
    {"days": ["mon"], "dates": ["2026-05-01", "2026-05-31"], "from": "08:00", "to": "9:30"}
)


@pytest.mark.parametrize(
    ("window", "moment", "expected"),
    [
        (NIGHT, "2026-05-10T19:59", None),
        (NIGHT, "2026-05-11T03:59", "2026-05-11T06:00+02:00"),
        (NIGHT, "2026-05-11T20:30", None),
        (NIGHT, "2026-03-29T01:30", None),  # it began on Saturday: no Sunday's night
        (HOLIDAYS, "2026-12-19T22:59", None),
        (HOLIDAYS, "2026-12-19T23:00", "2027-01-07T00:00+01:00"),
        (HOLIDAYS, "2027-01-06T22:59", "2027-01-07T00:00+01:00"),
        (MONDAYS_OF_MAY, "2026-05-04T06:00", "2026-05-04T09:30+02:00"),
        (MONDAYS_OF_MAY, "2026-05-04T07:30", None),
        (MONDAYS_OF_MAY, "2026-06-01T06:00", None),
    ],
)
def test_nights_dates_and_both_together(window: Freeze, moment: str, expected: str | None) -> None:
    """A night belongs to the day on which it begins; days and dates together mean both."""
    assert until(window, moment) == expected


def test_the_reason_names_the_window_and_the_place() -> None:
    """So that who waits knows whom to ask."""
    assert frozen(WEEKEND, at("2026-05-08T13:00")) == (
        "frozen by fri, 15:00-24:00 (Europe/Berlin) until 2026-05-11T00:00+02:00"
    )


def test_a_freeze_without_an_end_says_so() -> None:
    """Every day, all day: that was hardly meant."""
    always = freeze({"from": "00:00", "to": "24:00"})

    assert "no end in sight" in str(frozen(always, at("2026-05-08T13:00")))


def test_without_a_freeze_nothing_is_frozen() -> None:
    """The policy need not have one."""
    assert frozen(None, at("2026-05-08T13:00")) is None


def test_a_moment_without_a_zone_is_refused() -> None:
    """It would be taken for the machine's own time."""
    with pytest.raises(ValueError, match="time zone"):
        frozen(WEEKEND, datetime(2026, 5, 8, 13))


ZONES = ("Europe/Berlin", "Australia/Lord_Howe", "America/Santiago", "Africa/Casablanca", "UTC")


@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)),
    st.sampled_from(ZONES),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(1, 24),
)
def test_a_freeze_holds_whenever_the_clock_on_the_wall_says_so(
    moment: datetime, zone: str, hour: int, minute: int, hours: int
) -> None:
    """Every moment at which the local time is within the window is frozen, in any zone, at any change."""
    to_hour = min(hour + hours, 24)
    window = freeze(
        {"from": f"{hour:02}:{minute:02}", "to": f"{to_hour:02}:{minute % 60 if to_hour < 24 else 0:02}"},
        zone=zone,
    )
    wall = moment.replace(tzinfo=UTC).astimezone(ZoneInfo(zone))
    begin = timedelta(hours=hour, minutes=minute)
    end = timedelta(hours=to_hour, minutes=minute if to_hour < 24 else 0)
    time_of_day = timedelta(hours=wall.hour, minutes=wall.minute, seconds=wall.second)

    if begin <= time_of_day < end:
        assert frozen(window, moment.replace(tzinfo=UTC)) is not None
