"""Sections of a batch answer: JSON paths to panels, read while the body arrives; parity with what was shown.

No I/O. orjson is the authority for what a body says; ijson only sees earlier what orjson will say too.

* ValueError
  * MalformedBody   the body is not JSON in UTF-8, or not all of it came
  * BodyTooLarge    the body is longer than the reader may hold
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import ijson
import orjson
from jsonpath import JSONPath, JSONPathEnvironment, JSONPathError, JSONPathMatch
from jsonpath.selectors import IndexSelector, NameSelector

# Strict is RFC 9535; without it a path may lack its `$`, and an index finds a member of an object.
_RFC_9535: Final = JSONPathEnvironment(strict=True)


def _know_no_children(self: JSONPathMatch, *children: JSONPathMatch) -> None:
    """Keep a match's parent from knowing its children. In the library both know each other, so each look into
    a document would leave a reference cycle with the whole document, until a full collection.
    """


JSONPathMatch.add_child = _know_no_children  # type: ignore[method-assign]  # the library offers no other way

# A high surrogate that is not followed by a low one: orjson refuses the body, yajl reads "?" or makes up a
# character. After an escaped backslash it is neither, and then the text only comes with the document.
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB]..(?:[^\\]|\\[^u]|\\u[^dD]|\\u[dD][^c-fC-F])", re.DOTALL
)


BOM: Final = "\ufeff".encode()
"""RFC 8259 8.1: it must not be sent, and may be ignored."""


MAX_LENIENT_BYTES: Final = 1024 * 1024
"""The longest body that is read a second time, leniently. Reading a longer one would hold up the loop."""

MAX_DEEP_BYTES: Final = 32 * 1024
"""The longest body that is read again because it is too deep: 20 ms if it is nothing but brackets."""

MAX_EARLY_BYTES: Final = 1024 * 1024
"""The part of a body that is read while it arrives. Each read goes through an unfinished string again, so a
long string would cost its square. Texts behind this part come with the document."""

Keys = tuple[str | int, ...]
"""Names and indices from the root of a document."""


class MalformedBody(ValueError):
    """Not JSON in UTF-8, or not all of it."""


class BodyTooLarge(ValueError):
    """More bytes than the reader may hold."""


def parse(body: bytes | bytearray) -> Any:
    """A whole body's document. Raises `MalformedBody`."""
    body = body.removeprefix(BOM)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        try:
            return _leniently(body)
        except RecursionError as too_deep:
            raise MalformedBody("the body is not JSON, or too deep") from too_deep
        except ValueError:
            raise MalformedBody(f"the body is not JSON: {exc}") from exc


def _leniently(body: bytes | bytearray) -> Any:
    """Parse as Python's own `json` does: it takes NaN, half a surrogate pair, and any number."""
    if len(body) > MAX_LENIENT_BYTES:
        raise ValueError("too long to be read again")
    return json.loads(body.decode(), parse_int=float)


def parse_deep(body: bytes) -> Any:
    """The same, also of a document that is too deep for `parse`. Raises `MalformedBody`."""
    try:
        return parse(body)
    except MalformedBody as exc:
        if not isinstance(exc.__cause__, RecursionError) or len(body) > MAX_DEEP_BYTES:
            raise
    builder = ijson.ObjectBuilder()
    try:
        for event, value in ijson.basic_parse(body.removeprefix(BOM), use_float=True):
            builder.event(event, value)
    except (ijson.JSONError, ValueError, OverflowError) as exc:
        raise MalformedBody("the body is not JSON") from exc
    return builder.value


@lru_cache(maxsize=1024)
def compile_path(at: str) -> JSONPath:
    """A JSONPath of RFC 9535, which the settings have; raises `ValueError` that names it."""
    try:
        path = _RFC_9535.compile(at)
    except JSONPathError as exc:
        # The text of the exception is not used: making it can itself fail, for an empty expression.
        why = exc.args[0] if at.startswith("$") else "it begins with $, as $.answer.text does"
        raise ValueError(f"not a JSONPath: {at!r}: {why}") from None
    if not isinstance(path, JSONPath):
        raise ValueError(f"not a single JSONPath: {at!r}")
    return path


@dataclass(frozen=True, slots=True)
class Section:
    """One text of a batch answer, and the stage and panel it is shown in."""

    stage: str
    panel: str
    path: JSONPath | None
    """None: the text is shown while it is made, and is not in the answer."""

    @classmethod
    def compile(cls, stage: str, panel: str, at: str | None) -> "Section":
        """`at` is a JSONPath of RFC 9535; raises `ValueError` that names it."""
        return cls(stage, panel, None if at is None else compile_path(at))

    @property
    def stands_in_answer(self) -> bool:
        return self.path is not None

    def find(self, document: object) -> str | None:
        """The string at the path; `None` if there is no match, more than one, or another type."""
        if self.path is None:
            return None
        if isinstance(document, str):  # the library would take it for JSON that is still to be read
            return None if self.path.segments else document
        try:
            matches = self.path.findall(document)  # type: ignore[arg-type]
        except JSONPathError:  # a document too deep for `$..`, or a filter that cannot be applied to it
            return None
        if len(matches) != 1 or not isinstance(matches[0], str) or not _can_be_sent(matches[0]):
            return None
        return matches[0]

    @property
    def keys(self) -> Keys | None:
        """See `keys_of`."""
        return None if self.path is None else keys_of(self.path)


def _can_be_sent(text: str) -> bool:
    """True if the text can be encoded as UTF-8. A lone surrogate comes only from a body that was read
    leniently."""
    if text.isascii() or len(text) > MAX_LENIENT_BYTES:
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def leading_keys(path: JSONPath) -> Keys:
    """A path's names and indices from the root, up to where it may find several values."""
    keys: list[str | int] = []
    for segment in path.segments:
        match segment.selectors:
            case (NameSelector(name=key),):
                keys.append(key)
            case (IndexSelector(index=key),) if key >= 0:
                keys.append(key)
            case _:
                break
    return tuple(keys)


def keys_of(path: JSONPath) -> Keys | None:
    """A path's names and indices from the root; `None` for a path that needs the whole document."""
    keys = leading_keys(path)
    return keys if path.singular_query() and len(keys) == len(path.segments) else None


def extract(document: object, sections: Sequence[Section]) -> dict[str, str]:
    """Stage to text, in the order of the sections; stages without a text are left out."""
    found = ((section.stage, section.find(document)) for section in sections)
    return {stage: text for stage, text in found if text is not None}


class Reader:
    """A batch body while it arrives: the texts that are already whole, and in the end the document.

    A text is returned as soon as its JSON string ends, but only for a path of names and indices; other paths
    wait for the document. It is the text that the document will have, with one exception: if an object has a
    name twice, the first value is returned early, and the document has the last. The caller compares both
    anyway. A body may turn out to be malformed after some texts were returned.

    Args:
        sections: which texts to give.
        max_bytes: the longest body; `feed` raises `BodyTooLarge` over it.
    """

    def __init__(self, sections: Sequence[Section], *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._body = bytearray()
        self._wanted: dict[Keys, list[Section]] = {}
        for section in sections:
            if (keys := section.keys) is not None:
                self._wanted.setdefault(keys, []).append(section)
        self._where: list[str | int] = []
        self._tokens: list[tuple[str, Any]] = ijson.sendable_list()
        self._parser = ijson.basic_parse_coro(self._tokens) if self._wanted else None

    @property
    def body(self) -> bytes:
        """The exact bytes so far."""
        return bytes(self._body)

    def feed(self, data: bytes) -> list[tuple[Section, str]]:
        """The texts that these bytes complete, each section once; raises `BodyTooLarge`."""
        if len(self._body) + len(data) > self._max_bytes:
            raise BodyTooLarge(f"a body of more than {self._max_bytes} bytes")
        self._body += data
        if len(self._body) > MAX_EARLY_BYTES:
            self._parser = None
        try:
            return self._read(data)
        except Exception:  # noqa: BLE001 - it has its faults: an integer of 5,000 digits is a SystemError
            # Nothing early any more. What the body is worth is said at its end; yajl is narrower in places.
            self._parser = None
            return []
        finally:
            self._tokens.clear()

    def close(self) -> Any:
        """The body came to its end: the document. Raises `MalformedBody`."""
        return parse(self._body)

    def _read(self, data: bytes) -> list[tuple[Section, str]]:
        # An empty read is the end of the text to ijson.
        if self._parser is None or not data:
            return []
        with suppress(ijson.JSONError):  # what comes before the fault has been read all the same
            self._parser.send(data)
            return self._texts()
        self._parser = None
        return self._texts()

    def _texts(self) -> list[tuple[Section, str]]:
        return [found for token, value in self._tokens for found in self._walk(token, value)]

    def _walk(self, token: str, value: Any) -> list[tuple[Section, str]]:
        """Keep the place in the document; at its end `_where` is the path of the value that just began."""
        where = self._where
        if token == "map_key":
            where[-1] = value
        elif token in ("end_map", "end_array"):
            where.pop()
        else:
            if where and isinstance(where[-1], int):
                where[-1] += 1
            if token == "string":
                return self._found(value)
            if token in _OPENS:
                where.append(_OPENS[token])
        return []

    def _found(self, text: str) -> list[tuple[Section, str]]:
        where = tuple(self._where)
        if where not in self._wanted or _LONE_SURROGATE.search(self._body):
            return []
        return [(section, text) for section in self._wanted.pop(where)]


# What stands in a path below an object before its first name, and below an array before its first value.
_OPENS: Final[dict[str, str | int]] = {"start_map": "", "start_array": -1}


class Parity(StrEnum):
    """The result of comparing a shown text with the batch answer."""

    EQUAL = "equal"
    SUFFIX = "suffix"
    """The shown text is a prefix; the rest is still to be sent."""
    REPLACED = "replaced"
    """The shown text differs; the whole text is to be sent in its place."""
    UNSHOWN = "unshown"
    """The stage never began; the whole text is to be sent."""
    MISSING = "missing"
    """Text was shown that the answer does not have."""


def compare(shown: str | None, authority: str | None) -> tuple[Parity, str]:
    """Compare a shown text with the batch answer's; return also the text that is still to be sent. `shown` is
    None for a stage that never began, `authority` for a section that the answer lacks.
    """
    if authority is None:
        return (Parity.MISSING if shown else Parity.EQUAL), ""
    if shown is None:
        return Parity.UNSHOWN, authority
    if shown == authority:
        return Parity.EQUAL, ""
    if authority.startswith(shown):
        return Parity.SUFFIX, authority[len(shown) :]
    return Parity.REPLACED, authority
