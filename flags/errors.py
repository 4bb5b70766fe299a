"""The errors of flags and rollouts, and who is told. A request never sees one of these: a decision is total.

* FlagsError
  * FlagDocumentError nobody by itself: whoever read the document says which one it was
  * FlagFileError     whoever starts the process; later only `FlagFile.problem`, and the last good flags stay
  * FlagServerError   whoever checks the settings; else only `UnleashFlags.problem`, and the same
  * KillSwitchError   the operator who asked; this process obeys all the same, others may not have heard
  * FlagAdminError    the controller, which holds: the flag could not be read or written
    * FlagChanged     the same: somebody else changed it first
  * PolicyError       whoever starts a rollout; nothing was begun
  * RolloutError      whoever asked for something that a rollout must not do now
  * EvidenceError     the controller, which holds: there is no reading, and none is not zero
    * InvalidReading  the same: there is an answer, and it must not be believed
  * JournalError      the controller, which stops: what it did and why could not be kept
    * JournalBroken   the same: what was kept is not what was written
    * JournalBusy     whoever wanted to write it: another process does
  * LeaseError        the controller, which holds: nobody can say who the one writer is
    * LeaseLost       the same: this process is not, or no longer
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path


class FlagsError(Exception):
    """The base of everything this package raises on purpose."""


class FlagDocumentError(FlagsError):
    """The text of flags is refused; `problem` says where and what would mend it."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class FlagFileError(FlagsError):
    """The flag file is missing, unreadable or refused; `problem` says where and what would mend it."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"flag file {path}: {problem}")
        self.problem = problem


class FlagServerError(FlagsError):
    """The flag server did not give flags that can be used; `problem` says what it did, and never a token."""

    def __init__(
        self, url: str, problem: str, *, is_overload: bool = False, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(f"Unleash {url}: {problem}")
        self.problem = problem
        self.is_overload = is_overload
        """Whether asking less often may help: 429 and 5xx."""
        self.retry_after_s = retry_after_s


class KillSwitchError(FlagsError):
    """The file of the kill switch can be neither read nor changed."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"kill switch {path}: {problem}")
        self.problem = problem


class FlagAdminError(FlagsError):
    """A flag could not be read or written; says what was asked and what came back, and never a token."""


class FlagChanged(FlagAdminError):
    """Somebody else changed the flag since it was last read. `wrote`: our write came through all the same."""

    def __init__(self, problem: str, *, wrote: bool = False) -> None:
        super().__init__(problem)
        self.wrote = wrote


class PolicyError(FlagsError):
    """The policy of a rollout is refused; `problems` has all that is wrong, each with its place and mend."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class RolloutError(FlagsError):
    """An act must not be done now; the message says why, and what to do instead."""


class ReadingProblem(StrEnum):
    """The reason why there is no reading."""

    NO_DATA = "no_data"
    """The server answers, and knows nothing of the proxies."""
    INVALID = "invalid"
    """There is an answer that must not be believed."""
    ERROR = "error"
    """Asking failed."""
    STALE = "stale"
    """The newest counts are too old."""


class EvidenceError(FlagsError):
    """There is no reading. `problem` says why, `sentence` what to look at."""

    def __init__(self, problem: ReadingProblem, sentence: str) -> None:
        super().__init__(f"{problem}: {sentence}")
        self.problem = problem
        self.sentence = sentence


class InvalidReading(EvidenceError):
    """A reading that contradicts itself, or holds what no counter can say."""

    def __init__(self, sentence: str) -> None:
        super().__init__(ReadingProblem.INVALID, sentence)


class JournalError(FlagsError):
    """The journal can be neither read nor written, or is another's; says what would mend it."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"journal {path}: {problem}")
        self.problem = problem


class JournalAbsent(JournalError):
    """There is no journal yet, or it is just being made."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "does not exist; the controller makes it when it first runs")


class JournalBroken(JournalError):
    """An entry is not what was written, or is not there. `seq` is the first of which this is so."""

    def __init__(self, path: Path, seq: int, problem: str) -> None:
        super().__init__(path, f"entry {seq} {problem}")
        self.seq = seq


class JournalBusy(JournalError):
    """Another process writes it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "is being written by another process; there is one writer")


class LeaseError(FlagsError):
    """The lease was neither got nor refused. The message says what was asked and what came back, never a
    token."""


class LeaseLost(LeaseError):
    """This process is not the one writer now. It must not write."""
