"""What can go wrong with flags, and who is told. A request never sees one of these: a decision is total.

* FlagsError
  * FlagDocumentError nobody by itself: whoever read the document says which one it was
  * FlagFileError     whoever starts the process; later only `FlagFile.problem`, and the last good flags stay
  * FlagServerError   whoever checks the settings; else only `UnleashFlags.problem`, and the same
  * KillSwitchError   the operator who asked; this process obeys all the same, others may not have heard
  * FlagAdminError    the controller, which holds: the flag could not be read or written
    * FlagChanged     the same: somebody else changed it first, and nothing was written
"""

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
    """The flag is not what the writer has last read; nothing was written."""
