"""What a dialect makes of a stream's events."""

import json
from typing import Any

from proxy.llm.assembly.dialect import Dialect


def assembled(dialect: Dialect, *events: Any, choices: int | None = 1) -> tuple[dict[str, Any], str]:
    """The answer that these events make, and the text that was shown. The last event completes it."""
    assembler = dialect.assembler(choices)
    shown, had_ended = "", []
    for event in events:
        had_ended.append(assembler.is_complete)
        shown += assembler.feed(json.dumps(event))
    assert assembler.is_complete and not any(had_ended)
    return json.loads(assembler.answer()), shown
