"""Which of the upstream's model calls is which stage: a route's calls, ready to be matched. No I/O."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.llm.dialects.dialect import Prompt
from proxy.settings.sources import TapSettings
from proxy.text.sections import Section


@dataclass(frozen=True, slots=True)
class CallPlace:
    """One of the calls that a route names."""

    section: Section | None
    model: re.Pattern[str] | None
    system: re.Pattern[str] | None

    def allows(self, prompt: Prompt) -> bool:
        return (self.model is None or self.model.search(prompt.model) is not None) and (
            self.system is None or self.system.search(prompt.system) is not None
        )


def compile_calls(settings: TapSettings, sections: Sequence[Section]) -> tuple[CallPlace, ...]:
    """A route's calls, ready to be matched."""
    by_stage = {section.stage: section for section in sections}
    return tuple(
        CallPlace(
            by_stage[call.stage] if call.stage is not None else None,
            re.compile(call.model) if call.model else None,
            re.compile(call.system) if call.system else None,
        )
        for call in settings.calls
    )


def allowed(places: Sequence[CallPlace], prompt: Prompt) -> list[int]:
    """The places that a call may take, by its patterns."""
    return [index for index, place in enumerate(places) if place.allows(prompt)]
