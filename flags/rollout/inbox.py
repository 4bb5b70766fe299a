"""Acts of people on their way into the journal, which has one writer: a directory beside it.

A command writes an act whole; the controller journals it and then removes it. After a crash between the two,
the act is found again, and known by its id.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from flags.errors import RolloutError
from flags.rollout.ledger import Act

MAX_ACTS = 100
"""Acts that wait at a time; more of them mean that no controller runs."""

MAX_REASON_CHARS = 1000


@dataclass(frozen=True, slots=True)
class ActRequest:
    """An act that a person asks for."""

    what: Act
    by: str
    reason: str
    seen: int
    """The journal's last entry when the person asked, and so the evidence that they saw."""
    id: str

    def body(self) -> dict[str, Any]:
        """The body of its journal entry."""
        return asdict(self)


def act_request(what: Act, by: str, reason: str, seen: int) -> ActRequest:
    """A new request. Raises RolloutError without a reason, or with one that is too long."""
    reason = " ".join(reason.split())
    if not reason or len(reason) > MAX_REASON_CHARS:
        raise RolloutError(f"--reason must say why, in up to {MAX_REASON_CHARS} characters")
    return ActRequest(what, by, reason, seen, uuid.uuid4().hex)


class Inbox:
    """The directory beside a journal."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_name(f"{journal.name}.inbox")

    def put(self, request: ActRequest) -> None:
        """Keep a request. Raises RolloutError if it cannot be written, or if too many wait already."""
        try:
            self._path.mkdir(exist_ok=True)
            if len(self._names()) >= MAX_ACTS:
                raise RolloutError(f"{self._path}: {MAX_ACTS} acts wait already; no controller runs")
            draft = self._path / f".{request.id}"
            with draft.open("wb") as file:
                file.write(orjson.dumps(request.body()))
                file.flush()
                os.fsync(file.fileno())
            # By the clock, so that acts are taken in the order in which they were put.
            draft.rename(self._path / f"{draft.stat().st_mtime_ns:020}-{request.id}")
        except OSError as exc:
            raise RolloutError(f"{self._path}: cannot be written: {exc.strerror}") from exc

    def waiting(self) -> Iterator[tuple[Path, ActRequest]]:
        """The requests that wait, the oldest first; the caller calls `done` for each that is journaled."""
        for name in self._names():
            path = self._path / name
            try:
                body = orjson.loads(path.read_bytes())
                yield path, ActRequest(**{**body, "what": Act(body["what"])})
            except (OSError, ValueError, TypeError, KeyError):
                self.done(path)  # no command wrote this: requests are written whole

    @staticmethod
    def done(path: Path) -> None:
        with suppress(OSError):
            path.unlink()

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._path) if not name.startswith("."))
        except FileNotFoundError:
            return []
