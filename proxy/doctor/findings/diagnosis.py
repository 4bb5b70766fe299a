"""The findings of a check, and the words for them. Pure: no I/O, no clock.

A finding has no secret in it: no token, no header's value, no body.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Grade(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    """It works, and something is lost or will fail later."""
    FAIL = "fail"
    """It does not work."""
    SKIPPED = "skipped"
    """It was not asked for, or what it needs is not there."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One sentence of what was seen, and one of what to do about it."""

    check: str
    """The check's name, with what it is about: `provider openai`."""
    status: Grade
    seen: str
    advice: str = ""
    """Set for `warn` and `fail`; for `skipped` it says how to have it checked."""


def ok(check: str, seen: str) -> Diagnosis:
    return Diagnosis(check, Grade.OK, seen)


def warn(check: str, seen: str, advice: str) -> Diagnosis:
    return Diagnosis(check, Grade.WARN, seen, advice)


def fail(check: str, seen: str, advice: str) -> Diagnosis:
    return Diagnosis(check, Grade.FAIL, seen, advice)


def skipped(check: str, seen: str, advice: str = "") -> Diagnosis:
    return Diagnosis(check, Grade.SKIPPED, seen, advice)


def exit_code(findings: Iterable[Diagnosis]) -> int:
    """0: all is fine, or was skipped. 1: there is something to do."""
    return int(any(finding.status in {Grade.WARN, Grade.FAIL} for finding in findings))


def as_json(findings: Sequence[Diagnosis]) -> str:
    """One document: `{"ok": …, "findings": [{"check", "status", "seen", "advice"}]}`."""
    document = {"ok": exit_code(findings) == 0, "findings": [asdict(finding) for finding in findings]}
    return json.dumps(document, indent=2, ensure_ascii=False)


def as_line(finding: Diagnosis) -> str:
    """Return the finding for people, and under it what to do."""
    mark = {Grade.WARN: "WARN", Grade.FAIL: "FAIL"}.get(finding.status, finding.status.value)
    said = f"{mark:<8}{finding.check}: {finding.seen}"
    return f"{said}\n        → {finding.advice}" if finding.advice else said
