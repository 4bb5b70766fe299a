"""One string of a JSON document, while the document is still being written: its growth, unescaped.

The parser is jiter's, in its mode for documents whose end is missing; it comes with pydantic. It reads the
document anew each time, which takes about half a microsecond a kilobyte. So a long one is read less often.
"""

from jsonpath import JSONPath, JSONPathError
from pydantic_core import from_json

MAX_CHARS = 1024 * 1024
"""Of a document. What comes after that is not shown; the batch answer has it."""

READ_EACH = 512
"""A document is read again when it has grown by one part in this many."""


class GrowingString:
    """The string at a JSONPath."""

    __slots__ = ("_document", "_is_over", "_new", "_new_chars", "_path", "_shown")

    def __init__(self, path: JSONPath) -> None:
        self._path = path
        self._document = ""
        self._new: list[str] = []
        self._new_chars = 0
        self._shown = ""
        self._is_over = False

    def add(self, piece: str) -> str:
        """Take more of the document; what the string has grown by, "" for nothing that is certain yet."""
        if self._is_over:
            return ""
        self._new.append(piece)
        self._new_chars += len(piece)
        return "" if self._new_chars * READ_EACH < len(self._document) else self._read()

    def rest(self) -> str:
        """The document is whole: what has not been returned of the string."""
        return self._read() if self._new else ""

    def _read(self) -> str:
        self._document += "".join(self._new)
        self._new.clear()
        self._new_chars = 0
        if not self._document.strip():
            return ""
        text = None if len(self._document) > MAX_CHARS else self._found()
        if text is None or not text.startswith(self._shown):
            self._is_over = True  # no JSON, or a name that comes twice: the batch answer says what counts
            self._document = ""
            return ""
        grown, self._shown = text[len(self._shown) :], text
        return grown

    def _found(self) -> str | None:
        """The string as far as it goes, "" if it has not begun. None: the document is none, or the path finds
        something else."""
        try:
            matches = self._path.findall(from_json(self._document, allow_partial="trailing-strings"))
        except (ValueError, JSONPathError):
            return None
        if not matches:
            return ""
        return matches[0] if len(matches) == 1 and isinstance(matches[0], str) else None
