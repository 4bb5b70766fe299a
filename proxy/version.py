"""The commit of this Headgate. `git archive` writes it into `commit.txt`; a checkout names none."""

import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

COMMIT = Path(__file__).with_name("commit.txt")


@cache
def release(written: str | None = None) -> str:
    """The version with its commit, as metrics, spans and the page have it: `0.1.0+1a2b3c4`, or `0.1.0` if the
    commit is not known."""
    commit = _commit(written)
    return version("headgate") + (f"+{commit}" if commit else "")


def of_commit(written: str | None = None) -> str:
    """The text after the version: ` (commit 1a2b3c4)`, or nothing if the commit is not known."""
    commit = _commit(written)
    return f" (commit {commit})" if commit else ""


def _commit(written: str | None) -> str:
    text = (COMMIT.read_text(encoding="ascii") if written is None else written).strip()
    return text if re.fullmatch(r"[0-9a-f]{7,40}", text) else ""
