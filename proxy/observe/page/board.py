"""The state of a replica now, as the page and its stream show it. No content, no user, no secret.

Each process has a `Board` of itself. Where several serve, each keeps its own in a file that all can read, and
whoever is asked adds them up.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any, Protocol

import orjson

from proxy.observe.page.recent_counts import RecentCounts
from proxy.settings.blocks.route import RouteSettings

FRESH_S = 10.0
"""A process whose file is older is gone, and nobody looks if nobody has for so long."""

PARENT = "parent"
"""The file with the warnings of the process that serves nothing itself."""

MOST_PROCESSES = 64
MOST_WARNINGS = 50


class LiveRuns(Protocol):
    """The runs of this process."""

    draining: bool

    def live_routes(self) -> Iterable[str]: ...


class UpstreamBreaker(Protocol):
    """The circuit breaker of the upstream."""

    @property
    def state(self) -> str: ...


class WarningLines(Protocol):
    """The last warnings of this process's log."""

    seen: int
    """The number of warnings since the process began."""

    def lines(self) -> Sequence[dict[str, Any]]:
        """The last of them; each has `at`, in Unix time."""


@dataclass(frozen=True, slots=True)
class Board:
    """The figures of this process."""

    routes: Sequence[RouteSettings]
    runs: LiveRuns
    breaker: UpstreamBreaker
    warnings: WarningLines
    counts: RecentCounts[tuple[str, ...]]
    viewers: Callable[[], Mapping[str, float]]
    """Open streams, by route."""
    directory: Path
    """The directory in which the processes of a replica keep theirs."""
    began_at: float = field(default_factory=time)
    """Unix time."""

    def own(self) -> dict[str, Any]:
        """The figures of this process, as JSON has them."""
        live, viewers = Counter(self.runs.live_routes()), self.viewers()
        return {
            "process": os.getpid(),
            "began_at": self.began_at,
            "draining": self.runs.draining,
            "breaker": str(self.breaker.state),
            "live": dict(live),
            "viewers": {name: int(count) for name, count in viewers.items() if count},
            "counts": [[*key, count] for key, count in sorted(self.counts.counts().items())],
            "seen_warnings": self.warnings.seen,
            "warnings": list(self.warnings.lines()),
        }

    def keep(self) -> None:
        """Let the other processes read the figures of this one, while somebody looks at any of them. A full
        disk costs only that."""
        self.counts.look(time())
        if not _is_fresh(self._watched):
            return
        path = self.directory / f"{os.getpid()}.json"
        draft = path.with_suffix(".draft")
        with suppress(OSError):
            draft.write_bytes(orjson.dumps(self.own()))
            draft.replace(path)

    def close(self) -> None:
        """This process is gone: nobody counts it any more."""
        with suppress(OSError):
            (self.directory / f"{os.getpid()}.json").unlink(missing_ok=True)

    def all(self) -> list[dict[str, Any]]:
        """The figures of all processes of this replica, this one first. Those of the others come from the
        second call on: they are told by the first that somebody looks."""
        with suppress(OSError):
            self.directory.mkdir(exist_ok=True)
            self._watched.touch()
        return [self.own(), *self._others()]

    def parent(self) -> list[dict[str, Any]]:
        """The warnings of the process that serves nothing itself, such as `worker died`, if there are any."""
        with suppress(OSError, json.JSONDecodeError):
            return [orjson.loads((self.directory / PARENT).read_bytes())]
        return []

    @property
    def _watched(self) -> Path:
        """A file that is touched while somebody looks."""
        return self.directory / "watched"

    def _others(self) -> Iterable[dict[str, Any]]:
        paths = sorted(self.directory.glob("*.json"))[:MOST_PROCESSES]
        for path in paths:
            with suppress(OSError, json.JSONDecodeError):
                if path.stem != str(os.getpid()) and _is_fresh(path):
                    yield orjson.loads(path.read_bytes())


def _is_fresh(path: Path) -> bool:
    try:
        return time() - path.stat().st_mtime < FRESH_S
    except OSError:
        return False


def routes_of(
    routes: Sequence[RouteSettings], processes: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each route with what all processes count of it."""
    counts = summed(processes)
    return [
        {
            "name": route.name,
            "flag": route.flag,
            "source": route.source,
            "live": sum(each["live"].get(route.name, 0) for each in processes),
            "viewers": sum(each["viewers"].get(route.name, 0) for each in processes),
            "decisions": _nested(counts, "decision", route.name),
            "runs": _nested(counts, "run", route.name),
            "parity": {key[2]: count for key, count in counts.items() if key[:2] == ("parity", route.name)},
        }
        for route in routes
    ]


def summed(processes: Sequence[Mapping[str, Any]]) -> Counter[tuple[str, ...]]:
    """The counts of the last minutes, over all processes."""
    counts: Counter[tuple[str, ...]] = Counter()
    for process in processes:
        for *key, count in process["counts"]:
            counts[tuple(key)] += count
    return counts


def warnings_of(processes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The last warnings of all processes, the newest first."""
    lines = [{**line, "process": each["process"]} for each in processes for line in each["warnings"]]
    return sorted(lines, key=lambda line: float(line["at"]), reverse=True)[:MOST_WARNINGS]


def _nested(counts: Mapping[tuple[str, ...], int], kind: str, name: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for key, count in counts.items():
        if key[:2] == (kind, name):
            found.setdefault(key[2], {})[key[3]] = count
    return found
