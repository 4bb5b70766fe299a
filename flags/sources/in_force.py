"""The flags in force in one process: the engine, the time of the last confirmation, and the kill flag.

No I/O and no task: the reader of a file or a server hands in what it found. All calls come from the event
loop's own thread, so that no answer comes from an engine that was just closed.
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from flags.arms import FlagInForce, Placement
from flags.decision import FlagAnswer
from flags.document import Document
from flags.engine import UNKNOWN, Engine
from flags.errors import FlagDocumentError

_log = logging.getLogger("headgate.flags")

REFUSED = "the evaluation engine refuses it; look at its constraints, segments and variants"


class Condition:
    """The present problem of something, if there is one. Each change is one log line."""

    def __init__(self, what: str, meanwhile: str = "what was known last stays in force") -> None:
        self._what = what
        self._meanwhile = meanwhile
        self.problem: str | None = None

    def report(self, problem: str | None) -> None:
        if problem == self.problem:
            return
        self.problem = problem
        if problem is None:
            _log.info("%s: good again", self._what)
        else:
            _log.warning("%s: %s; %s", self._what, problem, self._meanwhile)


class InForce:
    """The flags in force. Before the first `take`, and after `close`, there are none, and they are stale."""

    def __init__(self, what: str, *, kill_flag: str, stale_s: float, clock: Callable[[], float]) -> None:
        self._what = what
        self._kill_flag = kill_flag
        self._stale_s = stale_s
        self._clock = clock
        self._engine: Engine | None = None
        self._state = ""
        self._enabled: frozenset[str] = frozenset()
        self._good_at = -math.inf
        self.killed = False
        """Whether the kill flag was on at the last `take` or `confirm`. A flag that is gone keeps its last
        state."""
        self._is_orphaned = False

    @property
    def age_s(self) -> float:
        """Seconds since the flags were last known to be right; infinite if they never were."""
        return self._clock() - self._good_at

    @property
    def stale(self) -> bool:
        return self.age_s > self._stale_s

    def evaluate(self, flag: str, context: Mapping[str, Any] | None) -> FlagAnswer:
        """Ask one flag about one user. Raises TypeError for a context that is not Unicode text."""
        return UNKNOWN if self._engine is None else self._engine.ask(flag, context)

    def placed(self, flag: str, context: Mapping[str, Any] | None) -> Placement | None:
        """A user's place in the flag's arms; None for a flag without arms."""
        return None if self._engine is None else self._engine.placed(flag, context)

    def found(self, flag: str) -> FlagInForce:
        """A flag as it is now."""
        if self._engine is None:
            return FlagInForce(known=False)
        return self._engine.found(flag, enabled=flag in self._enabled)

    def lacking(self, flags: Collection[str]) -> list[str]:
        """The flags among these that are not in force."""
        return [flag for flag in flags if not self.evaluate(flag, None).known]

    def take(self, document: Document) -> None:
        """Put these flags in force; an equal document changes nothing. Raises FlagDocumentError."""
        if document.state == self._state:
            return
        self._swap(self._load(document))
        self._state, self._enabled = document.state, document.enabled
        self._ask_whether_to_kill()
        _log.info("%s: applied, %d flags", self._what, len(document.names))
        for warning in document.warnings:
            _log.warning("%s: %s", self._what, warning)
        if self._kill_flag in document.enabled and not self.killed:
            warning = "%s: %s is on but kills nothing: its strategies ask who the user is; remove them"
            _log.warning(warning, self._what, self._kill_flag)

    def confirm(self, as_of: float) -> None:
        """Note that the flags in force equal those of the file or server, as of `as_of` (seconds of the
        clock)."""
        self._good_at = as_of
        self._ask_whether_to_kill()  # a constraint on the time may turn the kill flag on

    def close(self) -> None:
        self._swap(None)
        self._state = ""
        self._good_at = -math.inf
        self.killed = False

    def _load(self, document: Document) -> Engine:
        engine = Engine(document.state, document.arms)
        if engine.names != document.names:
            engine.close()
            raise FlagDocumentError(REFUSED)
        return engine

    def _swap(self, engine: Engine | None) -> None:
        old, self._engine = self._engine, engine
        if old is not None:
            old.close()

    def _ask_whether_to_kill(self) -> None:
        answer = self.evaluate(self._kill_flag, None)
        if answer.known:
            self.killed = answer.enabled
            self._is_orphaned = False
        elif self.killed and not self._is_orphaned:
            self._is_orphaned = True
            warning = "%s: %s is gone while it was on: it stays so until it is there again, and off"
            _log.warning(warning, self._what, self._kill_flag)
