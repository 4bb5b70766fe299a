"""`Accept`: names and weights, as RFC 9110 has them."""

import pytest

from flags.decision import Accept
from proxy.http.accept import accepted, takes_json, without_dialect

EVENTS = {
    "text/event-stream": Accept.ONLY_STREAM,
    "text/event-stream;q=0.1": Accept.ONLY_STREAM,
    "text/event-stream, application/json;q=0": Accept.ONLY_STREAM,
    "text/event-stream, application/json;q=0.000, */*": Accept.ONLY_STREAM,
    "text/html, text/event-stream;q=0.1": Accept.ONLY_STREAM,
    "text/event-stream, application/json": Accept.EITHER,
    "application/json;q=0.9, text/event-stream": Accept.EITHER,
    "text/event-stream;q=0.5, */*;q=0.1": Accept.EITHER,
    "text/event-stream;q=0.5, application/json;q=0.5": Accept.EITHER,
    "text/event-stream; charset=utf-8;q=1.000, application/*;q=0.999": Accept.EITHER,
    "text/event-stream;q=0, text/event-stream": Accept.ONLY_STREAM,
    "text/event-stream;q=much, application/json": Accept.EITHER,
    "text/event-stream;q=0": Accept.NONE,
    "text/event-stream;q=0.0, */*": Accept.NONE,
    "text/event-stream;q=0.5, application/json": Accept.NONE,
    "text/event-stream;q=0.5, */*": Accept.NONE,
    "application/json;q=0.2, */*;q=0.9, text/event-stream;q=0.1": Accept.NONE,
    "*/*": Accept.NONE,
    "text/*": Accept.NONE,
    'application/json;profile="a, text/event-stream"': Accept.NONE,
    "": Accept.NONE,
}


@pytest.mark.parametrize("value", EVENTS)
def test_events_are_for_who_names_them_and_likes_them_no_less_than_json(value: str) -> None:
    """`*/*` asks for none; `q=0` refuses; of JSON the most specific range counts."""
    assert accepted([(b"x", b"text/event-stream"), (b"accept", value.encode())]) is EVENTS[value]


def test_two_lines_are_one_list() -> None:
    """RFC 9110 5.3."""
    assert accepted([(b"accept", b"application/json"), (b"accept", b"text/event-stream")]) is Accept.EITHER


@pytest.mark.parametrize(
    ("values", "takes"),
    [
        ([], True),
        (["*/*"], True),
        (["application/json"], True),
        (["text/html", "application/*;q=0.1"], True),
        (["application/json;q=0, */*"], False),
        (["text/csv"], False),
        (["*/*;q=0"], False),
    ],
)
def test_json_is_for_who_does_not_refuse_it(values: list[str], takes: bool) -> None:
    """A client that says nothing takes anything."""
    assert takes_json([(b"accept", value.encode()) for value in values]) is takes


@pytest.mark.parametrize(
    ("accept", "target", "expected"),
    [
        ("text/event-stream", "/a?dialect=openai", "/a"),
        ("text/event-stream", "/a?b=1&dialect=openai&c=%20", "/a?b=1&c=%20"),
        ("text/event-stream", "/a?dialect=openai&c", "/a?c"),
        ("text/event-stream", "/a?b=?&dialect=openai", "/a?b=?"),
        ("text/event-stream", "/a?dialect=other", "/a?dialect=other"),
        ("text/event-stream", "/a?mydialect=openai&", "/a?mydialect=openai&"),
        ("text/event-stream", "/dialect=openai", "/dialect=openai"),
        ("text/event-stream;dialect=openai", "/a?dialect=openai", "/a?dialect=openai"),
    ],
)
def test_a_dialect_of_the_query_is_taken_off_where_it_is_acted_on(
    accept: str, target: str, expected: str
) -> None:
    """All else stays as it is, byte for byte."""
    left = without_dialect([(b"accept", accept.encode())], target.encode(), {"openai"})

    assert left.decode() == expected
