"""The model calls that a route expects, and the stage of each. No I/O."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jsonpath import JSONPath

from proxy.llm.assembly.dialect import Prompt
from proxy.settings.blocks.sources import TapSettings
from proxy.text.sections import Section, compile_path


@dataclass(frozen=True, slots=True)
class ExpectedCall:
    """One of the model calls that a route's settings name."""

    section: Section | None
    model: re.Pattern[str] | None
    system: re.Pattern[str] | None
    paths: Sequence[JSONPath] = ()
    """The places of the text in the model's JSON, in the order in which it is shown. Empty: the model's text
    is the text."""

    def matches(self, prompt: Prompt) -> bool:
        return (self.model is None or self.model.search(prompt.model) is not None) and (
            self.system is None or self.system.search(prompt.system) is not None
        )


def compile_calls(settings: TapSettings, sections: Sequence[Section]) -> tuple[ExpectedCall, ...]:
    """A route's calls, ready to be matched."""
    by_stage = {section.stage: section for section in sections}
    return tuple(
        ExpectedCall(
            by_stage[call.stage] if call.stage is not None else None,
            re.compile(call.model) if call.model else None,
            re.compile(call.system) if call.system else None,
            tuple(map(compile_path, call.at)),
        )
        for call in settings.calls
    )


def matching(expected: Sequence[ExpectedCall], prompt: Prompt) -> list[int]:
    """The indices of the expected calls that a call may be, by their patterns."""
    return [index for index, call in enumerate(expected) if call.matches(prompt)]
