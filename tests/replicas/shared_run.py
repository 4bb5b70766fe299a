"""A run that replicas share: what is said in it, and what others have of it."""

from collections import deque
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from flags.decision import Arm, Decision, Mode, Reason
from proxy.identity import Identity
from proxy.observe.metrics import Metrics
from proxy.runs.call import Call
from proxy.runs.run import Run
from proxy.runs.shared import ViewableRun
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.routes import Route
from proxy.text.event_log import EventLog
from proxy.text.sse import decode
from proxy.upstream.client import Answer, Request
from tests.servers.client import eventually
from tests.servers.streaming import answer, route

ANN = Identity("principal-of-ann", "ann")
TARGET = b"/api/cases/7/start?patient=meier"
STREAM = Decision(Mode.STREAM, Arm.STREAM, "batch", Reason.FLAG_ON)
JSON = [(b"content-type", b"application/json"), (b"content-length", b"1")]
SETTINGS = RouteSettings.model_validate(route())
ROUTE = Route.compile(SETTINGS)
SAFE = Route.compile(RouteSettings.model_validate(route(name="safe", replay="safe")))
METRICS = Metrics(CollectorRegistry(), [SETTINGS]).by_route["start"]
EXTRACTED = ROUTE.sections[0]


def new_run(run_id: str | None = None, of: Route = ROUTE, identity: Identity = ANN) -> Run:
    call = Call(of, {"case_id": "7"}, Request("POST", TARGET, [(b"x-own", b"\xe4")], b"the body"))
    return Run(call, STREAM, identity, METRICS, deque(), run_id=run_id, fingerprint="print")


def say(run: Run, number: int = 1) -> None:
    """Some text, in pieces; the run goes on."""
    run.begin(EXTRACTED)
    for _ in range(number):
        run.shown.say(run.shown.transcript.chunk("extraction", f"word {len(run.log)} "))


def whole(body: bytes | None = None) -> Answer:
    return Answer(200, JSON, body or answer())


def wires(log: EventLog) -> list[bytes]:
    return [entry.wire for entry in log.up_to(len(log))]


def events(log: EventLog) -> list[dict[str, Any]]:
    found = [decode(wire) for wire in wires(log)]
    return [{"type": e.type, "stage": e.stage, "content": e.content, **e.metadata} for e in found]


async def same(copy: ViewableRun, run: Run, within_s: float = 10.0) -> None:
    """The copy has become what the run's log is."""
    await eventually(lambda: len(copy.log) == len(run.log), within_s)
    assert wires(copy.log) == wires(run.log)


async def stored(client: Redis, run: Run) -> int:
    return int(await client.xlen(f"headgate:run:{run.id}:log"))


def watch(run: ViewableRun) -> Callable[[], None]:
    """A viewer that never reads."""

    def wake() -> None:
        pass

    run.log.subscribe(wake)
    return lambda: run.log.unsubscribe(wake)


async def has_entry(client: Redis, run: Run) -> bool:
    return await stored(client, run) == len(run.log)
