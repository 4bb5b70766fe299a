"""Faults on request: `fault-503` as the model's name or in the header `x-model-fault`.

    fault-<status>        that HTTP status and the provider's error JSON; 429 comes with `retry-after`
    fault-<status>-once   the same for the first call with these messages, success for all others
    fault-format          200, but JSON of another shape
    fault-slow            never starts to answer

In the middle of an answer, which is half of it, or so many tokens as in `fault-cut-3`:

    fault-cut             the connection closes
    fault-stall           nothing more comes
    fault-malformed       one event of the stream is broken JSON, and the rest follows
    fault-error           the stream says that it failed, and ends

In batch mode a cut and a stall come after the same part of the bytes, a malformed body ends there as if it
were whole, and an error is a 500. `fault-503:diagnosis` strikes only prompts of that task.
"""

import re
from dataclasses import dataclass

HEADER = "x-model-fault"
NAME = re.compile(
    r"fault-(?:(?P<status>\d{3})(?P<once>-once)?"
    r"|(?P<kind>format|slow)"
    r"|(?P<late>cut|stall|malformed|error)(?:-(?P<after>\d+))?)"
    r"(?::(?P<task>\w+))?"
)


@dataclass(frozen=True)
class Fault:
    kind: str
    """`status` or one of the other names above."""
    status: int = 0
    is_once: bool = False
    after: int | None = None
    """Tokens that come before it; None: half of them."""

    def strikes_after(self, tokens: int) -> int:
        """Return how many of these tokens come before the fault."""
        return tokens // 2 if self.after is None else min(self.after, tokens)


def find_fault(name: str, task: str) -> Fault | None:
    """The fault that `name` asks for, if it asks for one and `task` is one it strikes."""
    match = NAME.fullmatch(name)
    if match is None or match["task"] not in (None, task):
        return None
    if match["status"]:
        return Fault("status", int(match["status"]), match["once"] is not None)
    after = int(match["after"]) if match["after"] else None
    return Fault(match["kind"] or match["late"], after=after)
