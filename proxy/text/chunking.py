r"""Text to words: how much of a text one event shows. No I/O, no clock, no pace.

The atom is the grapheme cluster, what a reader takes for one character: regex's `\X`, Unicode UAX #29. A word
is a run of clusters with the white space behind it. In scripts written without spaces each cluster counts as
a word: a Chinese paragraph would be a single word otherwise, and would wait for its end.
"""

import re
from collections.abc import Iterator
from typing import Final

import regex

_CLUSTER: Final = regex.compile(r"\X")
_FIRST_UNSPACED: Final = "\u0e00"  # Thai; asked first, because it spares most texts the expression
_UNSPACED: Final = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")

_WORD: Final = re.compile(r"\S*\s+|\S+")

# `\X` looks back over a run of flags at every step: 200,000 of them at once took 107 s, in windows 0.2 s.
_WINDOW: Final = 256

MAX_CLUSTER: Final = 64 * 1024
"""Code points under one another, such as marks on a letter: no script has as many, and to look for the end of
more would hold up everybody. A longer cluster is cut."""

_FLAG_LETTERS: Final = "".join(map(chr, range(0x1F1E6, 0x1F200)))
_FIRST_JOINING: Final = "\u0300"  # below it, no two characters but CR and LF are one cluster


class Chunker:
    """Cuts a text that arrives in pieces into chunks; where it cuts depends on the text alone.

    The chunks joined are the text. Each has at least `min_chars`, and the next word would have brought it
    over `max_chars`, except that

    * the last one may be shorter, and so may one that `flush_words` did not let wait;
    * a word longer than `max_chars` is a chunk by itself, or the end of one that was too short without it;
    * no chunk is longer than `max_chunk`: a longer word is cut, between clusters, and what stands before a
      word that no longer fits may be shorter than `min_chars`;
    * a cluster is never cut. One longer than `max_chunk` (letters under a pile of marks) is a chunk, up to
      `MAX_CLUSTER`.

    Characters are Unicode code points, white space counts.

    Args:
        min_chars: below it, the next word is added whatever its length.
        max_chars: above it, the next word starts a new chunk.
        max_chunk: the longest chunk.
    """

    __slots__ = (
        "_held",
        "_held_chars",
        "_max_chars",
        "_max_chunk",
        "_min_chars",
        "_phrase",
        "_scan_at",
        "_word",
        "_word_ends",
    )

    def __init__(self, min_chars: int = 5, max_chars: int = 10, max_chunk: int = 64) -> None:
        if not 1 <= min_chars <= max_chars <= max_chunk:
            raise ValueError(f"chunk sizes out of order: 1 <= {min_chars} <= {max_chars} <= {max_chunk}")
        self._min_chars = min_chars
        self._max_chars = max_chars
        self._max_chunk = max_chunk
        # Left to right: whole words, the word being read, the text that may still be part of one cluster.
        self._phrase = ""
        self._word = ""
        self._word_ends = False
        self._held: list[str] = []
        self._held_chars = 0
        self._scan_at = 0

    def feed(self, text: str) -> list[str]:
        """The chunks that this text completes. What a following text could still change is held back."""
        chunks: list[str] = []
        if len(text) < _WINDOW and self._held_chars < 2:  # as nearly each token
            window = self._held[0] + text if self._held else text
            if window.isascii() and "\r" not in window:
                self._add_ascii(window, chunks)
                return chunks
        for start in range(0, len(text), _WINDOW):
            window = self._held_with(text[start : start + _WINDOW])
            if window.isascii() and "\r" not in window:
                self._add_ascii(window, chunks)
            else:
                for cluster in self._clusters(window):
                    self._add(cluster, chunks)
        return chunks

    def flush(self) -> list[str]:
        """All that is held back, because the text ends here. Afterwards the chunker is as new."""
        chunks: list[str] = []
        for cluster in _CLUSTER.findall("".join(self._held)):
            self._add(cluster, chunks)
        self._held, self._held_chars, self._scan_at = [], 0, 0
        self._end_word()
        self._emit(chunks)
        return chunks

    def unfeed(self) -> str:
        """All that is held back, as it came: it goes another way. Afterwards the chunker is as new."""
        text = self._phrase + self._word + "".join(self._held)
        self._phrase, self._word, self._word_ends = "", "", False
        self._held, self._held_chars, self._scan_at = [], 0, 0
        return text

    @property
    def holds_words(self) -> bool:
        """True if `flush_words` would return any."""
        return self._word_ends or bool(self._phrase)

    def flush_words(self) -> list[str]:
        """The whole words that are held back to be joined with a further one, which may be long in coming."""
        chunks: list[str] = []
        if self._word_ends:
            self._end_word()
        self._emit(chunks)
        return chunks

    def _held_with(self, text: str) -> str:
        """Add to what is held back; return it, or "" while it is a cluster that is not to be read again so
        soon."""
        self._held.append(text)
        self._held_chars += len(text)
        return "" if self._held_chars < self._scan_at else "".join(self._held)

    def _clusters(self, text: str) -> list[str]:
        """Whole clusters. The last one stays: that a cluster has ended is only seen at the next character."""
        clusters: list[str] = _CLUSTER.findall(text)
        if len(clusters[-1]) >= MAX_CLUSTER:
            self._held, self._held_chars, self._scan_at = [], 0, 0
            return clusters
        last = clusters.pop()
        self._held, self._held_chars = [last], len(last)
        # A cluster without end is read again only when it has doubled, or each mark would cost all before it.
        self._scan_at = min(2 * len(last), MAX_CLUSTER) if len(last) > self._max_chunk else 0
        return clusters

    def _add_ascii(self, text: str, chunks: list[str]) -> None:
        """ASCII without CR, where each character is a cluster: whole words at once cost a fraction."""
        if not text:
            return
        self._held, self._held_chars = [text[-1]], 1
        phrase, word, ends, most = self._phrase, self._word, self._word_ends, self._max_chunk
        for more in _words(text, len(text) - 1):
            size = len(word) + len(more)
            if size > most:
                self._phrase, self._word, self._word_ends = phrase, word, ends
                for character in more:  # it may have to be cut
                    self._add(character, chunks)
                phrase, word, ends = self._phrase, self._word, self._word_ends
                continue
            # As `_add`, without its calls.
            if ends and not more[0].isspace():
                size -= len(word)
                phrase, word = phrase + word, ""
            if phrase:
                size += len(phrase)
                if size > (self._max_chars if len(phrase) >= self._min_chars else most):
                    chunks.append(phrase)
                    phrase = ""
            word = word + more if word else more
            ends = more[-1].isspace()
        self._phrase, self._word, self._word_ends = phrase, word, ends

    def _add(self, cluster: str, chunks: list[str]) -> None:
        # White space with a mark on it is something to see, and Python does not call it a space.
        space = cluster.isspace()
        if self._word_ends and not space:
            self._end_word()
        self._make_room(len(cluster), chunks)
        self._word += cluster
        self._word_ends = space or (cluster >= _FIRST_UNSPACED and _UNSPACED.match(cluster) is not None)

    def _make_room(self, chars: int, chunks: list[str]) -> None:
        """Send what the word being read can no longer join, and cut the word if it is longer than a chunk."""
        word = len(self._word) + chars
        most = self._max_chars if len(self._phrase) >= self._min_chars else self._max_chunk
        if len(self._phrase) + word > most:
            self._emit(chunks)
        if word > self._max_chunk:
            self._phrase, self._word = self._word, ""
            self._emit(chunks)

    def _end_word(self) -> None:
        self._phrase += self._word
        self._word, self._word_ends = "", False

    def _emit(self, chunks: list[str]) -> None:
        if self._phrase:
            chunks.append(self._phrase)
            self._phrase = ""


def _words(text: str, end: int) -> list[str]:
    """The words before `end`, each with the white space behind it."""
    if not text.isprintable():  # there may be other white space than spaces
        found: list[str] = _WORD.findall(text, 0, end)
        return found
    words: list[str] = []
    at = 0
    while at < end:
        behind = text.find(" ", at, end) + 1 or end
        while behind < end and text[behind] == " ":
            behind += 1
        words.append(text[at:behind])
        at = behind
    return words


def split(text: str, size: int) -> Iterator[str]:
    """A long text in pieces of about `size` characters, which joined are the text.

    Cheaper than a `Chunker`: it looks at the text around its cuts alone. A piece ends behind a space, or
    where there is none, between clusters. The work for a piece is about as long as the piece.
    """
    start = 0
    while len(text) - start > size:
        end = start + size
        space = text.rfind(" ", start, end)
        # A mark may stand on a space.
        at_space = space > start and _is_apart(text, space + 1)
        cut = space + 1 if at_space else _end_of_cluster(text, start, end)
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]


def _is_apart(text: str, at: int) -> bool:
    """True if a cluster certainly ends there: in most texts, at a glance."""
    before, after = text[at - 1], text[at]
    if before < _FIRST_JOINING and after < _FIRST_JOINING:
        return before + after != "\r\n"
    return before == " " and _cluster_end(text[at - 1 : at + 1], 0) == 1


def _end_of_cluster(text: str, start: int, end: int) -> int:
    """The first place from `end` on, or a little before it, where a cluster ends."""
    if _is_apart(text, end):
        return end
    at = max(start, end - _WINDOW)
    # Flags are pairs of letters, and which are a pair only the beginning of their row says.
    row = start + len(text[start:at].rstrip(_FLAG_LETTERS))
    at -= (at - row) % 2
    # A window of its own, since the expression looks back as far as it can.
    window = text[at : end + _WINDOW]
    ends = last = 0
    while ends < end - at:
        last, ends = ends, _cluster_end(window, ends)
    if ends == len(window):
        ends = last + _cluster_end(text[at + last : at + last + MAX_CLUSTER], 0)
    return at + ends


def _cluster_end(text: str, start: int) -> int:
    found = _CLUSTER.match(text, start)
    assert found is not None, "there is text"
    return int(found.end())
