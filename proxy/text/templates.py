"""JSON templates: `{{ name $.path }}` in strings of a JSON value. Pure.

A string that is one reference becomes what it refers to, of whatever type; references inside a longer
string are put in as text, and what is not text as JSON. `name` is an earlier stage, `request` (the
client's own body), `path` (the route's parameters) or, of a stream, `text` (what it has said, by stage).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from jsonpath import JSONPathError

from proxy.text.sections import compile_path

_REFERENCE = re.compile(r"\{\{\s*([A-Za-z0-9_.-]+)\s+(\$[^{}]*?)\s*\}\}")

REQUEST = "request"
PATH = "path"
TEXT = "text"


class MissingValue(LookupError):
    """A reference to something that is not there, or that is there more than once."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The values of a document at some paths, where the document itself is not at hand."""

    at: Mapping[str, tuple[int, Any]]
    """The number of matches of each path, and the match if there is only one."""


class _Absent:
    """Stands for a part of a template that refers to what is not known yet."""


_ABSENT = _Absent()


def references(template: Any) -> Iterator[tuple[str, str]]:
    """Every `(name, path)` that a template refers to."""
    if isinstance(template, Mapping):
        for value in template.values():
            yield from references(value)
    elif isinstance(template, list):
        for value in template:
            yield from references(value)
    elif isinstance(template, str):
        yield from ((match[1], match[2]) for match in _REFERENCE.finditer(template))


def strays(template: Any) -> Iterator[str]:
    """Every string with a `{{` that is no reference: a slip of the pen, which would be sent as it stands."""
    if isinstance(template, Mapping):
        for value in template.values():
            yield from strays(value)
    elif isinstance(template, list):
        for value in template:
            yield from strays(value)
    elif isinstance(template, str) and "{{" in _REFERENCE.sub("", template):
        yield template


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with every reference replaced. Raises `MissingValue`."""
    if isinstance(template, Mapping):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, values) for value in template]
    if isinstance(template, str):
        return _fill_text(template, values)
    return template


def fill_known(template: Any, values: Mapping[str, Any]) -> Any:
    """The template as far as it can be filled: members that refer to something missing are left out."""
    filled = _fill_known(template, values)
    return None if filled is _ABSENT else filled


def _fill_known(template: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(template, Mapping):
        members = {key: _fill_known(value, values) for key, value in template.items()}
        return {key: value for key, value in members.items() if value is not _ABSENT}
    if isinstance(template, list):
        # Places in a list have a meaning, so one that is missing is null rather than left out.
        items = [_fill_known(value, values) for value in template]
        return [None if item is _ABSENT else item for item in items]
    try:
        return fill(template, values)
    except MissingValue:
        return _ABSENT


def _fill_text(text: str, values: Mapping[str, Any]) -> Any:
    whole = _REFERENCE.fullmatch(text)
    if whole is not None:
        return _resolve(whole[1], whole[2], values)
    return _REFERENCE.sub(lambda match: _as_text(_resolve(match[1], match[2], values)), text)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _resolve(name: str, path: str, values: Mapping[str, Any]) -> Any:
    if name not in values:
        raise MissingValue(f"{name} is not known")
    value = values[name]
    if isinstance(value, Excerpt):
        count, only = value.at[path]
    else:
        try:
            found = find_all(value, path)
        except JSONPathError as exc:
            raise MissingValue(f"{name} {path}: {type(exc).__name__}") from exc
        count, only = len(found), found[0] if found else None
    if count != 1:
        raise MissingValue(f"{name} {path}: {count} matches")
    return only


def find_all(value: Any, path: str) -> list[Any]:
    """All that a document has at a path. Raises `JSONPathError`."""
    if path == "$":
        return [value]
    # The library would take a string for JSON that is still to be read.
    return [] if isinstance(value, str) else compile_path(path).findall(value)
