"""The commit of this Headgate. `git archive` writes it into `commit.txt`; a checkout names none."""

import re
from pathlib import Path

COMMIT = Path(__file__).with_name("commit.txt")


def of_commit(written: str | None = None) -> str:
    """The text after the version: ` (commit 1a2b3c4)`, or nothing if the commit is not known."""
    text = COMMIT.read_text(encoding="ascii") if written is None else written
    return f" (commit {text.strip()})" if re.fullmatch(r"[0-9a-f]{7,40}\s*", text) else ""
