"""What can go wrong with flags, and who is told. A request never sees one of these: a decision is total.

* FlagsError
  * FlagFileError     whoever starts the process; later only `FlagFile.problem`, and the last good flags stay
  * KillSwitchError   the operator who asked; this process obeys all the same, others may not have heard
  * FlagAdminError    the controller, which holds: the flag could not be read or written
    * FlagChanged     the same: somebody else changed it first
  * JournalError      the controller, which stops: what it did and why could not be kept
    * JournalBroken   the same: what was kept is not what was written
  * LeaseError        the controller, which holds: nobody can say who the one writer is
    * LeaseLost       the same: this process is not, or no longer
"""

from pathlib import Path


class FlagsError(Exception):
    """The base of everything this package raises on purpose."""


class FlagFileError(FlagsError):
    """The flag file is missing, unreadable or refused; `problem` says where and what would mend it."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"flag file {path}: {problem}")
        self.problem = problem


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


class JournalError(FlagsError):
    """The journal can be neither read nor written, or is another's; says what would mend it."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"journal {path}: {problem}")
        self.problem = problem


class JournalBroken(JournalError):
    """An entry is not what was written, or is not there. `seq` is the first of which this is so."""

    def __init__(self, path: Path, seq: int, problem: str) -> None:
        super().__init__(path, f"entry {seq} {problem}")
        self.seq = seq


class LeaseError(FlagsError):
    """It could be neither had nor refused; says what was asked and what came back, and never a token."""


class LeaseLost(LeaseError):
    """This process is not the one writer now. It must not write."""
