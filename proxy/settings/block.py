"""What all blocks of settings are made of."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

UNMATCHED = "unmatched"
"""The label `route` of requests that match no route; so no route may be called that."""


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", value):
        raise ValueError("must be 1 to 63 of a-z, 0-9, '-' and '_': it becomes a metric's label")
    if value == UNMATCHED:
        raise ValueError(f"'{UNMATCHED}' is the label of requests that match no route")
    return value


Name = Annotated[str, AfterValidator(_name)]
"""A label's value, and part of paths."""

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class SettingsBlock(BaseModel):
    """A block of settings: frozen, and closed to names it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
