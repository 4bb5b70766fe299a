"""A block of settings, the base of all of them."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict


class SettingsBlock(BaseModel):
    """A block of settings: frozen; unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Block = TypeVar("Block", bound=BaseModel)


def with_authorities(block: Block, ca_file: Path) -> Block:
    """A copy in which each `ca_file` that is not set, however deep, is this one."""
    changes: dict[str, Any] = {}
    for name in type(block).model_fields:
        value = getattr(block, name)
        if name == "ca_file" and value is None:
            changes[name] = ca_file
        elif isinstance(value, BaseModel):
            changes[name] = with_authorities(value, ca_file)
        elif isinstance(value, list):
            changes[name] = [
                with_authorities(each, ca_file) if isinstance(each, BaseModel) else each for each in value
            ]
    # What has not changed stays a default, if it was one.
    changed = {name: value for name, value in changes.items() if value != getattr(block, name)}
    return block.model_copy(update=changed) if changed else block
