"""Strings of a JSON document, while the document is still being written: their growth, unescaped.

The parser is jiter's, in its mode for documents whose end is missing; it comes with pydantic. It reads the
document anew each time, which takes about half a microsecond a kilobyte. So a long one is read less often.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from jsonpath import JSONPath, JSONPathError
from pydantic_core import from_json

from proxy.text.sections import Keys, leading_keys

MAX_CHARS = 1024 * 1024
"""Of a document. What comes after that is not shown; the batch answer has it."""

READ_EACH = 512
"""A document is read again when it has grown by one part in this many."""

FENCE: Final = "```"
"""The beginning of a line that in Markdown begins or ends a block of code."""

BETWEEN: Final = "\n\n"
"""The separator between two strings: in Markdown, a new paragraph."""


class GrowingString:
    """The strings at JSONPaths as one text: in the order of the paths, whatever the document's own order is.

    So a string waits until those of the paths before it are whole. One that never comes is known to be
    missing when the document is whole. A path may find several strings, which come in the document's order.
    `null` is left out; the text ends before anything else that is no string.
    """

    __slots__ = ("_document", "_fixed", "_is_over", "_new", "_new_chars", "_paths", "_shown")

    def __init__(self, paths: Sequence[JSONPath]) -> None:
        self._paths = paths
        self._fixed = [leading_keys(path) for path in paths]
        self._document = ""
        self._new: list[str] = []
        self._new_chars = 0
        self._shown = ""
        self._is_over = False

    def add(self, piece: str) -> str:
        """Take more of the document; what the text has grown by, "" for nothing that is certain yet."""
        if self._is_over:
            return ""
        self._new.append(piece)
        self._new_chars += len(piece)
        return "" if self._new_chars * READ_EACH < len(self._document) else self._read(is_whole=False)

    def rest(self) -> str:
        """The document is whole: what has not been returned of the text."""
        return "" if self._is_over else self._read(is_whole=True)

    def _read(self, *, is_whole: bool) -> str:
        self._document += "".join(self._new)
        self._new.clear()
        self._new_chars = 0
        if not _unfenced(self._document).strip():
            return ""
        text = None if len(self._document) > MAX_CHARS else self._found(is_whole=is_whole)
        if text is None or not text.startswith(self._shown):
            self._is_over = True  # no JSON, or a name that comes twice: the batch answer says what counts
            self._document = ""
            return ""
        grown, self._shown = text[len(self._shown) :], text
        return grown

    def _found(self, *, is_whole: bool) -> str | None:
        """The text as far as it goes, "" if it has not begun. None: the document is none."""
        try:
            unfenced = _unfenced(self._document)
            document = from_json(unfenced, allow_partial="trailing-strings", cache_strings="none")
            return BETWEEN.join(filter(None, self._strings(document, is_whole=is_whole)))
        except (ValueError, JSONPathError):
            return None

    def _strings(self, document: Any, *, is_whole: bool) -> Iterator[str]:
        for path, keys in zip(self._paths, self._fixed, strict=True):
            for found in path.findall(document):
                if isinstance(found, str):
                    yield found
                elif found is not None:
                    return
            if not is_whole and not _is_closed(document, keys):
                return


def _unfenced(document: str) -> str:
    """A document without the lines of backticks that models put around JSON, and what follows them."""
    text = document.lstrip()
    if not text.startswith(FENCE):
        return "" if FENCE.startswith(text) else document
    _, _, body = text.partition("\n")
    return body.partition("\n`")[0]  # in JSON's strings a line's end is escaped, so it stands in none


def _is_closed(document: Any, keys: Keys) -> bool:
    """True if a value is there, and something else came after it, so that it grows no more."""
    has_more_after = False
    for key in keys:
        if isinstance(document, dict) and key in document:
            last: str | int = next(reversed(document))
        elif isinstance(document, list) and isinstance(key, int) and key < len(document):
            last = len(document) - 1
        else:
            return False
        has_more_after = has_more_after or key != last
        document = document[key]
    return has_more_after
