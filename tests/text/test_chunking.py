"""Text to words. Whatever the text and however it arrives, the chunks are the text, cut where one may cut."""

import time
from itertools import accumulate, pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.text.chunking import Chunker, split

FAMILY = "👨‍👩‍👧‍👦"
FLAG = "🇨🇭"
ZALGO = "Z" + "\u0301" * 100

# Characters that stick together in every way that Unicode knows, and those that keep others apart.
STICKY = [
    "a", "word", " ", "  ", "\n", "\r", "\r\n", "\t", ".", "\0", "\u2028", "\xa0", "\ufeff", "\u0600",
    "\u0301", "\u200d", "\ufe0f", "👨", "👩", "👍", "🏽", "🇨", "🇭", "ᄀ", "ᅡ", "ᆨ", "क", "्", "ष",
    "ก", "\u0e33", "病", "。", "か", "\u3099", ZALGO,
]  # fmt: skip
any_text = st.text() | st.lists(st.sampled_from(STICKY)).map("".join)


def chunks_of(text: str, *sizes: int) -> list[str]:
    return fed([text], *sizes)


def fed(pieces: list[str], *sizes: int) -> list[str]:
    chunker = Chunker(*sizes)
    return [chunk for piece in pieces for chunk in chunker.feed(piece)] + chunker.flush()


def cut(text: str, places: list[int]) -> list[str]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


def ends(parts: list[str]) -> set[int]:
    return set(accumulate(len(part) for part in parts))


# Properties


@settings(max_examples=300, deadline=None)
@given(any_text, st.lists(st.integers(0, 500)))
def test_the_chunks_joined_are_the_text(text: str, places: list[int]) -> None:
    """Nothing is lost, nothing comes twice, nothing is changed, for any Unicode and any feeding."""
    chunks = fed(cut(text, places))

    assert "".join(chunks) == text
    assert all(chunks)


@settings(max_examples=300, deadline=None)
@given(any_text, st.lists(st.integers(0, 500)))
def test_where_a_text_is_cut_depends_on_the_text_alone(text: str, places: list[int]) -> None:
    """A viewer gets the same chunks from a source that drips and from one that pours."""
    whole = chunks_of(text)

    assert fed(cut(text, places)) == whole
    assert fed(list(text)) == whole


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["a", "word", " ", "   ", "longer-word", "."])).map("".join))
def test_white_space_of_any_kind_parts_words(text: str) -> None:
    """Spaces alone are looked for in another way, which finds the same."""
    for space in "\t\n\v\f\x1c\u2003":
        assert chunks_of(text.replace(" ", space)) == [part.replace(" ", space) for part in chunks_of(text)]


@settings(max_examples=300, deadline=None)
@given(any_text, st.lists(st.integers(0, 500)), st.sampled_from([(5, 10, 64), (1, 1, 1), (2, 3, 5)]))
def test_a_character_as_a_reader_sees_it_is_never_cut(
    text: str, places: list[int], sizes: tuple[int, int, int]
) -> None:
    """Every cut is between two grapheme clusters of the whole text, also across feeds."""
    chunks = fed(cut(text, places), *sizes)

    assert ends(chunks) <= ends(regex.findall(r"\X", text))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("aé9.-(", min_size=1, max_size=64).map(lambda word: word + " ")))
def test_a_word_is_never_cut_and_a_chunk_is_as_long_as_it_may_be(words: list[str]) -> None:
    """Against a second reading of the rule: 5 characters or more, and one more word would be over 10."""
    words = [word for word in words if len(word) <= 60]  # what stands before it may have four more
    chunks = chunks_of("".join(words))

    assert ends(chunks) <= ends(words)
    before = dict(zip(accumulate(len(word) for word in words), words, strict=True))
    after = dict(zip(before, words[1:], strict=False))
    at = 0
    for chunk in chunks[:-1]:
        at += len(chunk)
        assert len(chunk) >= 5
        assert len(chunk) + len(after[at]) > 10
        assert len(chunk) <= 10 or len(chunk) - len(before[at]) < 5


@settings(max_examples=200, deadline=None)
@given(any_text)
def test_no_chunk_is_longer_than_the_longest(text: str) -> None:
    """Over `max_chunk` a chunk is one grapheme cluster that is longer itself."""
    for chunk in chunks_of(text):
        assert len(chunk) <= 64 or len(regex.findall(r"\X", chunk)) == 1


# Examples


def test_a_sentence_is_cut_into_short_phrases() -> None:
    """Whole words, 5 to 10 characters; a word carries the space behind it."""
    text = "Fever of 38.9 °C for 3 days, non-productive cough; no known allergies."

    assert chunks_of(text) == [
        "Fever of ",
        "38.9 °C ",
        "for 3 ",
        "days, ",
        "non-productive ",
        "cough; no ",
        "known ",
        "allergies.",
    ]


def test_a_short_word_takes_the_next_one_with_it() -> None:
    """At least five characters, even if the next word is long."""
    assert chunks_of("a tachycardia of 120") == ["a tachycardia ", "of 120"]


def test_white_space_belongs_to_the_word_before_it() -> None:
    """Also line ends and several spaces; at the start of a text it stands before the first word."""
    assert chunks_of("\n\nFindings:\n\n  1. Fever") == ["\n\nFindings:\n\n  ", "1. Fever"]


def test_a_chunk_is_given_as_soon_as_it_is_certain() -> None:
    """It is certain when the next word has begun or can no longer fit; a mark could still follow the last
    letter."""
    chunker = Chunker()

    assert chunker.feed("pneumonia ") == []
    assert chunker.feed("is") == ["pneumonia "]
    assert chunker.feed(" very lik") == []
    assert chunker.feed("e") == ["is very "]
    assert chunker.flush() == ["like"]


def test_the_last_word_comes_with_the_flush() -> None:
    """A flush gives what is held, and leaves the chunker as new."""
    chunker = Chunker()
    chunker.feed("e")

    assert chunker.flush() == ["e"]
    assert chunker.flush() == []
    assert chunker.feed("\u0301") == []
    assert chunker.flush() == ["\u0301"]


@pytest.mark.parametrize("character", [FAMILY, FLAG, "e\u0301", "\r\n", "한", "각", "क्ष", "👍🏽", "\u0600 "])
def test_a_character_that_arrives_in_parts_stays_whole(character: str) -> None:
    """A cut could be right behind it, and its parts come one by one."""
    text = "seven " + character * 3 + " more"

    for chunk in fed(list(text), 1, 1, 1):
        assert regex.findall(r"\X", chunk) == [chunk] or chunk.isspace()


def test_a_script_without_spaces_is_not_one_long_word() -> None:
    """Chinese arrives in phrases of ten characters, not by the paragraph."""
    assert chunks_of("病人发热三天，体温三十八度九。") == ["病人发热三天，体温三", "十八度九。"]


def test_a_word_without_end_is_cut_where_it_must_be() -> None:
    """Base64 goes out in pieces of `max_chunk`; so does white space."""
    assert chunks_of("x" * 130) == ["x" * 64, "x" * 64, "xx"]
    assert chunks_of("a " + "x" * 70) == ["a ", "x" * 64, "x" * 6]
    assert chunks_of("a" + " " * 100) == ["a" + " " * 63, " " * 37]


def test_a_character_longer_than_a_chunk_is_a_chunk() -> None:
    """A letter under a hundred marks is not cut; the letters around it are not affected."""
    assert chunks_of("before " + ZALGO + " after") == ["before ", ZALGO, " after"]


@pytest.mark.parametrize("sizes", [(0, 10, 64), (11, 10, 64), (5, 10, 9)])
def test_sizes_in_the_wrong_order_are_refused(sizes: tuple[int, int, int]) -> None:
    """A chunk cannot be longer than the longest."""
    with pytest.raises(ValueError, match="out of order"):
        Chunker(*sizes)


# Cost


@pytest.mark.parametrize(
    "unit",
    ["The patient has a fever of 38.9 °C. ", "x", " ", "\u0301", "🇨", FAMILY, "病", "\r"],
    ids=["prose", "word", "space", "marks", "flags", "emoji", "han", "cr"],
)
@pytest.mark.parametrize("size", [1, 1 << 16], ids=["drip", "pour"])
def test_a_long_text_is_cut_in_seconds(unit: str, size: int) -> None:
    """250,000 characters in half a second or so; some of these took minutes at O(n²)."""
    text = (unit * (250_000 // len(unit) + 1))[:250_000]

    start = time.process_time()
    chunks = fed([text[at : at + size] for at in range(0, len(text), size)])
    assert time.process_time() - start < 2
    assert sum(map(len, chunks)) == len(text)


@given(st.text(max_size=400), st.integers(1, 60))
def test_a_long_text_is_split_into_itself(text: str, size: int) -> None:
    """Joined, the pieces are the text, and no character a reader sees is cut."""
    pieces = list(split(text, size))

    assert "".join(pieces) == text
    assert all(pieces)
    ends = {found.end() for found in regex.finditer(r"\X", text)}
    assert set(accumulate(map(len, pieces))) <= ends


def test_a_long_text_is_split_behind_spaces() -> None:
    """The space nearest to the size is taken."""
    pieces = list(split("fever and chills " * 100, 100))

    assert {piece[-1] for piece in pieces} == {" "}
    assert max(map(len, pieces)) <= 100
    assert min(map(len, pieces[:-1])) > 80
