"""JSON paths to panels, early and late; parity."""

import json
import time
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.text.sections import BodyTooLarge, MalformedBody, Parity, Reader, Section, compare, extract

EXTRACTION = Section.compile(
    "extraction", "reasoning", "$.result.backend_results.extraction.extracted_factors"
)
SUMMARY = Section.compile("summary", "chat", "$.result.summary")
SECOND = Section.compile("second", "chat", "$['result']['list'][1].text")
LAST = Section.compile("last", "chat", "$.result.list[-1].text")
ALL = [EXTRACTION, SUMMARY, SECOND, LAST]

DOCUMENT = {
    "result": {
        "summary": 'Pneumonia – "likely"? 😀\n病',
        "backend_results": {
            "extraction": {"extracted_factors": "Fever of 38.9 °C", "n": [1, -2.5, True, None]}
        },
        "list": [[], {"text": "one"}, {}, {"other": {}, "text": "two"}],
        "": {"summary": "no"},
    },
    "summary": "not this one",
    "numbers": [0, 12345678901234567890, 1e300, [[["deep"]]]],
}
COMPACT = orjson.dumps(DOCUMENT)
# Escapes for all that is not ASCII, and white space between all tokens.
ESCAPED = json.dumps(DOCUMENT, indent=2).encode()
BODIES = pytest.mark.parametrize("body", [COMPACT, ESCAPED], ids=["compact", "escaped"])


def read(pieces: list[bytes], sections: list[Section] = ALL) -> tuple[dict[str, str], Any]:
    """The texts that came early, and the document."""
    reader = Reader(sections, max_bytes=1 << 24)
    early = [found for piece in pieces for found in reader.feed(piece)]
    assert len({section.stage for section, _ in early}) == len(early)
    assert reader.body == b"".join(pieces)
    return {section.stage: text for section, text in early}, reader.close()


# Sections


def test_a_section_is_the_one_string_at_its_path() -> None:
    """Names, indices from the start and from the end, filters that match once."""
    chosen = Section.compile("chosen", "chat", "$.result.list[?@.other].text")

    assert extract(DOCUMENT, [*ALL, chosen]) == {
        "extraction": "Fever of 38.9 °C",
        "summary": 'Pneumonia – "likely"? 😀\n病',
        "second": "one",
        "last": "two",
        "chosen": "two",
    }


@pytest.mark.parametrize(
    "at",
    ["$.nothing", "$.result", "$.numbers[0]", "$.result.list[*].text", "$..summary", "$.result.list[9]", "$"],
)
def test_what_is_not_one_string_is_no_section(at: str) -> None:
    """Absent, an object, a number, several matches: there is nothing to show, and nothing is guessed."""
    assert Section.compile("s", "chat", at).find(DOCUMENT) is None


def test_a_path_means_what_rfc_9535_says() -> None:
    """An index is of an array, a name of an object; a string is not looked into."""
    index, name = Section.compile("s", "p", "$.a[0]"), Section.compile("s", "p", "$.a['0']")

    assert index.find({"a": {"0": "x"}}) is None
    assert name.find({"a": ["x"]}) is None
    assert index.find({"a": "x"}) is None
    assert index.find('{"a": ["x"]}') is None


def test_an_answer_that_is_a_string_can_be_the_section() -> None:
    """The path of the root is the whole answer, also when it looks like JSON itself."""
    root = Section.compile("answer", "chat", "$")

    assert root.find('{"a": 1}') == '{"a": 1}'
    assert read([b'"hel', b'lo"'], [root]) == ({"answer": "hello"}, "hello")


def test_an_answer_too_deep_to_search_has_no_section() -> None:
    """A hostile answer does not bring down the run."""
    deep: dict[str, Any] = {"text": "x"}
    for _ in range(500):
        deep = {"a": deep}

    assert Section.compile("s", "p", "$..text").find(deep) is None


@pytest.mark.parametrize(
    "at", ["", "result.summary", "$.a[", "$.a | $.b", "$ ", "$.a.0", "^.a", "$[?nofn(@)]"]
)
def test_a_path_that_is_none_is_refused_by_name(at: str) -> None:
    """The message has the expression as it was written, for whoever has to find it in the settings."""
    with pytest.raises(ValueError, match="not a JSONPath") as caught:
        Section.compile("s", "p", at)
    assert repr(at) in str(caught.value)


# Reader


@BODIES
def test_a_body_cut_anywhere_gives_the_same_texts(body: bytes) -> None:
    """Cut in two at every byte, inside an escape, a surrogate pair, a UTF-8 sequence or a number."""
    expected = extract(DOCUMENT, [EXTRACTION, SUMMARY, SECOND])

    for at in range(len(body) + 1):
        early, document = read([body[:at], body[at:]])
        assert (early, document) == (expected, orjson.loads(body))


@BODIES
def test_a_body_that_drips_gives_the_same_texts(body: bytes) -> None:
    """Byte by byte, with empty reads between, which are not the end."""
    drops = [piece for at in range(len(body)) for piece in (body[at : at + 1], b"")]

    assert read(drops) == (extract(DOCUMENT, [EXTRACTION, SUMMARY, SECOND]), orjson.loads(body))


@BODIES
def test_a_text_is_given_at_its_closing_quote(body: bytes) -> None:
    """Not one byte later: the rest of the answer may take a minute."""
    reader = Reader([SUMMARY], max_bytes=1 << 20)
    text = orjson.dumps(DOCUMENT["result"]["summary"])  # type: ignore[index]
    if body is ESCAPED:
        text = json.dumps(orjson.loads(text)).encode()
    end = body.index(text) + len(text)

    assert reader.feed(body[: end - 1]) == []
    assert reader.feed(body[end - 1 : end]) == [(SUMMARY, DOCUMENT["result"]["summary"])]  # type: ignore[index]


def test_a_path_from_the_end_waits_for_the_document() -> None:
    """The last element is known at the end only; the document has it."""
    early, document = read([COMPACT], [LAST])

    assert LAST.keys is None
    assert early == {}
    assert extract(document, [LAST]) == {"last": "two"}


numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text()
json_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", ""]), inner, max_size=3)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(json_values, st.booleans(), st.integers(1, 20))
def test_early_texts_are_the_texts_of_the_document(value: object, ascii_only: bool, size: int) -> None:
    """For any document and any path of names and indices, early and late agree."""
    paths = [
        "$",
        "$.a",
        "$.b",
        "$['']",
        "$[0]",
        "$[1]",
        "$.a.a",
        "$.a[0]",
        "$.a[1].b",
        "$[1][0]",
        "$.b.a['']",
    ]
    sections = [Section.compile(at, "p", at) for at in paths]
    body = json.dumps(value, ensure_ascii=ascii_only).encode()

    early, document = read([body[at : at + size] for at in range(0, len(body), size)], sections)
    assert early == extract(document, sections) == extract(value, sections)


def test_two_sections_may_show_one_text() -> None:
    """The same place in two panels."""
    other = Section.compile("other", "reasoning", "$.result.summary")

    early, _ = read([COMPACT], [SUMMARY, other])
    assert early == {"summary": early["other"], "other": early["summary"]}


def test_of_a_name_that_stands_twice_the_first_comes_early() -> None:
    """The document has the last; the comparison at the end finds it out."""
    early, document = read([b'{"result":{"summary":"first","summary":"last"}}'], [SUMMARY])

    assert early == {"summary": "first"}
    assert extract(document, [SUMMARY]) == {"summary": "last"}
    assert compare("first", "last") == (Parity.REPLACED, "last")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        COMPACT[:-1],
        COMPACT + b"x",
        COMPACT + COMPACT,
        b"\xef\xbb\xbf",
        b"\xef\xbb{}",
        b"{'a': 1}",
        b"[1,]",
        b"[01]",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"a\nb"',
        b"<html>502 Bad Gateway</html>",
        b"[" * 100_000,
    ],
    ids=range(15),
)
def test_a_body_that_is_not_json_is_malformed(body: bytes) -> None:
    """Cut off, more than one, not UTF-8, or something else altogether."""
    for pieces in ([body], [body[at : at + 1] for at in range(min(len(body), 2000))] + [body[2000:]]):
        reader = Reader([SUMMARY], max_bytes=1 << 20)
        for piece in pieces:
            reader.feed(piece)
        with pytest.raises(MalformedBody, match="not JSON"):
            reader.close()


@pytest.mark.parametrize("body", [b'{"result":{"summary":"yes"},"x":', b'{"result":{"summary":"yes"},,'])
def test_a_body_that_breaks_has_given_what_came_before(body: bytes) -> None:
    """The text is there and is kept; that the answer is not whole is said at its end."""
    reader = Reader([SUMMARY], max_bytes=1 << 20)

    assert reader.feed(body) == [(SUMMARY, "yes")]
    assert reader.feed(b"}") == []
    with pytest.raises(MalformedBody):
        reader.close()


@pytest.mark.parametrize(
    "text",
    [rb"\ud800", rb"really\ud83d?", rb"\udbff\u0041", rb"\uDC00", rb"\uD83D\n", rb"\ud83d\ud83d\ude00"],
    ids=range(6),
)
def test_a_text_that_no_json_can_mean_is_not_shown(text: bytes) -> None:
    """A lone surrogate is not shown as a question mark, nor as anything else: it has no UTF-8."""
    reader = Reader([SUMMARY], max_bytes=1 << 20)

    assert reader.feed(b'{"result":{"summary":"' + text + b'"}}') == []
    assert extract(reader.close(), [SUMMARY]) == {}


@pytest.mark.parametrize(
    "odd", [b"NaN", b"-Infinity", b"1e400", b"9" * 5000, b"-" + b"9" * 5000, rb'"\ud800"'], ids=range(6)
)
def test_what_is_odd_elsewhere_costs_no_text(odd: bytes) -> None:
    """An upstream in Python writes it, and one reads it: the texts beside it are as good as without it."""
    reader = Reader([SUMMARY], max_bytes=1 << 20)
    reader.feed(b'{"odd":' + odd + b',"result":{"summary":"yes"}}')

    assert extract(reader.close(), [SUMMARY]) == {"summary": "yes"}


def test_a_backslash_before_what_looks_like_a_surrogate_only_costs_earliness() -> None:
    """The text of a manual about JSON comes with the document, whole."""
    body = orjson.dumps({"result": {"summary": r"write \ud83d for it"}})

    early, document = read([body], [SUMMARY])
    assert early == {}
    assert extract(document, [SUMMARY]) == {"summary": r"write \ud83d for it"}


def test_numbers_that_the_early_parser_cannot_read_only_cost_earliness() -> None:
    """orjson decides what a body is worth."""
    body = b'{"n":1' + b"0" * 300 + b',"m":12345678901234567890123,"result":{"summary":"yes"}}'

    early, document = read([body], [SUMMARY])
    assert early in ({}, {"summary": "yes"})
    assert extract(document, [SUMMARY]) == {"summary": "yes"}


def test_a_body_over_the_limit_is_refused() -> None:
    """Exactly the limit is read; one byte more is not, and is not held."""
    reader = Reader([SUMMARY], max_bytes=4)
    reader.feed(b"[1")
    reader.feed(b"2]")

    with pytest.raises(BodyTooLarge, match="4 bytes"):
        reader.feed(b" ")
    assert reader.body == b"[12]"
    assert reader.close() == [12]


def test_a_reader_without_sections_only_keeps_the_body() -> None:
    """Then nothing is parsed before the end."""
    assert read([COMPACT], []) == ({}, orjson.loads(COMPACT))


@pytest.mark.parametrize("size", [16, 1 << 16], ids=["drip", "pour"])
def test_half_a_megabyte_is_read_in_linear_time(size: int) -> None:
    """A long text and many small values, in small reads."""
    body = orjson.dumps({"x": list(range(40_000)), "result": {"summary": "y?" * 150_000}})

    start = time.process_time()
    early, _ = read([body[at : at + size] for at in range(0, len(body), size)], [SUMMARY])
    assert time.process_time() - start < 3
    assert len(early["summary"]) == 300_000


# Parity


@pytest.mark.parametrize(
    ("shown", "authority", "expected"),
    [
        ("Fever", "Fever", (Parity.EQUAL, "")),
        ("Fev", "Fever", (Parity.SUFFIX, "er")),
        ("", "Fever", (Parity.SUFFIX, "Fever")),
        ("Fever!", "Fever", (Parity.REPLACED, "Fever")),
        ("fever", "Fever", (Parity.REPLACED, "Fever")),
        ("Fever", "", (Parity.REPLACED, "")),
        (None, "Fever", (Parity.UNSHOWN, "Fever")),
        (None, "", (Parity.UNSHOWN, "")),
        ("Fever", None, (Parity.MISSING, "")),
        ("", None, (Parity.EQUAL, "")),
        (None, None, (Parity.EQUAL, "")),
        ("", "", (Parity.EQUAL, "")),
        ("e", "e\u0301", (Parity.SUFFIX, "\u0301")),
        ("\u00e9", "e\u0301", (Parity.REPLACED, "e\u0301")),
    ],
)
def test_what_was_shown_is_compared_with_the_authority(
    shown: str | None, authority: str | None, expected: tuple[Parity, str]
) -> None:
    """Code point by code point: text that only looks the same is not the same."""
    assert compare(shown, authority) == expected


@settings(deadline=None)
@given(st.none() | st.text("ab"), st.text("ab"))
def test_a_viewer_ends_with_what_the_authority_says(shown: str | None, authority: str) -> None:
    """Adding the rest, or replacing the whole, always makes the stored text."""
    parity, text = compare(shown, authority)

    after = text if parity is Parity.REPLACED else (shown or "") + text
    assert after == authority
