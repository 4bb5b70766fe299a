"""Clients of a run, each from its request to the end of the run."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from itertools import chain, cycle

from proxy.observe.labels import FaultPhase
from tests.faults import invariants
from tests.faults.acts import half_and_then_when_released, one_byte_at_a_time, says_nothing, when_released
from tests.faults.cases import refusals, upstream_faults
from tests.faults.rounds import House, Result, comes_and_goes, leaves_before_the_headers, watches
from tests.faults.upstream import Act, Case, Round
from tests.faults.viewers import Client, Saw, Stay

CANCEL_S = 1.0
"""A cancelled run ends for its viewer, and at the upstream, within this (design, section 5)."""

Scenario = Callable[[House, random.Random], Awaitable[Result]]

HELD = Case("held", "batch", {"start": (Act(when_released),)})
HELD_EARLY = Case("held", "batch", {"start": (Act(when_released),)}, FaultPhase.HEADERS)
HALF = Case("half", "batch", {"start": (Act(half_and_then_when_released),)}, FaultPhase.HEADERS)
SILENT = Case("silent", "batch", {"start": (Act(says_nothing),)})
SILENT_EARLY = Case("silent", "batch", {"start": (Act(says_nothing),)}, FaultPhase.HEADERS)
DRIPPING = Case("one byte at a time", "batch", {"start": (Act(one_byte_at_a_time),)}, FaultPhase.HEADERS)
RECOVERING = [case for case in upstream_faults() if case.answer_exists]


def _result(name: str, phase: FaultPhase, round_: Round, saw: Saw, events: list[dict[str, object]]) -> Result:
    """Of a client that was to have the whole answer, of one call."""
    problems = [
        *round_.problems,
        *saw.problems,
        *invariants.of_an_end(saw, events, round_),
        *invariants.of_the_outcome(saw, events, round_),
        *invariants.of_the_calls(round_),
    ]
    return Result(name, phase, True, invariants.has_answer(events, round_), problems)


async def left_before_the_headers_and_asked_again(house: House, dice: random.Random) -> Result:
    """The second request is the first one's: one call, one run, the whole answer."""
    with house.upstream.round(HELD, dice) as round_:
        saw, events = await leaves_before_the_headers(house.client, round_)
        await house.run_ended(round_.run)
        return _result("left before the headers, asked again", FaultPhase.NOTHING, round_, saw, events)


async def asked_again_without_an_id(house: House, dice: random.Random) -> Result:
    """A client that chose no id asks for the same while the first run is in flight: it joins it."""
    with house.upstream.round(HELD_EARLY, dice) as round_:
        client = house.client
        start = client.start(HELD_EARLY.prefix, round_.run).replace(b"Headgate-Run:", b"X-Unused:")
        first = await client.view(start, stay=Stay(events=0))

        def release(saw: Saw) -> None:
            if saw.is_stream:
                round_.release.set()

        saw = await client.view(start, release)
        run = first.headers["headgate-run"]
        await house.run_ended(run)
        path_id, round_.run = round_.run, run
        problems = [*saw.problems, *invariants.of_a_log(saw.events, run), *invariants.of_the_calls(round_)]
        if saw.headers.get("headgate-run") != run:
            problems.append("the second request has a run of its own")
        round_.run = path_id
        delivered = invariants.has_answer(saw.events, round_)
        return Result("left, and the same was asked again", FaultPhase.HEADERS, True, delivered, problems)


async def left_at_any_byte_and_resumed(house: House, dice: random.Random) -> Result:
    """Of a healthy answer: everything once, in order, over all connections."""
    with house.upstream.round(DRIPPING, dice) as round_:
        saw, events = await comes_and_goes(house.client, round_)
        await house.run_ended(round_.run)
        return _result("left at any byte, resumed", FaultPhase.HEADERS, round_, saw, events)


async def a_reconnect_storm(house: House, dice: random.Random) -> Result:
    """Ten clients of one user at one run, each of which leaves and comes back ten times."""
    with house.upstream.round(HALF, dice) as round_:
        first = asyncio.create_task(watches(house.client, round_))
        await round_.wait(round_.content, "the first text was never shown")
        storm = [asyncio.create_task(_stormy(house.client, round_)) for _ in range(10)]
        await round_.wait(round_.left, "nobody ever left")
        round_.release.set()
        ended = await asyncio.gather(first, *storm)
        await house.run_ended(round_.run)
        results = [_result("a reconnect storm", FaultPhase.CONTENT, round_, *each) for each in ended]
        problems = list(chain.from_iterable(result.problems for result in results))
        return Result(
            "a reconnect storm",
            FaultPhase.CONTENT,
            True,
            all(result.delivered for result in results),
            problems,
        )


async def _stormy(client: Client, round_: Round) -> tuple[Saw, list[dict[str, object]]]:
    """Ten visits of some bytes each, then one to the end."""
    events: list[dict[str, object]] = []
    problems: list[str] = []
    cursor = None
    for turn in range(11):
        size = round_.dice.randrange(400) if turn < 10 else None
        saw = await client.view(client.resume(round_.run, cursor), stay=Stay(body_bytes=size))
        events += saw.events
        problems += saw.problems
        cursor = saw.cursor or cursor
        round_.left.set()
        if saw.terminals or not saw.has_left:
            break
    saw.is_clean = saw.is_clean or bool(saw.terminals and saw.has_left)
    saw.problems = problems
    return saw, events


async def a_client_that_never_reads(house: House, dice: random.Random) -> Result:
    """The run does not wait for it, and another connection of the same user has the whole answer."""
    with house.upstream.round(HALF, dice) as round_:
        async with AsyncExitStack() as connections:
            for _ in range(3):
                talker = await connections.enter_async_context(house.client.connected(receive_bytes=1))
                talker.writer.transport.pause_reading()
                await talker.send(house.client.start(HALF.prefix, round_.run))
            await round_.wait(round_.called, "the upstream was never called")
            round_.release.set()
            await house.run_ended(round_.run)
            saw = await house.client.view(house.client.resume(round_.run, None))
        return _result("a client that never reads", FaultPhase.HEADERS, round_, saw, saw.events)


async def a_fault_and_a_client_that_comes_and_goes(house: House, dice: random.Random) -> Result:
    """Play both at once: a fault that is overcome, and a client that leaves at any byte and resumes."""
    case = dice.choice(RECOVERING)
    result = await house.play(case, dice, comes_and_goes)
    result.kind = "left and resumed, with a fault beside it"
    return result


async def _cancelled(house: House, dice: random.Random, case: Case, phase: FaultPhase) -> Result:
    """DELETE twice, at once, while the viewer is in a phase: it is told in time, once, and truthfully."""
    with house.upstream.round(case, dice) as round_:
        client = house.client
        watching = asyncio.create_task(watches(client, round_))
        await round_.wait(round_.called, "the upstream was never called")
        await round_.reached(phase)
        round_.is_cancelled = True
        try:
            async with asyncio.timeout(CANCEL_S):
                statuses = await asyncio.gather(client.cancel(round_.run), client.cancel(round_.run))
                saw, events = await watching
                await house.run_ended(round_.run)
        except TimeoutError:
            watching.cancel()
            return Result("cancelled twice", phase, False, False, ["it took too long to end"])
        late = await client.cancel(round_.run)
        round_.release.set()
        problems = [*round_.problems, *saw.problems, *invariants.of_an_end(saw, events, round_)]
        if [*statuses, late] != [202, 202, 202]:
            problems.append(f"DELETE was answered with {statuses} and {late}")
        code = events[-1]["metadata"].get("error_code") if events else saw.status  # type: ignore[attr-defined]
        if code not in ("cancelled", 409) or (code == 409) is not (phase is FaultPhase.NOTHING):
            problems.append(f"it ended with {code}")
        problems += invariants.of_the_calls(round_)
        return Result("cancelled twice", phase, False, invariants.has_answer(events, round_), problems)


async def cancelled_twice_before_the_headers(house: House, dice: random.Random) -> Result:
    return await _cancelled(house, dice, SILENT, FaultPhase.NOTHING)


async def cancelled_twice_after_the_headers(house: House, dice: random.Random) -> Result:
    return await _cancelled(house, dice, SILENT_EARLY, FaultPhase.HEADERS)


async def cancelled_twice_within_the_text(house: House, dice: random.Random) -> Result:
    return await _cancelled(house, dice, HALF, FaultPhase.CONTENT)


async def left_within_its_request(house: House, dice: random.Random) -> Result:
    """A request that never came whole is not executed."""
    with house.upstream.round(HELD, dice) as round_:
        request = house.client.start(HELD.prefix, round_.run)
        size = dice.randrange(1, len(request) - 1)
        async with house.client.connected() as talker:
            await talker.send(request[:size])
        # The next request is answered after that connection's end was seen: it stood before it.
        stranger = await house.client.view(house.client.resume("0" * 36, "1"), stay=Stay(events=0))
        problems = [] if stranger.status == 404 else [f"a run that never was: {stranger.status}"]
        if round_.calls:
            problems.append(f"calls were made: {round_.calls}")
        return Result("left within its request", FaultPhase.NOTHING, False, False, problems)


async def a_stranger(house: House, dice: random.Random) -> Result:
    """Another user who knows the id cannot see, resume or cancel the run, nor take its id."""
    with house.upstream.round(HALF, dice) as round_:
        mine = asyncio.create_task(watches(house.client, round_))
        await round_.wait(round_.content, "the first text was never shown")
        other = Client(house.gate.url, "bob")
        seen = await other.view(other.resume(round_.run, f"{round_.run}:1"))
        deleted = await other.cancel(round_.run)
        taken = await other.view(other.start(HALF.prefix, round_.run))
        round_.release.set()
        saw, events = await mine
        await house.run_ended(round_.run)
        result = _result("a stranger", FaultPhase.CONTENT, round_, saw, events)
        statuses = (seen.status, deleted, taken.status)
        if statuses != (404, 404, 409):
            result.problems.append(f"the stranger was told {statuses}")
        return result


RECOVERABLE: list[Scenario] = [
    left_before_the_headers_and_asked_again,
    asked_again_without_an_id,
    left_at_any_byte_and_resumed,
    a_client_that_never_reads,
    a_reconnect_storm,
    a_fault_and_a_client_that_comes_and_goes,
    a_stranger,
]
FINAL: list[Scenario] = [
    cancelled_twice_before_the_headers,
    cancelled_twice_after_the_headers,
    cancelled_twice_within_the_text,
    left_within_its_request,
]
SCENARIOS = [*RECOVERABLE, *FINAL]


SLOW = frozenset({"first_byte_timeout", "idle_timeout", "total_timeout"})
"""Faults that take as long as the upstream's timeouts."""


def mixture(
    house: House, dice: random.Random, rounds: int, *, slow_one_in: int = 1
) -> Iterator[Callable[[], Awaitable[Result]]]:
    """The catalogue in random order, again and again; every fourth round is a client's.

    Args:
        house: where.
        dice: the seed of all that is random.
        rounds: how many.
        slow_one_in: of those that take as long as a timeout, only one in so many.
    """
    catalogue = [*upstream_faults(), *refusals()]
    slow = [case for case in catalogue if case.ends[0] in SLOW or "silent" in case.name]
    quick = [case for case in catalogue if case not in slow]
    dice.shuffle(quick)
    dice.shuffle(slow)
    turns: list[Iterator[Case]] = [cycle(quick), cycle(slow)]
    for number in range(rounds):
        own = random.Random(f"{dice.getrandbits(64)}")
        if number % 4 == 3:
            yield partial(SCENARIOS[number // 4 % len(SCENARIOS)], house, own)
        else:
            is_slow = bool(slow) and number % (slow_one_in * len(catalogue) // len(slow)) == 0
            yield partial(house.play, next(turns[is_slow]), own)
