"""What all blocks of settings are."""

from pydantic import BaseModel, ConfigDict


class SettingsBlock(BaseModel):
    """A block of settings: frozen, and closed to names it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
