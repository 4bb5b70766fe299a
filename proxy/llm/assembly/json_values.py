"""Values of a provider's JSON: each is of the kind that it must be, or the stream is unfaithful. No I/O."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from proxy.llm.assembly.dialect import Unfaithful


def as_object(value: Any) -> dict[str, Any]:
    """Raises `Unfaithful` for anything else."""
    if not isinstance(value, dict):
        raise Unfaithful("an object is none")
    return value


def as_list(value: Any) -> list[Any]:
    """Raises `Unfaithful` for anything else."""
    if not isinstance(value, list):
        raise Unfaithful("a list is none")
    return value


def as_text(value: Any) -> str:
    """Raises `Unfaithful` for anything else."""
    if not isinstance(value, str):
        raise Unfaithful("a text is no string")
    return value


def parsed(data: str) -> dict[str, Any]:
    """One event's data. Raises `Unfaithful` if it is no JSON object."""
    try:
        # jiter's takes two thirds of the time of Python's own, and gives the same, or an error.
        return as_object(from_json(data, cache_strings="none"))
    except ValueError:
        return _parsed_loosely(data)


def _parsed_loosely(data: str) -> dict[str, Any]:
    """The same, also with half a character in a text, for which there may be no place in the answer."""
    try:
        return as_object(json.loads(data))
    except (ValueError, RecursionError):
        raise Unfaithful("a chunk is no JSON") from None


def serialized(answer: Mapping[str, Any], separators: tuple[str, str] = (", ", ": ")) -> bytes:
    """A batch answer as JSON. Raises `Unfaithful` for what JSON or Unicode does not have."""
    try:
        text = json.dumps(answer, ensure_ascii=False, allow_nan=False, default=str, separators=separators)
        return text.encode()
    except (ValueError, RecursionError):
        raise Unfaithful("a number is out of range, or a text is no Unicode, or it is too deep") from None


def shown(piece: str) -> str:
    """A piece of text that is shown. Raises `Unfaithful` for half a character."""
    if not piece.isascii() and any("\ud800" <= char <= "\udfff" for char in piece):
        raise Unfaithful("a text is no Unicode")
    return piece


def as_arguments(text: Any) -> dict[str, Any]:
    """A tool's arguments. Raises `Unfaithful` if they are no JSON object."""
    try:
        return as_object(json.loads(str(text)))
    except (ValueError, RecursionError):
        raise Unfaithful("a tool's arguments are none") from None


def as_word(value: Any) -> str:
    """A word that is looked up in a table; "" for anything but a string."""
    return value if isinstance(value, str) else ""
