"""An upstream that fails by plan, over real sockets, and counts what it has done to whom.

A round is one run: its id is chosen by the client and stands in every path, so the upstream knows which plan
a call belongs to. Nothing waits for a time: an act that belongs to a phase waits until the viewer is in it.
"""

import asyncio
import json
import logging
import random
import socket
import struct
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from proxy.errors import Fault
from proxy.observe.labels import FaultPhase
from tests.servers.scripted import Asked, ScriptedUpstream

PATIENCE_S = 8.0
"""Seconds that an act waits for its phase; then the round has a problem, and says so."""

MAX_ANSWER = 256 * 1024
TIMEOUTS = {"connect_s": 2.0, "first_byte_s": 1.0, "idle_s": 1.0, "total_s": 2.5}
"""Short, so that a stall is over soon; long beside the lag of a loop that has 32 rounds at once."""

TRICKLE_S = 0.05
HUGE_LINE = b"x" * (10 * 1024 * 1024)
FLOOD = b" " * 65536
SENTENCE = "Error generating response after 3 attempts: 503"


@dataclass
class Round:
    """One run: what the upstream is to answer, how far the viewer is, and what has happened to it."""

    case: "Case"
    dice: random.Random
    run: str = field(init=False)
    headers: asyncio.Event = field(default_factory=asyncio.Event)
    content: asyncio.Event = field(default_factory=asyncio.Event)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Headgate's log says that the source is lost."""
    called: asyncio.Event = field(default_factory=asyncio.Event)
    """The call itself, not a look, is at the upstream."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """A connection of this round was closed by its peer while an act was at work."""
    calls: Counter[str] = field(default_factory=Counter)
    injected: list[tuple[Fault, FaultPhase]] = field(default_factory=list)
    losses_logged: int = 0
    is_cancelled: bool = False
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run = str(uuid.UUID(int=self.dice.getrandbits(128), version=4))
        self.texts = {
            "extraction": f"Fever, 38.9 °C — “{self.run[:8]}”, SpO₂ 9 %.\n\n| Sign | ✅ |\\\t\u2028e\u0301 é",
            "summary": f'Likely "pneumonia" 🫁 for {self.run[:8]}.\nStart now: 中文 \u0007.',
        }

    def text(self, stage: str) -> str:
        return json.dumps(self.texts[stage], ensure_ascii=stage == "summary")

    def body(self, endpoint: str = "start") -> bytes:
        """The good answer: the one text raw, the other with every escape."""
        match endpoint:
            case "start" | "result":
                texts = ", ".join(f'"{stage}": {self.text(stage)}' for stage in self.texts)
                return f'{{"result": {{{texts}}}, "next": null}}'.encode()
            case "one":
                return f'{{"text": {self.text("extraction")}}}'.encode()
            case "two":
                return f'{{"text": {self.text("summary")}}}'.encode()
            case _:
                return self.rows(0)

    def rows(self, count: int) -> bytes:
        """The polled document after so many stages."""
        rows = [
            {"stage": stage, "text": text, "at": f"t-{self.run}"}
            for stage, text in list(self.texts.items())[:count]
        ]
        return json.dumps({"rows": rows}, ensure_ascii=False).encode()

    def end_of_first_text(self, body: bytes) -> int:
        """The first byte after the first text of an answer."""
        text = json.dumps(self.texts["extraction"], ensure_ascii=False).encode()
        at = body.find(text)
        return at + len(text) if at >= 0 else len(body)

    async def reached(self, phase: FaultPhase) -> None:
        """Wait until the viewer is in this phase."""
        waits = {FaultPhase.HEADERS: self.headers, FaultPhase.CONTENT: self.content}
        if phase in waits:
            await self.wait(waits[phase], f"the viewer never came to the phase {phase}")

    async def wait(self, event: asyncio.Event, problem: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await event.wait()
        except TimeoutError:
            self.problems.append(problem)


@dataclass
class Called:
    """One call at the upstream, and the means to treat it badly."""

    asked: Asked
    round: Round
    endpoint: str
    act: "Act"

    @property
    def body(self) -> bytes:
        return self.round.body(self.endpoint)

    async def head(
        self, length: int | None, *, status: bytes = b"200 OK", extra: bytes = b"", framing: str = "length"
    ) -> None:
        lines = {
            "length": b"content-length: %d\r\n" % (length or 0),
            "chunked": b"transfer-encoding: chunked\r\n",
            "close": b"connection: close\r\n",
        }
        await self.asked.send(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n%b%b\r\n" % (status, lines[framing], extra)
        )

    async def send(self, data: bytes, framing: str) -> None:
        if data:
            await self.asked.send(b"%x\r\n%b\r\n" % (len(data), data) if framing == "chunked" else data)

    async def end(self, framing: str) -> None:
        if framing == "chunked":
            await self.asked.send(b"0\r\n\r\n")
        elif framing == "close":
            await self.close()

    async def whole(self, body: bytes, framing: str = "length", **more: bytes) -> None:
        await self.head(len(body), framing=framing, **more)
        await self.send(body, framing)
        await self.end(framing)

    async def lead(self, framing: str) -> bytes:
        """Send the head and the beginning of the body, with the first text if it is to be shown; the rest."""
        body = self.body
        shows = (
            self.act.when is FaultPhase.CONTENT
            and self.endpoint == "start"
            and self.round.case.source == "batch"
        )
        end = self.round.end_of_first_text(body)
        size = end + 1 if shows else self.round.dice.randrange(min(end, len(body)))
        await self.head(len(body), framing=framing)
        await self.send(body[:size], framing)
        return body[size:]

    async def moment(self) -> None:
        """Now comes the fault: when the viewer is where this act wants it."""
        await self.round.reached(self.act.when)
        lost = Fault.SOURCE_LOST
        again = self.act.fault is lost and any(fault is lost for fault, _ in self.round.injected)
        if self.act.fault is not None and not again:  # a source is lost once, however often it is looked at
            self.round.injected.append((self.act.fault, self.act.when))

    async def close(self) -> None:
        """FIN, after everything that was sent."""
        self.asked.writer.close()

    async def reset(self) -> None:
        """RST. What the peer has not read by then it may lose."""
        transport = self.asked.writer.transport
        while transport.get_write_buffer_size():  # noqa: ASYNC110 - a transport does not say when it is empty
            await asyncio.sleep(0)
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        transport.abort()

    async def until_left(self) -> None:
        """Say nothing until the peer has gone."""
        await self.asked.reader.read()
        self.round.left.set()


Play = Callable[[Called], Awaitable[None]]


@dataclass(frozen=True)
class Act:
    """An act of the upstream on one call."""

    play: Play
    fault: Fault | None = None
    """The fault that Headgate is to count for it."""
    when: FaultPhase = FaultPhase.NOTHING


@dataclass(frozen=True)
class Case:
    """A plan for one round, and what the design makes of it."""

    name: str
    source: str
    acts: Mapping[str, tuple[Act, ...]]
    """By endpoint, call by call; the last one also for all that follow."""
    phase: FaultPhase = FaultPhase.NOTHING
    """Of the first fault."""
    replay: str = "never"
    answer_exists: bool = True
    calls: Mapping[str, int] = field(default_factory=dict)
    """The most the policy allows, by endpoint; 1 where nothing is said, and looks without a bound."""
    ends: tuple[str, int] = ("", 0)
    """`error_code` and status, where no answer exists."""
    refusals: tuple[bool, ...] = ()
    """Of the connections in their order, which are refused. Such rounds have a door of their own."""

    @property
    def early(self) -> bool:
        """True if the viewer has its headers before the upstream has said anything."""
        return self.phase is FaultPhase.HEADERS

    @property
    def route(self) -> str:
        return f"{self.source}-{self.replay}-{'early' if self.early else 'held'}"

    @property
    def prefix(self) -> str:
        return f"/{self.source}/{self.replay}/{'early' if self.early else 'held'}"

    @property
    def main(self) -> frozenset[str]:
        """The endpoints whose calls have effects."""
        return frozenset({"one", "two"} if self.source == "stages" else {"start"})

    def allowed(self, endpoint: str) -> int:
        return self.calls.get(endpoint, 1)

    def __str__(self) -> str:
        return f"{self.route}: {self.name} ({self.phase})"


SECTIONS = [
    {"stage": "extraction", "at": "$.result.extraction", "poll_at": "$.text"},
    {"stage": "summary", "panel": "chat", "at": "$.result.summary", "poll_at": "$.text"},
]
SECTIONS_OF_JOB = [
    {**section, "poll_at": f"$.rows[?@.stage == '{section['stage']}'].text"} for section in SECTIONS
]
ANSWER = {
    "result": {"extraction": "{{ extraction $.text }}", "summary": "{{ summary $.text }}"},
    "next": None,
}
COMMIT_S = {"early": 0, "held": 15}


def routes(every_ms: int = 50) -> list[dict[str, Any]]:
    """Every source, with and without `replay: safe`, with headers at once and with headers held back."""
    return [
        _route(source, replay, when, every_ms)
        for source in ("batch", "poll", "stages", "job")
        for replay in ("never", "safe")
        for when in ("early", "held")
    ]


def _route(source: str, replay: str, when: str, every_ms: int) -> dict[str, Any]:
    prefix = f"/{source}/{replay}/{when}/{{run}}"
    blocks: dict[str, dict[str, Any]] = {
        "batch": {},
        "poll": {
            "path": f"{prefix}/details",
            "every_ms": every_ms,
            "row": "$.rows[?@.stage == '{stage}']",
            "updated_at": "$.at",
        },
        "stages": {
            "calls": [
                {"stage": "extraction", "request": f"POST {prefix}/one", "body": {"of": "{{ path $.run }}"}},
                {
                    "stage": "summary",
                    "request": f"POST {prefix}/two",
                    "body": {"t": "{{ extraction $.text }}"},
                },
            ],
            "answer": ANSWER,
        },
        "job": {
            "path": f"{prefix}/job",
            "result_path": f"{prefix}/result",
            "status": "$.state",
            "running": ["working"],
            "done": ["done"],
            "failed": ["failed"],
            "every_ms": every_ms,
        },
    }
    return {
        "name": f"{source}-{replay}-{when}",
        "match": f"POST {prefix}/start",
        "stream_path": f"{prefix}/stream",
        "source": source,
        "replay": replay,
        "commit_after": COMMIT_S[when],
        "sections": SECTIONS_OF_JOB if source == "job" else SECTIONS,
        "failure_text": "^Error generating response",
        "max_answer": MAX_ANSWER,
        "heartbeat_s": 0.2,
        **({source: blocks[source]} if blocks[source] else {}),
    }


class FaultyUpstream:
    """Answers each call as its round's plan says, and remembers every call."""

    def __init__(self) -> None:
        self._scripted = ScriptedUpstream(self._answer)
        self.rounds: dict[str, Round] = {}
        self.strays: list[bytes] = []
        """Calls that belong to no round."""

    @property
    def url(self) -> str:
        return self._scripted.url

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return self._scripted.open

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FaultyUpstream"]:
        with self._listening_to_the_log():
            async with self._scripted.running():
                yield self

    @contextmanager
    def round(self, case: Case, dice: random.Random) -> Iterator[Round]:
        """A round of a case, known here for as long as the block."""
        made = Round(case, dice)
        self.rounds[made.run] = made
        try:
            yield made
        finally:
            del self.rounds[made.run]

    async def _answer(self, asked: Asked) -> None:
        self._scripted.asked.clear()  # ten million bytes of a thousand rounds are not kept
        await asked.read_body()
        run, endpoint = asked.target.decode().split("/")[-2:]
        found = self.rounds.get(run)
        if found is None:
            self.strays.append(asked.target)
            asked.writer.close()
            return
        acts = found.case.acts[endpoint]
        act = acts[min(found.calls[endpoint], len(acts) - 1)]
        found.calls[endpoint] += 1
        if endpoint != "details":
            found.called.set()
        try:
            await act.play(Called(asked, found, endpoint, act))
        except ConnectionError:
            found.left.set()
            raise

    @contextmanager
    def _listening_to_the_log(self) -> Iterator[None]:
        logger, heard = logging.getLogger("headgate.runs"), _Losses(self.rounds)
        level = logger.level
        logger.addHandler(heard)
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.removeHandler(heard)
            logger.setLevel(level)


class _Losses(logging.Handler):
    """Tells a round that Headgate says it has lost its source."""

    def __init__(self, rounds: dict[str, Round]) -> None:
        super().__init__(logging.WARNING)
        self._rounds = rounds

    def emit(self, record: logging.LogRecord) -> None:
        found = self._rounds.get(getattr(record, "run", ""))
        if found is not None and record.getMessage() == "source lost":
            found.losses_logged += 1
            found.lost.set()
