"""A tool's arguments in pieces, as Vertex AI streams them on request. No I/O.

Source: Vertex AI's guide "Streaming function call arguments", and recorded streams. A call that
`willContinue` is followed by calls without a name, whose `partialArgs` say where a value stands and what is
added to it, until one does not continue.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from proxy.llm.assembly.dialect import Unfaithful
from proxy.llm.assembly.json_values import as_list, as_object, as_text

MAX_DEPTH = 32
"""Of a value in the arguments."""

VALUES = frozenset({"stringValue", "numberValue", "boolValue", "nullValue"})

OPEN = "\0open"
"""Marks a call that goes on, among its fields."""

_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\[([0-9]{1,4})\]|\['([^'\\]*)'\]")


def has_pieces(parts: list[dict[str, Any]], call: Mapping[str, Any]) -> bool:
    """True if a function call comes in pieces, or is a piece of the one before it."""
    return "willContinue" in call or "partialArgs" in call or bool(parts and _is_open(parts[-1]))


def join_pieces(parts: list[dict[str, Any]], part: Mapping[str, Any]) -> None:
    """Join a call's piece to the last part, or begin with it."""
    call = dict(as_object(part["functionCall"]))
    goes_on, pieces = call.pop("willContinue", False), as_list(call.pop("partialArgs", []))
    if not (parts and _is_open(parts[-1])):
        if not call.get("name") or call.keys() - {"id", "name"}:
            raise Unfaithful("a call's piece follows none")
        parts.append({**part, "functionCall": {**call, "args": {}, OPEN: None}})
    elif call or part.keys() != {"functionCall"}:
        raise Unfaithful("a part begins within a call")
    joined = parts[-1]["functionCall"]
    for piece in pieces:
        joined[OPEN] = _add(joined["args"], as_object(piece), joined[OPEN])
    if not goes_on and joined.pop(OPEN) is not None:
        raise Unfaithful("a call ends within a text")


def check_calls(parts: Iterable[Mapping[str, Any]]) -> None:
    """Raises `Unfaithful` if a call has no end."""
    if any(_is_open(part) for part in parts):
        raise Unfaithful("a call has no end")


def _is_open(part: Mapping[str, Any]) -> bool:
    return OPEN in part.get("functionCall", ())


def _add(args: dict[str, Any], piece: Mapping[str, Any], growing: str | None) -> str | None:
    """Add a piece. `growing` is the path of the text that goes on, None for none; so is what comes back."""
    path, kinds = as_text(piece.get("jsonPath")), piece.keys() & VALUES
    if len(kinds) != 1 or piece.keys() - VALUES - {"jsonPath", "willContinue"}:
        raise Unfaithful("an argument has a field that is not known")
    (kind,) = kinds
    value = None if kind == "nullValue" else piece[kind]
    if growing is not None and (growing != path or kind != "stringValue"):
        raise Unfaithful("an argument begins within another")
    place, name = _place(args, path)
    is_new = len(place) == name if isinstance(place, list) else name not in place
    if growing is not None:
        place[name] = as_text(place[name]) + as_text(value)
    elif not is_new:
        raise Unfaithful("an argument comes again")
    elif isinstance(place, list):
        place.append(value)
    else:
        place[name] = value
    return path if piece.get("willContinue") else None


def _place(args: dict[str, Any], path: str) -> tuple[Any, Any]:
    """The object or list in which a path ends, made if it is not there, and the name or index in it."""
    steps = list(_STEP.finditer(path))
    if not steps or len(steps) > MAX_DEPTH or "$" + "".join(step[0] for step in steps) != path:
        raise Unfaithful("an argument's path is none")
    names = [int(step[2]) if step[2] is not None else step[1] or step[3] for step in steps]
    place: Any = args
    for name, following in pairwise(names):
        _check_kind(place, name)
        made: Any = [] if isinstance(following, int) else {}
        if isinstance(place, list) and len(place) == name:
            place.append(made)
        elif isinstance(place, dict):
            place.setdefault(name, made)
        place = place[name]
    _check_kind(place, names[-1])
    return place, names[-1]


def _check_kind(place: Any, name: Any) -> None:
    """Raises `Unfaithful` unless a name is one of an object, or an index of a list or right after it."""
    is_in_list = isinstance(place, list) and isinstance(name, int) and name <= len(place)
    if not is_in_list and not (isinstance(place, dict) and isinstance(name, str)):
        raise Unfaithful("an argument's path is none")
