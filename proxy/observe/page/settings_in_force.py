"""The settings in force by their full names, with the defaults that nobody set, and without secrets. Pure."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

IN_AN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""A user and a password in a URL."""

MASK = "********"


def in_force(path: str, block: BaseModel, *, default: bool = False) -> Iterator[dict[str, Any]]:
    """Each setting of a block: `name`, `value`, `default`. The argument: the block itself was not set."""
    shown = block.model_dump(mode="json")
    for name, field in type(block).model_fields.items():
        place = f"{path}.{field.alias or name}".lstrip(".")
        unset = default or name not in block.model_fields_set
        match getattr(block, name):
            case BaseModel() as inner:
                yield from in_force(place, inner, default=unset)
            case [*several] if several and all(isinstance(each, BaseModel) for each in several):
                for at, each in enumerate(several):
                    yield from in_force(f"{place}[{at}]", each, default=unset)
            case _:
                yield {"name": place, "value": _masked(shown[name]), "default": unset}


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return MASK if value and not value.strip("*") else IN_AN_ADDRESS.sub(MASK, value)
    if isinstance(value, list):
        return [_masked(each) for each in value]
    return {name: _masked(each) for name, each in value.items()} if isinstance(value, dict) else value
