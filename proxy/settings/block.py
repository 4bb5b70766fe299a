"""What all blocks of settings are."""

from pydantic import BaseModel, ConfigDict


class SettingsBlock(BaseModel):
    """A block of settings: frozen; unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
