"""What a backend may do to the model's text before it stores it: what is stored is then not what was said."""

from collections.abc import Callable

HEADING = "# Draft, written by a language model"


def strip(text: str) -> str:
    """Without the whitespace around it: what was said so far still begins what is stored."""
    return text.strip()


def wrap(text: str) -> str:
    """Under a heading: nothing that was said begins what is stored."""
    return f"{HEADING}\n\n{text}"


POSTPROCESS: dict[str, Callable[[str], str]] = {"off": str, "strip": strip, "wrap": wrap}
