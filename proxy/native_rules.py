"""What an upstream's own stream says: a route's rules, compiled. One event in, what it means out. Pure.

event ─► the first rule that fits ─► text of a stage | done | error | answer | ignore
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from jsonpath import JSONPath, JSONPathError

from proxy.sections import Section, compile_path
from proxy.settings import NativeEventSettings

Meaning = Literal["text", "done", "error", "answer", "ignore"]


class MalformedEvent(ValueError):
    """An event that a rule cannot read. The message has nothing of it."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one event says."""

    meaning: Meaning
    section: Section | None = None
    text: str = ""
    answer: Any = None
    """The batch answer's document, of an `answer`."""


IGNORED = Said("ignore")


class Rules:
    """A route's `native.events`.

    Args:
        settings: in their order.
        sections: of the route. The only one is that of a rule which names none.
    """

    def __init__(self, settings: Sequence[NativeEventSettings], sections: Sequence[Section]) -> None:
        self._by_stage = {section.stage: section for section in sections}
        self._rules = [_Rule.compile(rule, self._by_stage) for rule in settings]
        self._needs_json = any(rule.reads_json for rule in self._rules)

    def hear(self, event: str, data: str | bytes) -> Said:
        """What an event says.

        Args:
            event: its name; of a line of NDJSON "message", as of an SSE event that has none.
            data: its data.

        Raises:
            MalformedEvent: data should be JSON for a rule that might fit, and is not; a text is none.
        """
        document: Any = _UNREAD
        for rule in self._rules:
            if rule.event is not None and rule.event != event:
                continue
            if rule.data is not None and rule.data != data:
                continue
            if rule.reads_json:
                if document is _UNREAD:
                    document = _document(data)
                if not rule.fits(document):
                    continue
            return self._said(rule, data, document)
        return IGNORED

    def _said(self, rule: "_Rule", data: str | bytes, document: Any) -> Said:
        if rule.meaning == "answer":
            return Said("answer", answer=_one(rule.at, document))
        if rule.at is None and rule.meaning != "text":
            return Said(rule.meaning)
        text = str(data) if rule.at is None else _one(rule.at, document)
        if text is None:  # an end, or the head of a message, has the place and nothing in it
            return Said(rule.meaning)
        if not isinstance(text, str):
            raise MalformedEvent("a text is no string")
        return Said(rule.meaning, self._section(rule, document), text)

    def _section(self, rule: "_Rule", document: Any) -> Section | None:
        """Whose text it is; None: that of a stage which the route does not show."""
        if rule.stage_at is None:
            return rule.section
        stage = _one(rule.stage_at, document)
        return self._by_stage.get(stage) if isinstance(stage, str) else None


@dataclass(frozen=True, slots=True)
class _Rule:
    meaning: Meaning
    event: str | None
    data: str | None
    when: JSONPath | None
    value: Any
    at: JSONPath | None
    section: Section | None
    stage_at: JSONPath | None

    @classmethod
    def compile(cls, settings: NativeEventSettings, by_stage: dict[str, Section]) -> "_Rule":
        only = next(iter(by_stage.values())) if len(by_stage) == 1 else None
        when = settings.when
        return cls(
            meaning=settings.means,
            event=settings.event,
            data=settings.data,
            when=None if when is None else compile_path(when.at),
            value=None if when is None else when.equals,
            at=None if settings.at is None else compile_path(settings.at),
            section=only if settings.stage is None else by_stage[settings.stage],
            stage_at=None if settings.stage_at is None else compile_path(settings.stage_at),
        )

    @property
    def reads_json(self) -> bool:
        return self.when is not None or self.at is not None or self.meaning == "answer"

    def fits(self, document: Any) -> bool:
        """Whether the condition holds; without one, whether what the rule reads is there."""
        if self.when is not None:
            found = _one(self.when, document)
            return type(found) is type(self.value) and found == self.value
        return self.at is None or _one(self.at, document) is not None


_UNREAD: Any = object()


def _document(data: str | bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raise MalformedEvent("an event is no JSON") from None


def _one(path: JSONPath | None, document: Any) -> Any:
    """The one value there, the whole document without a path; None: there is none, or it is null."""
    if path is None:
        return document
    if isinstance(document, str):  # the library would take it for JSON that is still to be read
        return None
    try:
        found = path.findall(document)
    except JSONPathError:
        return None
    return found[0] if len(found) == 1 else None
