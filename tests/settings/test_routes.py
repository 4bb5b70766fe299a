"""The requests of routes: settings' routes, compiled."""

import random
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.settings.blocks.route import RouteSettings
from proxy.settings.routes import PathTemplate, Route, Routes
from tests.servers.streaming import route

ROUTES = Routes(
    [
        RouteSettings.model_validate(route()),
        RouteSettings.model_validate(route(name="any", match="POST /api/{kind}/{case_id}", stream_path=None)),
        RouteSettings.model_validate(route(name="dots", match="GET /a.b/c+d", stream_path=None)),
    ]
)


@pytest.mark.parametrize(
    ("method", "target", "name", "parameters"),
    [
        ("POST", b"/api/cases/7/start", "start", {"case_id": "7"}),
        ("POST", b"/api/cases/7/start?x=/api", "start", {"case_id": "7"}),
        ("POST", b"/api/cases/a%2Fb%20c/start", "start", {"case_id": "a%2Fb%20c"}),
        ("POST", b"/api/cases/7", "any", {"kind": "cases", "case_id": "7"}),
        ("GET", b"/a.b/c+d", "dots", {}),
    ],
)
def test_a_request_is_matched_by_method_and_path(
    method: str, target: bytes, name: str, parameters: dict[str, str]
) -> None:
    """Parameters stand for one segment each, and stay as they were encoded; a query changes nothing."""
    match = ROUTES.match(method, target)

    assert match is not None
    assert (match.route.name, dict(match.parameters), match.by_stream_path) == (name, parameters, False)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", b"/api/cases/7/start"),
        ("POST", b"/api/cases/7/start/"),
        ("POST", b"/api/cases//start"),
        ("POST", b"/api/cases/7/8/start"),
        ("POST", b"/API/cases/7/start"),
        ("POST", b"/x/api/cases/7/start"),
        ("POST", b"/api/cases/7/start/stream"),
        ("GET", b"/aXb/c+d"),
        ("HEAD", b"/api/cases/7/start/stream"),
        ("OPTIONS", b"*"),
        ("POST", b"/api/cases/../start"),
        ("POST", b"/api/cases/%2e%2E/start"),
        ("POST", b"/api/cases/."),
    ],
)
def test_everything_else_is_nobodys(method: str, target: bytes) -> None:
    """A slash, a segment, a letter's case or a method more or less is another resource."""
    assert ROUTES.match(method, target) is None


def test_the_stream_path_is_a_get() -> None:
    """EventSource can only GET; the parameters are those of the request it stands for."""
    match = ROUTES.match("GET", b"/api/cases/7/start/stream?a=1")

    assert match is not None
    assert match.by_stream_path
    assert match.route.path.fill(match.parameters) == "/api/cases/7/start"


@given(
    st.lists(
        st.text(st.sampled_from(string.ascii_letters + string.digits + "%-._~!$&'()*+,;=:@"), min_size=1),
        min_size=2,
        max_size=2,
    )
)
def test_what_was_matched_is_filled_in_again(segments: list[str]) -> None:
    """Matching and filling are each other's inverse, whatever the segments hold."""
    assume(not any(segment.lower().replace("%2e", ".") in {".", ".."} for segment in segments))
    template = PathTemplate("/a/{one}/b.c/{two}")
    path = f"/a/{segments[0]}/b.c/{segments[1]}"
    routes = Routes([RouteSettings.model_validate(route(match=f"POST {template.text}", stream_path=None))])

    match = routes.match("POST", path.encode())

    assert match is not None
    assert template.fill(match.parameters) == path


def test_the_first_route_that_fits_counts() -> None:
    """In the order of the settings."""
    order = [
        RouteSettings.model_validate(route(name=name, match=f"POST {path}", stream_path=None))
        for name, path in (("special", "/a/b"), ("general", "/a/{x}"))
    ]
    special = Routes(order).match("POST", b"/a/b")
    general = Routes(order[::-1]).match("POST", b"/a/b")

    assert special is not None
    assert general is not None
    assert (special.route.name, general.route.name) == ("special", "general")


def test_any_bytes_may_be_asked_for() -> None:
    """A target is bytes of a stranger: it never raises."""
    dice = random.Random(1)
    for _ in range(500):
        target = b"/" + dice.randbytes(dice.randint(0, 40))
        ROUTES.match("POST", target)
        ROUTES.match("GET", target)


def test_an_error_sentence_is_known_by_the_routes_pattern() -> None:
    """Without a pattern every text is an answer."""
    strict = Route.compile(RouteSettings.model_validate(route()))
    lax = Route.compile(RouteSettings.model_validate(route(failure_text=None)))

    assert strict.is_failure("Error generating response from chat history: x")
    assert not strict.is_failure("No Error generating response")
    assert not lax.is_failure("Error generating response from chat history: x")
