"""A reading as bytes, in which the journal keeps what the next one is compared with. Pure."""

from collections import defaultdict
from typing import Any

import orjson

from flags.errors import InvalidReading
from flags.rollout.evidence.readings import Reading, Series


def to_bytes(reading: Reading) -> bytes:
    """The bytes to store. Equal readings give equal bytes."""
    rows: dict[str, dict[str, list[list[str | int]]]] = defaultdict(lambda: defaultdict(list))
    for series in sorted(reading.counters):
        rows[series.instance][series.metric].append([*series.labels, reading.counters[series]])
    said = {
        "at_s": reading.at_s,
        "counters": rows,
        "seen": reading.seen,
        "users": reading.users,
        "missing": reading.missing,
        "started": reading.started,
        "since_s": reading.since_s,
    }
    return orjson.dumps(said, option=orjson.OPT_SORT_KEYS)


def from_bytes(content: bytes) -> Reading:
    """The reading that `to_bytes` has stored. Raises InvalidReading for any other bytes."""
    try:
        said: dict[str, Any] = orjson.loads(content)
        counters = {
            Series(metric, instance, tuple(labels)): n
            for instance, metrics in said["counters"].items()
            for metric, rows in metrics.items()
            for *labels, n in rows
        }
        return Reading(
            said["at_s"],
            counters,
            said["seen"],
            said["users"],
            tuple(said["missing"]),
            started=said.get("started", {}),  # which older controllers did not store
            since_s=said.get("since_s"),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidReading("what was stored is no reading: begin with a new one") from None
