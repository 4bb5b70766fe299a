"""The fields of a batch answer with the numbers of tokens. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_TOKENS = 1_000_000_000
"""Of one call, far beyond what any model reads or writes. A larger number is a mistake of the provider's, and
one such call would be all that the sums of all calls show."""


class TokenUsage(NamedTuple):
    """Tokens of one call; None: the answer does not say."""

    input: int | None
    """All that the model has read, also from a cache."""
    output: int | None
    """All that it has written, its thoughts too."""


@dataclass(frozen=True, slots=True)
class UsageFields:
    """Fields of a batch answer, with dots between their names. Their numbers are added; one may lack."""

    input: Sequence[str]
    output: Sequence[str]

    def read(self, answer: Any) -> TokenUsage:
        """Return the numbers in an answer."""
        return TokenUsage(_sum(answer, self.input), _sum(answer, self.output))


def _sum(answer: Any, fields: Sequence[str]) -> int | None:
    numbers = [number for field in fields if (number := _number(answer, field)) is not None]
    return sum(numbers) if numbers else None


def _number(answer: Any, field: str) -> int | None:
    for name in field.split("."):
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer if type(answer) is int and 0 <= answer <= MAX_TOKENS else None
