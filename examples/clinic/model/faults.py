"""Faults on request: `fault-503` as the model's name or in the header `x-model-fault`.

    fault-<status>      that HTTP status and OpenAI's error JSON
    fault-format        200, but JSON of another shape
    fault-cut           the connection closes after half of the tokens, in batch mode after half of the bytes
    fault-slow          never starts to answer

`fault-503:diagnosis` strikes only prompts of that task.
"""

import re
from dataclasses import dataclass

HEADER = "x-model-fault"
NAME = re.compile(r"fault-(?P<kind>\d{3}|format|cut|slow)(:(?P<task>\w+))?")


@dataclass(frozen=True)
class Fault:
    kind: str

    @property
    def status(self) -> int | None:
        """The HTTP status to answer with, for faults that are one."""
        return int(self.kind) if self.kind.isdigit() else None


def find_fault(name: str, task: str) -> Fault | None:
    """The fault that `name` asks for, if it asks for one and `task` is one it strikes."""
    match = NAME.fullmatch(name)
    if match is None or match["task"] not in (None, task):
        return None
    return Fault(match["kind"])
