"""Live text in pages that nobody changes: which pages get the script, and where in them the text stands. A
part of `settings.py`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from proxy.settings.blocks.block import SettingsBlock
from proxy.settings.blocks.values import PathText

Words = Annotated[str, Field(min_length=1, max_length=200)]


class PlaceSettings(SettingsBlock):
    """An element of the page. Exactly one of the five names it; where several fit, or none that is visible,
    there is no such element."""

    text: Words | None = None
    """Its whole text, as a person reads it, such as a heading's. Of nested elements the innermost counts."""
    role: Words | None = None
    """Its attribute `role`."""
    placeholder: Words | None = None
    """The placeholder of a field."""
    label: Words | None = None
    """Its `aria-label`, or the text of its label."""
    css: Words | None = None
    """A CSS selector."""

    @model_validator(mode="after")
    def _one_way(self) -> "PlaceSettings":
        ways = [self.text, self.role, self.placeholder, self.label, self.css]
        if sum(way is not None for way in ways) != 1:
            raise ValueError("set one of text, role, placeholder, label and css")
        return self


class PanelSettings(PlaceSettings):
    """The place of the live text of one panel: the last child of an element. Where there is no such element,
    the text stands in a small window of its own."""

    up: int = Field(default=0, ge=0, le=20)
    """The element's ancestor of this degree is meant."""
    into: Words | None = None
    """From there a CSS selector; `:scope` is the element so far."""


class RouteAttachSettings(SettingsBlock):
    """Live text for a page that never asks for it, by the script `attach.js`."""

    panels: dict[str, PanelSettings] = Field(default={})
    """By the name of a section's panel. A panel that is not here has its text in a small window."""
    waiting: PlaceSettings | None = None
    """An element that is there only while the page waits for the answer, for example a disabled field by its
    placeholder. When it goes, the live text goes at once, for good: the page is about something else. Set it
    for pages that can begin something else without a change of address."""
    keep_text: Literal["nowhere", "sessionStorage"] = "nowhere"
    """The place where the browser keeps a live text over a reload of the page: nowhere, and it is read again;
    or in the tab's `sessionStorage`, in the clear, until the page is there again, so that it is shown at
    once."""


class AttachSettings(SettingsBlock):
    """The script `attach.js` in pages that are relayed; routes with a block `attach` say what it shows."""

    inject: bool = False
    """Add the script to `pages`. Without it, the page has a script element of yours."""
    pages: list[PathText] = Field(default=[])
    """Paths of pages. `{name}` stands for one segment."""

    @model_validator(mode="after")
    def _pages_belong_together(self) -> "AttachSettings":
        if self.inject != bool(self.pages):
            raise ValueError("inject and pages need each other")
        return self
