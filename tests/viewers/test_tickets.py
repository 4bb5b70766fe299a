"""Tickets for EventSource: good once, for one run, for half a minute."""

import asyncio
import hashlib
import logging
from dataclasses import dataclass, field

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import RequestRefused
from proxy.viewers.tickets import (
    MAX_STORED_OF_ONE,
    MAX_TICKETS,
    TICKET_BYTES,
    TICKET_S,
    TicketHolder,
    Tickets,
)
from tests.servers.streaming import logged

NOW = 1_800_000_000.0
RUN, OTHER_RUN = "6f1c4b5e-0000-4000-8000-000000000001", "6f1c4b5e-0000-4000-8000-000000000002"
ANN = "ann's"


@dataclass
class Clock:
    """A clock that is set."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Store:
    """The store that replicas share, as far as tickets go. `down`: it keeps nothing and finds nothing."""

    clock: Clock
    down: bool = False
    values: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Every ticket as it was told to the store."""

    def is_near(self, ticket: str, principal: str) -> bool:
        return True

    async def put_ticket(self, ticket: str, value: bytes, ttl_s: float) -> bool:
        self.asked.append(ticket)
        assert ttl_s > 0
        if self.down:
            return False
        self.values[ticket] = value, self.clock() + ttl_s
        return True

    async def take_ticket(self, ticket: str) -> bytes | None:
        self.asked.append(ticket)
        value, until = self.values.pop(ticket, (None, 0.0))
        return None if self.down or until <= self.clock() else value


@dataclass
class House:
    """Tickets in memory, or, with a store, those of two replicas."""

    shared: bool

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.store = Store(self.clock) if self.shared else None
        self.here = Tickets(self.store, clock=self.clock, epoch=self.clock)  # type: ignore[arg-type]
        self.there = Tickets(self.store, clock=self.clock, epoch=self.clock) if self.shared else self.here  # type: ignore[arg-type]

    def kept(self) -> str:
        """Everything that anybody remembers, as text."""
        return repr((vars(self.here), vars(self.there), self.store))


@pytest.fixture(params=[False, True], ids=["memory", "shared"])
def house(request: pytest.FixtureRequest) -> House:
    return House(request.param)


# What a ticket is good for


async def test_a_ticket_says_whose_it_is_once(house: House) -> None:
    """With the end of the token that it was got with, at which its stream is closed."""
    ticket = await house.here.issue(RUN, ANN, NOW + 3600)

    assert await house.there.redeem(ticket, RUN) == TicketHolder(ANN, NOW + 3600)
    assert await house.there.redeem(ticket, RUN) is None
    assert await house.here.redeem(ticket, RUN) is None


async def test_a_token_without_an_end_gives_a_ticket_without_one(house: House) -> None:
    """Its stream is closed by nobody's clock."""
    ticket = await house.here.issue(RUN, ANN, None)

    assert await house.there.redeem(ticket, RUN) == TicketHolder(ANN, None)


async def test_a_ticket_for_another_run_is_used_up(house: House) -> None:
    """A stranger who found a ticket cannot try it on run after run."""
    ticket = await house.here.issue(RUN, ANN, None)

    assert await house.there.redeem(ticket, OTHER_RUN) is None
    assert await house.there.redeem(ticket, RUN) is None


async def test_tickets_of_one_run_are_each_good_once(house: House) -> None:
    """Two panels of a page need two."""
    tickets = [await house.here.issue(RUN, principal, None) for principal in ("ann", "bob", "ann")]

    redeemed = [await house.there.redeem(ticket, RUN) for ticket in reversed(tickets)]
    assert [r.principal for r in redeemed if r is not None] == ["ann", "bob", "ann"]


async def test_of_many_who_come_at_once_one_is_let_in(house: House) -> None:
    """There is no moment between looking and taking."""
    ticket = await house.here.issue(RUN, ANN, None)
    redeemed = await asyncio.gather(
        *(tickets.redeem(ticket, RUN) for tickets in [house.here, house.there] * 10)
    )

    assert [r for r in redeemed if r is not None] == [TicketHolder(ANN, None)]


# For how long


@pytest.mark.parametrize(("after_s", "good"), [(0.0, True), (TICKET_S - 0.001, True), (TICKET_S, False)])
async def test_a_ticket_is_good_for_half_a_minute(house: House, after_s: float, good: bool) -> None:
    """A page asks for one and uses it: what turns up later was found somewhere."""
    ticket = await house.here.issue(RUN, ANN, NOW + 3600)
    house.clock.now += after_s

    assert (await house.there.redeem(ticket, RUN) is not None) is good


@pytest.mark.parametrize(("after_s", "good"), [(4.999, True), (5.0, False)])
async def test_a_ticket_does_not_outlive_its_token(house: House, after_s: float, good: bool) -> None:
    """It opens nothing that the token itself no longer would."""
    ticket = await house.here.issue(RUN, ANN, NOW + 5)
    house.clock.now += after_s

    assert (await house.there.redeem(ticket, RUN) is not None) is good


@pytest.mark.parametrize("expires_at", [NOW + 0.0005, NOW, NOW - 1, 0.0])
async def test_a_token_that_has_ended_gives_a_ticket_for_nothing(house: House, expires_at: float) -> None:
    """It looks like any other, and nobody keeps it."""
    ticket = await house.here.issue(RUN, ANN, expires_at)

    assert await house.there.redeem(ticket, RUN) is None
    assert len(house.here) == 0
    assert house.store is None or house.store.values == {}


async def test_a_clock_that_is_set_moves_no_ticket() -> None:
    """Neither does it live on while the wall's clock is set back, nor end as it is set ahead."""
    clock, wall = Clock(7.0), Clock()
    tickets = Tickets(clock=clock, epoch=wall)
    ahead, back = [await tickets.issue(RUN, ANN, NOW + 3600) for _ in range(2)]

    wall.now += 7200
    assert await tickets.redeem(ahead, RUN) is not None
    wall.now -= 14_400
    clock.now += TICKET_S
    assert await tickets.redeem(back, RUN) is None


# How it is kept


async def test_a_ticket_cannot_be_guessed(house: House) -> None:
    """At least 128 bits, no two alike, and nothing in it that a URL would have to escape."""
    tickets = {await house.here.issue(RUN, ANN, None) for _ in range(200)}

    assert TICKET_BYTES * 8 >= 128
    assert len(tickets) == 200
    assert all(len(ticket) == 32 and set(ticket) <= URL_SAFE for ticket in tickets)


URL_SAFE = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


async def test_only_hashes_are_kept(house: House) -> None:
    """A reader of the memory or the store can redeem nothing."""
    ticket = await house.here.issue(RUN, ANN, None)

    assert ticket not in house.kept()
    assert hashlib.sha256(ticket.encode()).hexdigest() in house.kept()
    assert await house.there.redeem(hashlib.sha256(ticket.encode()).hexdigest(), RUN) is None


async def test_a_ticket_is_never_logged(house: House) -> None:
    """Neither when it is issued nor when it is redeemed, refused or forged."""
    with logged() as lines:
        ticket = await house.here.issue(RUN, ANN, None)
        for run in (RUN, RUN, OTHER_RUN):
            await house.there.redeem(ticket, run)
        await house.there.redeem("forged", RUN)
        logging.getLogger("headgate").info("something")

    assert [line["message"] for line in lines.lines if line["logger"].startswith("headgate")] == ["something"]


async def test_memory_is_bounded() -> None:
    """The oldest go first; the newest are good."""
    tickets = Tickets(clock=Clock(), epoch=Clock())
    issued = [await tickets.issue(RUN, ANN, None) for _ in range(MAX_TICKETS + 2)]

    assert len(tickets) == MAX_TICKETS
    assert await tickets.redeem(issued[0], RUN) is None
    assert await tickets.redeem(issued[1], RUN) is None
    assert await tickets.redeem(issued[2], RUN) is not None
    assert await tickets.redeem(issued[-1], RUN) is not None


async def test_nobodys_tickets_void_another_ones() -> None:
    """Over the bound, the oldest of who has the most goes."""
    tickets = Tickets(clock=Clock(), epoch=Clock())
    hers = await tickets.issue(RUN, "bea", None)
    for _ in range(MAX_TICKETS + 10):
        await tickets.issue(RUN, ANN, None)

    assert len(tickets) == MAX_TICKETS
    assert await tickets.redeem(hers, RUN) == TicketHolder("bea", None)


async def test_nobody_fills_the_store() -> None:
    """A user who asks for too many is refused, for as long as tickets are good; all others are served."""
    house = House(shared=True)
    issued = [await house.here.issue(RUN, ANN, None) for _ in range(MAX_STORED_OF_ONE)]

    with pytest.raises(RequestRefused) as refused:
        await house.here.issue(RUN, ANN, None)
    assert refused.value.status == 503
    assert await house.there.redeem(issued[0], RUN) is not None
    hers = await house.here.issue(RUN, "bea", None)
    assert await house.there.redeem(hers, RUN) is not None
    house.clock.now += TICKET_S
    again = await house.here.issue(RUN, ANN, None)
    assert await house.there.redeem(again, RUN) is not None


async def test_those_that_nobody_redeemed_are_forgotten() -> None:
    """Their memory is freed when the next one is issued after their time."""
    clock = Clock()
    tickets = Tickets(clock=clock, epoch=clock)
    for _ in range(5):
        await tickets.issue(RUN, ANN, None)
    clock.now += TICKET_S
    await tickets.issue(RUN, ANN, None)

    assert len(tickets) == 1


# Among replicas


async def test_where_there_is_a_store_memory_keeps_none() -> None:
    """A ticket is in one place, so it is good once."""
    house = House(shared=True)
    await house.here.issue(RUN, ANN, None)

    assert house.store is not None
    assert len(house.here) == 0
    assert len(house.store.values) == 1


async def test_with_the_store_down_a_replica_keeps_its_own() -> None:
    """A client that comes back to the same replica is let in, once, also when the store is back."""
    house = House(shared=True)
    assert house.store is not None
    house.store.down = True
    first, second = [await house.here.issue(RUN, ANN, NOW + 3600) for _ in range(2)]

    assert await house.there.redeem(first, RUN) is None
    assert await house.here.redeem(first, RUN) == TicketHolder(ANN, NOW + 3600)
    house.store.down = False
    assert await house.here.redeem(first, RUN) is None
    assert await house.here.redeem(second, RUN) == TicketHolder(ANN, NOW + 3600)
    assert await house.here.redeem(second, RUN) is None


async def test_the_store_keeps_a_ticket_no_longer_than_it_is_good() -> None:
    """Replicas' clocks differ: its time is the store's alone."""
    house = House(shared=True)
    assert house.store is not None
    await house.here.issue(RUN, ANN, None)
    await house.here.issue(RUN, ANN, NOW + 5)

    assert [until - NOW for _, until in house.store.values.values()] == [TICKET_S, 5]
    assert [orjson.loads(value) for value, _ in house.store.values.values()] == [
        [RUN, ANN, None],
        [RUN, ANN, NOW + 5],
    ]


@given(st.text() | st.text("abcXYZ09-_", min_size=30, max_size=34) | st.just("a" * 31 + "\n"))
def test_anything_can_be_sent_as_a_ticket(forged: str) -> None:
    """A ticket that was never issued opens nothing; the store is asked only for one that could have been."""
    house = House(shared=True)
    assert house.store is not None
    assert asyncio.run(house.here.redeem(forged, RUN)) is None

    could_be_one = len(forged) == 32 and set(forged) <= URL_SAFE
    assert len(house.store.asked) == could_be_one
