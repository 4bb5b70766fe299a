"""What can go wrong with flags, and who is told. A request never sees one of these: a decision is total.

* FlagsError
  * FlagFileError     whoever starts the process; later only `FlagFile.problem`, and the last good flags stay
  * KillSwitchError   the operator who asked; this process obeys all the same, others may not have heard
  * FlagAdminError    the controller, which holds: the flag could not be read or written
    * FlagChanged     the same: somebody else changed it first, and nothing was written
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
    """The flag is not what the writer has last read; nothing was written."""
