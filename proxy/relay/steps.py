"""The states of a relayed request, one for each direction, and the table of its answer. Pure.

`docs/design.md`, section 3, has the same in words.
"""

from enum import Enum
from typing import Final


class Sending(Enum):
    """The request's direction."""

    HELD = "held"
    """Not sent: its body has not begun to arrive, and is to go out with its head."""
    ON_ITS_WAY = "on its way"
    """A connection is made for its head."""
    ASKED = "asked"
    """Its head is out; the upstream is asked whether it wants the body."""
    GOING = "going"
    """The body goes as it comes."""
    OUT = "out"
    """It is out whole, or as far as it will go."""


class NextStep(Enum):
    """The answer's direction: what comes next."""

    WAIT = "wait"
    """For more of the answer, or its end."""
    WAIT_FOR_CLIENT = "wait for client"
    """Until it takes bytes again."""
    PASS_ON = "pass on"
    """What is here: the head, bytes of the body, its end."""
    FAIL = "fail"


HELD: Final = Sending.HELD
OUT: Final = Sending.OUT
PASS_ON: Final = NextStep.PASS_ON
"""Looked up for each request; as members of their enumerations they take ten times as long."""


def next_step(
    is_begun: bool,
    has_head: bool,
    has_more: bool,
    has_failed: bool,
    is_quick: bool,
    client_is_slow: bool,
) -> NextStep:
    """The next step of an answer. Pure.

    Args:
        is_begun: its head has gone out.
        has_head: its head is here.
        has_more: bytes of its body are here, or its end.
        has_failed: the upstream has.
        is_quick: the request went out whole, not `SLOW_S` ago: the body's first bytes go out with the head.
        client_is_slow: it does not take more bytes now.
    """
    if not has_head:
        return NextStep.FAIL if has_failed else NextStep.WAIT
    if client_is_slow:
        return NextStep.WAIT_FOR_CLIENT
    if has_more:
        return PASS_ON
    if has_failed:
        return NextStep.FAIL
    return NextStep.WAIT if is_begun or is_quick else NextStep.PASS_ON
