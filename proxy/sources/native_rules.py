"""A route's rules for the upstream's own stream, compiled: they say what each event means. Pure.

event ─► the first rule that fits ─► text of a stage | done | error | answer | ignore
         further rules that fit   ─► more texts, or an error

Where the first rule is about a text, the event may have others beside it. Each rule that finds a text of
another stage adds it. Two different texts of one stage are ambiguous: nothing says which of them goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
from jsonpath import JSONPath, JSONPathError

from proxy.settings.blocks.sources import NativeEventSettings
from proxy.sources.errors import AmbiguousTexts, MalformedEvent
from proxy.text.sections import Keys, MalformedBody, Section, compile_path, keys_of, parse
from proxy.text.templates import Excerpt

Meaning = Literal["text", "done", "error", "answer", "ignore"]


class EventContent:
    """The meaning of one event."""

    __slots__ = ("answer", "meaning", "texts")

    def __init__(self, meaning: Meaning, texts: list[tuple[Section, str]], answer: Any) -> None:
        self.meaning = meaning
        self.texts = texts
        """In the order of the rules; one of a section."""
        self.answer = answer
        """The batch answer's document, of an `answer`."""


class Rules:
    """A route's `native.events`.

    Args:
        settings: in their order.
        sections: of the route. The only one is that of a rule which names none.
    """

    def __init__(self, settings: Sequence[NativeEventSettings], sections: Sequence[Section]) -> None:
        self._by_stage = {section.stage: section for section in sections}
        self._rules = [_Rule.compile(rule, self._by_stage) for rule in settings]
        self._in_order = [(rule, _further(self._rules, at)) for at, rule in enumerate(self._rules)]
        """Each with those that may add to it."""
        found = [place for rule in self._rules for place in (rule.when, rule.at, rule.stage_at)]
        places = [place for place in found if place is not None]
        self.paths = {"$", *[str(place.path) for place in places]}
        """All that the rules look at in an event's JSON."""
        self.searches = any(place.keys is None for place in places)
        """Whether any of these is more than names and indices."""

    def read(self, event: str, data: str | bytes, document: Any = None) -> EventContent:
        """Read one event.

        Args:
            event: its name; of a line of NDJSON "message", as of an SSE event that has none.
            data: its data.
            document: an `Excerpt` of it at `paths`, if it has too many values to be read here.

        Raises:
            MalformedEvent: data should be JSON for a rule that might fit, and is not; a text is none.
            AmbiguousTexts: a stage has two.
        """
        document = _UNREAD if document is None else document
        for rule, further in self._in_order:
            if rule.event is not None and rule.event != event:
                continue
            if rule.data is not None and rule.data != data:
                continue
            if not rule.reads_json:
                return self._content(rule, str(data), document)
            if document is _UNREAD:
                document = _document(data)
            # Most rules are a path of names, for which this spares two calls.
            if rule.keys is not None and type(document) is dict:
                found = _walked(document, rule.keys)
                if found is None:
                    continue
            else:
                found = rule.found(document)
            if found is not _UNFIT:
                content = self._content(rule, found, document)
                return self._with_further(content, further, event, document) if further else content
        return EventContent("ignore", [], None)

    def _content(self, rule: "_Rule", text: Any, document: Any) -> EventContent:
        if rule.meaning == "answer":
            return EventContent("answer", [], text)
        if rule.at is None and rule.meaning != "text":
            return EventContent(rule.meaning, [], None)
        if text is None:  # an end, or the head of a message, has the place and nothing in it
            return EventContent(rule.meaning, [], None)
        if not isinstance(text, str):
            raise MalformedEvent("a text is no string")
        section = rule.section if rule.stage_at is None else self._section(rule, document)
        return EventContent(rule.meaning, [] if section is None else [(section, text)], None)

    def _with_further(
        self, content: EventContent, rules: Sequence["_Rule"], event: str, document: Any
    ) -> EventContent:
        """The event's content with the texts that further rules find, beside the first that fits."""
        texts = {section.stage: (section, text) for section, text in content.texts if text}
        for rule in rules:
            found = _UNFIT if rule.event not in (None, event) else rule.found(document)
            if found is _UNFIT:
                continue
            if rule.meaning == "error":
                return EventContent("error", [], None)
            if rule.meaning == "ignore":
                break
            section = self._section(rule, document)
            if section is None or not isinstance(found, str) or not found:
                continue
            if texts.setdefault(section.stage, (section, found))[1] != found:
                raise AmbiguousTexts("an event has two texts of a stage")
        return EventContent(content.meaning, list(texts.values()), content.answer)

    def _section(self, rule: "_Rule", document: Any) -> Section | None:
        """The section of the text; None: the route does not show its stage."""
        if rule.stage_at is None:
            return rule.section
        stage = rule.stage_at.value(document)
        return self._by_stage.get(stage) if isinstance(stage, str) else None


@dataclass(frozen=True, slots=True)
class _JsonPlace:
    """The place of a value in an event's JSON."""

    path: JSONPath
    keys: Keys | None
    """The names and indices of a path that has nothing else, as nearly all: walked in a tenth of the time."""

    @classmethod
    def compile(cls, at: str | None) -> "_JsonPlace | None":
        if at is None:
            return None
        path = compile_path(at)
        return cls(path, keys_of(path))

    def value(self, document: Any) -> Any:
        """The one value at the path; None: there is none, or it is null."""
        if isinstance(document, Excerpt):
            return document.at[str(self.path)][1]
        return self._found(document) if self.keys is None else _walked(document, self.keys)

    def text(self, document: Any) -> Any:
        """The same; of several texts, such as an event's parts, all of them in their order."""
        if isinstance(document, Excerpt):
            return document.at[str(self.path)][1]
        if self.keys is not None:
            return _walked(document, self.keys)
        found = self._all(document)
        if len(found) > 1 and all(isinstance(text, str) for text in found):
            return "".join(found)
        return found[0] if found else None

    def _found(self, document: Any) -> Any:
        found = self._all(document)
        return found[0] if len(found) == 1 else None

    def _all(self, document: Any) -> list[Any]:
        if isinstance(document, str):  # the library would take it for JSON that is still to be read
            return []
        try:
            return self.path.findall(document)
        except JSONPathError:
            return []


def _walked(document: Any, keys: Keys) -> Any:
    """The value to which names and indices lead; None: there is none, or it is null."""
    try:
        for key in keys:
            if type(document) is str:
                return None
            document = document[key]
    except (LookupError, TypeError):
        return None
    return document


@dataclass(frozen=True, slots=True)
class _Rule:
    meaning: Meaning
    event: str | None
    data: str | None
    when: _JsonPlace | None
    value: Any
    at: _JsonPlace | None
    section: Section | None
    stage_at: _JsonPlace | None
    reads_json: bool
    keys: Keys | None
    """The names and indices of its text, if it has no other condition than that the text is there."""

    @classmethod
    def compile(cls, settings: NativeEventSettings, by_stage: dict[str, Section]) -> "_Rule":
        only = next(iter(by_stage.values())) if len(by_stage) == 1 else None
        when, at = settings.when, _JsonPlace.compile(settings.at)
        is_plain = at is not None and when is None and settings.means in ("text", "done")
        return cls(
            meaning=settings.means,
            event=settings.event,
            data=settings.data,
            when=_JsonPlace.compile(when.at) if when is not None else None,
            value=None if when is None else when.equals,
            at=at,
            section=only if settings.stage is None else by_stage[settings.stage],
            stage_at=_JsonPlace.compile(settings.stage_at),
            reads_json=when is not None or settings.at is not None or settings.means == "answer",
            keys=at.keys if at is not None and is_plain else None,
        )

    @property
    def has_text(self) -> bool:
        """True if the rule finds a text in an event's JSON."""
        return self.at is not None and self.meaning in ("text", "done")

    def found(self, document: Any) -> Any:
        """Return what the rule reads, if its condition holds or, without one, if that is there; else
        `_UNFIT`."""
        if self.when is not None:
            value = self.when.value(document)
            if type(value) is not type(self.value) or value != self.value:
                return _UNFIT
        if self.at is None:
            return document.at["$"][1] if isinstance(document, Excerpt) else document
        value = self.at.value(document) if self.meaning == "answer" else self.at.text(document)
        return _UNFIT if value is None and self.when is None else value


def _further(rules: Sequence[_Rule], at: int) -> Sequence[_Rule]:
    """The rules that may add to the one at a place in the list, if it fits first and is about a text. A rule
    that does not look into an event's JSON says what all other events mean."""
    first = rules[at]
    if not first.has_text:
        return ()
    return [
        rule
        for rule in rules[at + 1 :]
        if rule.reads_json
        and rule.data is None
        and (rule.has_text or rule.meaning in ("error", "ignore"))
        and (rule.at, rule.section, rule.stage_at) != (first.at, first.section, first.stage_at)
    ]


_loads: Final = orjson.loads  # to look it up at each event costs a twentieth of reading that

_UNREAD: Final[Any] = object()
_UNFIT: Final[Any] = object()


def _document(data: str | bytes) -> Any:
    try:
        return _loads(data)
    except orjson.JSONDecodeError:  # or it is what only `parse` reads
        try:
            return parse(data.encode() if isinstance(data, str) else data)
        except MalformedBody:
            raise MalformedEvent("an event is no JSON") from None


def split_pair(text: str) -> tuple[str, str]:
    """A text that may have halves of characters, as those beyond 16 bits are when they are escaped: the whole
    characters, and the half of one that the next event may complete.

    Raises:
        MalformedEvent: a half stands alone.
    """
    if text.isascii():
        return text, ""
    half = text[-1] if 0xD800 <= ord(text[-1]) <= 0xDBFF else ""
    whole = text[: len(text) - len(half)]
    try:
        return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le"), half
    except UnicodeDecodeError:
        raise MalformedEvent("a text has half a character") from None
