"""Changes that a backend makes to the model's text before storing it: the stored text then differs."""

from collections.abc import Callable

HEADING = "# Draft, written by a language model"


def strip(text: str) -> str:
    """Strip whitespace. The text streamed so far is still a prefix of the stored one."""
    return text.strip()


def wrap(text: str) -> str:
    """Put the text under a heading. The text streamed so far is no prefix of the stored one."""
    return f"{HEADING}\n\n{text}"


POSTPROCESS: dict[str, Callable[[str], str]] = {"off": str, "strip": strip, "wrap": wrap}
