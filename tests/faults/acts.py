"""Acts of an upstream on one call: well, oddly, or badly."""

import asyncio

from proxy.errors import Fault
from proxy.observe.labels import FaultPhase
from tests.faults.upstream import FLOOD, HUGE_LINE, MAX_ANSWER, SENTENCE, TRICKLE_S, Called, Play

# Acts without a fault


def whole(framing: str = "length") -> Play:
    async def play(called: Called) -> None:
        await called.whole(called.body, framing)

    return play


async def one_byte_at_a_time(called: Called) -> None:
    """Slow, but alive: never cut."""
    body = called.body
    await called.head(len(body))
    for at in range(len(body)):
        await called.send(body[at : at + 1], "length")
        await asyncio.sleep(0)  # or the loop would send several in one


async def when_released(called: Called) -> None:
    """The good answer, when the round says so."""
    await called.round.wait(called.round.release, "the act was never released")
    await called.whole(called.body)


async def half_and_then_when_released(called: Called) -> None:
    """The first text at once, the rest when the round says so."""
    body = called.body
    size = called.round.end_of_first_text(body) + 1
    await called.head(len(body))
    await called.send(body[:size], "length")
    await called.round.wait(called.round.release, "the act was never released")
    await called.send(body[size:], "length")


async def after_the_loss(called: Called) -> None:
    """The good answer, when Headgate has lost its source."""
    await called.round.wait(called.round.lost, "the source was never lost")
    await called.whole(called.body)


async def after_the_content(called: Called) -> None:
    await called.round.reached(FaultPhase.CONTENT)
    await called.whole(called.body)


async def answers_and_closes(called: Called) -> None:
    """The good answer, and then FIN, without a word that it would come."""
    await called.whole(called.body)
    await called.close()


def rows(count: int) -> Play:
    async def play(called: Called) -> None:
        await called.whole(called.round.rows(count))

    return play


async def accepts(called: Called) -> None:
    """202: the work goes on, and is asked for."""
    await called.whole(b"{}", status=b"202 Accepted")


def working(count: int) -> Play:
    """A job's status after so many stages."""

    async def play(called: Called) -> None:
        rows = called.round.rows(count)
        await called.whole(b'{"state": "working", ' + rows[1:])

    return play


async def done(called: Called) -> None:
    await called.whole(b'{"state": "done"}')


# Acts that fail before the body


async def resets(called: Called) -> None:
    await called.moment()
    await called.reset()


async def hangs_up(called: Called) -> None:
    await called.moment()
    await called.close()


async def resets_within_the_head(called: Called) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-le"
    await called.asked.send(head[: called.round.dice.randrange(1, len(head))])
    await called.moment()
    await called.reset()


async def says_nothing(called: Called) -> None:
    await called.moment()
    await called.until_left()


async def speaks_no_http(called: Called) -> None:
    await called.moment()
    await called.asked.send(b"\x15\x03\x01\x00\x02\x02\x50 hello\r\n\r\n")
    await called.until_left()


async def sends_a_header_of_ten_megabytes(called: Called) -> None:
    await called.moment()
    await called.asked.send(b"HTTP/1.1 200 OK\r\nx-long: " + HUGE_LINE + b"\r\ncontent-length: 0\r\n\r\n")
    await called.until_left()


async def sends_interim_answers_without_end(called: Called) -> None:
    await called.moment()
    while True:
        await called.asked.send(b"HTTP/1.1 102 Processing\r\nx-more: yes\r\n\r\n" * 100)


async def sends_a_comment_without_end(called: Called) -> None:
    """A chunk extension: what comes nearest to a comment in HTTP."""
    await called.moment()
    await called.head(None, framing="chunked")
    await called.asked.send(b"1;")
    while True:
        await called.asked.send(b"x" * 65536)


def status(line: bytes, retry_after: bytes | None = None) -> Play:
    extra = b"" if retry_after is None else b"retry-after: %b\r\n" % retry_after

    async def play(called: Called) -> None:
        await called.moment()
        await called.whole(b'{"detail": "no"}', status=line, extra=extra)

    return play


# Acts that fail within the body


def breaks_off(framing: str) -> Play:
    async def play(called: Called) -> None:
        await called.lead(framing)
        await called.moment()
        await called.close()

    return play


async def resets_within_the_body(called: Called) -> None:
    """Only where the viewer has seen that Headgate has read: a reset may destroy what was not."""
    await called.lead("length")
    await called.moment()
    await called.reset()


async def stalls_within_the_body(called: Called) -> None:
    await called.lead("length")
    await called.moment()
    await called.until_left()


async def trickles_without_end(called: Called) -> None:
    """Never silent for long, and never done."""
    await called.lead("chunked")
    await called.moment()
    while True:
        await called.send(b" ", "chunked")
        await asyncio.sleep(TRICKLE_S)  # the pace of the answer


async def floods(called: Called) -> None:
    await called.lead("chunked")
    await called.moment()
    for _ in range(2 * MAX_ANSWER // len(FLOOD)):
        await called.send(FLOOD, "chunked")
    await called.until_left()


async def sends_a_line_of_ten_megabytes(called: Called) -> None:
    await called.lead("chunked")
    await called.moment()
    await called.send(HUGE_LINE, "chunked")
    await called.until_left()


async def goes_wrong_within_the_body(called: Called) -> None:
    rest = await called.lead("length")
    await called.moment()
    await called.send(b"}" * len(rest), "length")


def answers(body: bytes) -> Play:
    """200, and it is no answer."""

    async def play(called: Called) -> None:
        await called.moment()
        await called.whole(body)

    return play


def sentence(stage: str, told: FaultPhase) -> Play:
    """An answer with an error sentence in place of a text; Headgate says so in the phase `told`."""

    async def play(called: Called) -> None:
        called.round.texts[stage] = SENTENCE
        rest = called.body
        if called.act.when is FaultPhase.CONTENT and called.endpoint == "start":
            rest = await called.lead("length")
        else:
            await called.head(len(rest))
        await called.moment()
        called.round.injected[-1] = (Fault.FAILURE_TEXT, told)
        await called.send(rest, "length")

    return play


async def closing(called: Called) -> None:
    """The good answer on a connection that is not used again, so that every call connects."""
    body = called.round.rows(0) if called.endpoint == "details" else called.body
    await called.whole(body, extra=b"connection: close\r\n")
    await called.close()


def cut_at(at: int, framing: str) -> Play:
    """Send so many bytes of the body, and no more."""

    async def play(called: Called) -> None:
        body = called.round.rows(1) if called.endpoint == "details" else called.body
        await called.head(len(body), framing=framing)
        await called.send(body[:at], framing)
        await called.moment()
        await called.close()

    return play


def told_in(play: Play, told: FaultPhase) -> Play:
    """An act whose fault is noticed in another phase than the one it comes in."""

    async def playing(called: Called) -> None:
        await play(called)
        called.round.injected[-1] = (called.round.injected[-1][0], told)

    return playing
