"""A trace id as a token: put in for a run, read at the model port, and taken out of what goes further."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.headers import Forwarding, request_headers
from proxy.http.tracing import TraceId, token_of, trace_ids_of, with_token, without_token

Fields = list[tuple[bytes, bytes]]

TOKEN = TraceId("c0ffee00" + "1" * 24)
ROOT = b"Root=1-c0ffee00-" + b"1" * 24
CLIENTS = b"4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = b"00-" + CLIENTS + b"-00f067aa0ba902b7-01"
XRAY = b"x-amzn-trace-id"


def value(headers: Fields, name: bytes) -> bytes:
    [found] = [value for each, value in headers if each == name]
    return found


def at_the_door(headers: Fields) -> Fields:
    return request_headers([(b"host", b"a"), *headers], Forwarding(x_forwarded="off"), None, "http", b"u")[1:]


def passed_on(headers: Fields) -> Fields:
    """Return what a backend's tracing makes of a trace context: the same trace, a span of its own."""
    parent, state = value(headers, b"traceparent"), value(headers, b"tracestate")
    return [(b"traceparent", parent[:36] + b"b" * 16 + parent[52:]), (b"tracestate", state)]


def test_a_run_has_a_trace_of_its_own_that_names_the_clients():
    """Recorded where the client's is; X-Ray's header says the same; the client's other members stay with its
    own trace."""
    came = [(b"x", b"1"), (b"traceparent", PARENT), (b"tracestate", b"congo=t61"), (XRAY, b"Root=1-a-b")]
    sent = with_token(came, TOKEN)
    parent = value(sent, b"traceparent")

    assert parent.startswith(b"00-" + TOKEN.encode() + b"-") and parent.endswith(b"-01")
    assert value(sent, b"tracestate") == b"hg-parent=" + PARENT
    assert value(sent, XRAY) == ROOT + b";Parent=" + parent[36:52] + b";Sampled=1"
    assert sent[0] == (b"x", b"1") and len(sent) == 4
    assert trace_ids_of(sent) == {TOKEN}


@pytest.mark.parametrize(
    ("came", "sampled"),
    [
        ([], b"0"),
        ([(b"traceparent", PARENT[:-2] + b"00")], b"0"),
        ([(b"traceparent", PARENT), (b"traceparent", PARENT)], b"0"),
        ([(b"traceparent", b"00-" + b"0" * 32 + PARENT[35:])], b"0"),
        ([(XRAY, b"Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1")], b"1"),
        ([(XRAY, b"Root=1-5759e988-bd862e3fe1be46a994272793")], b"0"),
    ],
    ids=["none", "not sampled", "two", "invalid", "of X-Ray, sampled", "of X-Ray"],
)
def test_what_nobody_records_of_the_client_nobody_records_here(came: Fields, sampled: bytes):
    """There is a new trace in any case."""
    sent = with_token(came, TOKEN)

    assert value(sent, b"traceparent").endswith(b"-0" + sampled)
    assert value(sent, XRAY).endswith(b";Sampled=" + sampled)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([(b"traceparent", PARENT)], {CLIENTS.decode()}),
        ([(XRAY, b"Self=1-2-3;Root=1-c0ffee00-" + b"1" * 24 + b";Parent=53995c3f42cd8ad8")], {TOKEN}),
        ([(XRAY, ROOT)], {TOKEN}),
        ([(b"traceparent", PARENT), (XRAY, ROOT)], {CLIENTS.decode(), TOKEN}),
        ([(b"traceparent", PARENT.upper())], set()),
        ([(b"traceparent", b"00-" + b"0" * 32 + PARENT[35:])], set()),
        ([(XRAY, b"Root=1-c0ffee00-" + b"1" * 23)], set()),
        ([(XRAY, b"XRoot=1-c0ffee00-" + b"1" * 24)], set()),
        ([(XRAY, b"Parent=1-c0ffee00-" + b"1" * 24)], set()),
        ([], set()),
    ],
)
def test_trace_ids_are_found_in_both_headers(headers: Fields, found: set[str]):
    """W3C's and X-Ray's; what is malformed is none."""
    assert trace_ids_of(headers) == found


@pytest.mark.parametrize("token", [TOKEN, None], ids=["of a run", "of a run that is over"])
def test_a_provider_gets_the_clients_trace(token: TraceId | None):
    """With the backend's own span in it, and none of ours."""
    call = passed_on(with_token([(b"traceparent", PARENT)], TOKEN))

    assert without_token(call, token) == [(b"traceparent", b"00-" + CLIENTS + b"-" + b"b" * 16 + b"-01")]


def test_a_provider_gets_no_trace_where_the_client_has_none():
    """Also no X-Ray header; members of others are of the trace that is taken out."""
    call = [*passed_on(with_token([], TOKEN)), (b"x", b"1"), (XRAY, ROOT)]
    call[1] = (b"tracestate", call[1][1] + b",congo=t61")

    assert without_token(call, TOKEN) == [(b"x", b"1")]


@pytest.mark.parametrize(
    "call",
    [[(b"traceparent", b"00-" + TOKEN.encode() + PARENT[35:])], [(XRAY, ROOT + b";Parent=53995c3f42cd8ad8")]],
    ids=["without tracestate", "of X-Ray"],
)
def test_a_token_whose_link_is_lost_is_taken_out_all_the_same(call: Fields):
    """The client's trace is broken then."""
    assert without_token([*call, (b"x", b"1")], TOKEN) == [(b"x", b"1")]


def test_another_trace_beside_a_token_stays():
    """A provider's call may carry a trace that is not ours."""
    call = [(b"traceparent", PARENT), (b"tracestate", b"congo=t61"), (XRAY, ROOT)]

    assert without_token(call, TOKEN) == call[:2]


def test_a_backends_own_request_to_headgate_does_not_carry_the_token_further():
    """It would name the run that it is made for; it has the client's trace again."""
    asked = passed_on(with_token([(b"traceparent", PARENT)], TOKEN))

    assert at_the_door(asked) == [(b"traceparent", b"00-" + CLIENTS + b"-" + b"b" * 16 + b"-01")]
    assert at_the_door(passed_on(with_token([], TOKEN))) == []


@pytest.mark.parametrize("forged", [b"hg-parent=none", b"hg-parent=", b"a=1,hg-parent=" + PARENT + b",b=2"])
def test_a_clients_own_link_changes_its_own_trace_alone(forged: bytes):
    """The member is dropped at the door; no token is found."""
    crossed = at_the_door([(b"traceparent", PARENT), (b"tracestate", forged)])

    assert not any(b"hg" in value for _, value in crossed)
    assert trace_ids_of(crossed) <= {CLIENTS.decode()}


@given(st.binary(max_size=80), st.binary(max_size=120))
def test_whatever_a_client_sends_the_run_has_the_token_and_the_provider_does_not(parent: bytes, state: bytes):
    """For every value of the two headers, and of X-Ray's."""
    came = [(b"traceparent", parent), (b"tracestate", state), (XRAY, state)]
    sent = with_token(without_token(came), TOKEN)

    assert trace_ids_of(sent) == {TOKEN}
    assert token_of(sent) is None
    assert TOKEN not in trace_ids_of(without_token(sent, TOKEN))


def test_trace_ids_are_random_and_each_is_new():
    """128 random bits: no time stands in it, as it does in X-Ray's own."""
    drawn = {TraceId.random() for _ in range(200)}

    assert len(drawn) == 200
    assert all(len(each) == 32 and int(each, 16) for each in drawn)
    assert len({each[:8] for each in drawn}) > 190
