"""This machine's clock beside the `Date` of an answer. Pure."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from proxy.doctor.findings.asking import Reply
from proxy.doctor.findings.diagnosis import Diagnosis, ok, skipped, warn

WHOLE_SECONDS_S = 1.0
"""`Date` has no parts of a second."""

TOLERATED_S = 1.0
"""Clocks of proxies and controller should agree to a second."""


def clock(check: str, reply: Reply) -> Diagnosis:
    return compared(check, reply.headers.get("date"), reply.whole_at, reply.took_s)


def compared(check: str, date: str | None, now: datetime, took_s: float) -> Diagnosis:
    """Diagnose the two clocks by a `Date`.

    Args:
        check: the finding's name.
        date: the field's value. None: the answer has none.
        now: when the answer was whole.
        took_s: how long it took: the server may have written the date at any time within.
    """
    try:
        told = parsedate_to_datetime(date or "")
    except ValueError:
        return skipped(check, "the answer has no Date that can be read")
    ahead_s = (now - told.replace(tzinfo=told.tzinfo or UTC)).total_seconds()
    if -TOLERATED_S <= ahead_s <= took_s + WHOLE_SECONDS_S + TOLERATED_S:
        return ok(check, "agrees with this machine's, as far as Date tells")
    way = "ahead of" if ahead_s > 0 else "behind"
    return warn(
        check,
        f"this machine's clock is {abs(ahead_s):.0f} s {way} it",
        "Set both clocks by NTP: tokens, schedules and a rollout's evidence compare times.",
    )
