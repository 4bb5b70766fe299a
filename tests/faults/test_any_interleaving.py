"""Start, attach, leave, resume, cancel, fault, evict, restart, in any order: the whole app below its sockets.

The public app is called as the server would call it, and the source is told from outside what happens
upstream, so that every step has an end that can be waited for.
"""

import asyncio
import json
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.app import running
from proxy.downstream.client_request import ClientRequest
from proxy.errors import Fault, UpstreamBroke, UpstreamError, UpstreamSilent
from proxy.http.headers import Headers
from proxy.runs.run import Run
from proxy.serving import App
from proxy.settings.settings import Settings
from proxy.upstream.client import Answer
from tests.faults.invariants import of_a_log, shown
from tests.faults.loop import PatientLoop
from tests.faults.viewers import Reader, Saw
from tests.servers.client import eventually
from tests.servers.serving import flag_document
from tests.servers.streaming import START, answer, route

TEXTS = {"extraction": "Fever of 38.9 °C, a cough. " * 3, "summary": "Likely pneumonia 🫁."}
OTHER = {"extraction": "Something else entirely.", "summary": "No."}
USERS = ("ann", "bob")
CASES = ("1", "2")
KEPT = 3
FAILURES = [UpstreamBroke("a test"), UpstreamBroke("a test", Fault.TRUNCATED), UpstreamSilent("a test")]

Step = tuple[str, Any]


@dataclass
class Told:
    """A source that does what it is told."""

    queues: dict[str, asyncio.Queue[Step]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    runs: dict[str, Run] = field(default_factory=dict)

    async def answer(self, run: Run) -> Answer:
        self.calls[run.id] += 1
        self.runs[run.id] = run
        queue = self.queues.setdefault(run.id, asyncio.Queue())
        while True:
            what, value = await queue.get()
            match what:
                case "show":
                    await run.show(run.sections[value], TEXTS[run.sections[value].stage])
                case "lose":
                    run.lose_source("a test")
                case "fail":
                    raise value
                case _:
                    return value  # type: ignore[no-any-return]


@dataclass
class Viewing:
    """One client of one run, over all its connections; `saw` is of them all."""

    user: str
    run: str = ""
    saw: Saw = field(default_factory=Saw)
    status: int = 0
    """Of its last connection."""
    is_reading: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    _left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_open(self) -> bool:
        return self.task is not None and not self.task.done()

    def connect(self, app: App, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        named = {"host": "h", "x-user": self.user, "accept": "text/event-stream", **headers}
        self._left = asyncio.Event()
        self.is_reading.set()
        self._reader = Reader(self.saw)
        self._requested = False
        self._body = body
        headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
        self._request = request = Called(self, method, path.encode(), headers)
        call = app.gateway.begin(request)
        assert call is not None, "it is for a run"
        self.task = asyncio.get_running_loop().create_task(
            cast(Any, call(request.scope, self.receive, self.send))
        )

    async def receive(self) -> dict[str, Any]:
        if not self._requested:
            self._requested = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    def unread(self, _: bytes) -> None:
        self._requested = False

    async def send(self, message: dict[str, Any]) -> None:
        left = asyncio.ensure_future(self._left.wait())
        reading = asyncio.ensure_future(self.is_reading.wait())
        await asyncio.wait({left, reading}, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (left, reading):
            waiting.cancel()
        if self._left.is_set():
            return  # as the server does: what is sent to nobody is dropped
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.saw.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            self.run = self.run or self.saw.headers.get("headgate-run", "")
        elif self.saw.is_stream:
            self._reader.feed(message["body"])

    def leave(self) -> None:
        self._left.set()
        self._request.disconnected = True
        self._request.set()


class Called(ClientRequest):
    """A request of a client without a connection."""

    def __init__(self, viewing: Viewing, method: str, target: bytes, headers: Headers) -> None:
        nothing = SimpleNamespace(
            url=target,
            headers=headers,
            transport=None,
            flow=SimpleNamespace(resume_reading=lambda: None),
            on_response_complete=None,
            client=("127.0.0.1", 1),
            scheme="http",
        )
        super().__init__(cast(Any, nothing), method.encode(), "1.1", True)
        self.receive = viewing.receive  # type: ignore[assignment,method-assign]
        self.send = viewing.send  # type: ignore[method-assign]
        self.unread = viewing.unread  # type: ignore[method-assign]
        self.scope = {
            "method": method,
            "http_version": "1.1",
            "headers": headers,
            "query_string": b"",
        }


@dataclass
class Known:
    """One run, as the model knows it."""

    id: str
    user: str
    case: str
    begun: int
    """The process that executes it."""
    is_live: bool = True
    code: str = ""
    """The end of the run: `done`, or its `error_code`."""
    authority: dict[str, str] = field(default_factory=dict)


class AnyInterleaving(RuleBasedStateMachine):
    """Any number of users, runs and viewers."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=PatientLoop)
        self.directory = tempfile.TemporaryDirectory()
        (Path(self.directory.name) / "flags.json").write_text(json.dumps(flag_document()))
        self.source = Told()
        self.known: list[Known] = []
        self.order: list[Known] = []
        """Runs as they ended, until they are evicted."""
        self.came: list[str] = []
        """The users of these runs, as they came."""
        self.viewings: list[Viewing] = []
        self.processes = 0
        self.do(self._open())

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    async def _open(self) -> None:
        self.processes += 1
        self.stack = AsyncExitStack()
        parsed = Settings.model_validate(
            {
                "upstream": {"url": "http://127.0.0.1:9", "breaker": {"failures": 1000}},
                "flags": {"file": str(Path(self.directory.name) / "flags.json")},
                "identity": {"jwt": None, "header": "X-User"},
                "event_log": {"memory": {"runs": KEPT}},
                "attach_wait_s": 0,
                "routes": [route(commit_after=0, flush_hz=1000)],
            }
        )
        self.app = await self.stack.enter_async_context(running(parsed, Path(self.directory.name)))
        self.app.gateway.stream.access.sources["start", "batch"] = self.source  # type: ignore[index]

    # What is there.

    @property
    def live(self) -> list[Known]:
        return [known for known in self.known if known.is_live]

    def kept(self, known: Known) -> bool:
        """True if a run can still be read: in flight, or ended here and kept."""
        return known.begun == self.processes and (known.is_live or known in self.ended_here)

    @property
    def ended_here(self) -> list[Known]:
        return [known for known in self.order if known.begun == self.processes]

    def of(self, viewing: Viewing) -> Known:
        return next(known for known in self.known if known.id == viewing.run)

    async def _settle(self) -> None:
        """Wait until everybody who reads has everything there is, and what has ended is put away."""

        def calm() -> bool:
            for viewing in self.viewings:
                run = self.source.runs.get(viewing.run)
                if viewing.is_open and viewing.is_reading.is_set() and not viewing._left.is_set():
                    seqs = [event["seq"] for event in viewing.saw.events]
                    if run is None or (seqs[-1] if seqs else 0) < len(run.log) or run.ended:
                        return False
                elif viewing.is_open and viewing._left.is_set():
                    return False
            live = {known.id for known in self.live}
            return {run.id for run in self.app.runs._live.values()} == live

        await eventually(calm)

    def _end(self, known: Known, code: str, authority: dict[str, str] | None = None) -> None:
        known.is_live, known.code, known.authority = False, code, authority or {}
        self.order.append(known)
        if known.user not in self.came:
            self.came.append(known.user)
        if len(self.ended_here) > KEPT:
            # The oldest of whoever has most; of equals, who came last.
            of = {user: [one for one in self.ended_here if one.user == user] for user in self.came}
            self.order.remove(of[max(reversed(self.came), key=lambda user: len(of[user]))][0])
            self.came = [user for user in self.came if any(one.user == user for one in self.ended_here)]

    # What may happen.

    any_run = st.integers(0, 1000)
    any_viewer = st.integers(0, 1000)
    user = st.sampled_from(USERS)

    @rule(user=user, case=st.sampled_from(CASES))
    def start(self, user: str, case: str) -> None:
        """A POST: a new run, or the one of the same principal that is in flight."""
        viewing = Viewing(user)
        before = {known.id for known in self.live if (known.user, known.case) == (user, case)}

        async def work() -> None:
            viewing.connect(self.app, "POST", f"/api/cases/{case}/start", case.encode())
            await eventually(lambda: viewing.run in self.source.runs)
            if not before:
                self.known.append(Known(viewing.run, user, case, self.processes))
            self.viewings.append(viewing)
            await self._settle()

        self.do(work())
        assert viewing.status == 200
        assert not before or {viewing.run} == before

    @precondition(lambda self: self.known)
    @rule(run=any_run, user=user)
    def attach(self, run: int, user: str) -> None:
        """Another viewer of a run, from the first event on; nothing for strangers."""
        known = self.known[run % len(self.known)]
        viewing = Viewing(user)

        async def work() -> None:
            viewing.connect(self.app, "GET", f"/_headgate/runs/{known.id}/events")
            await eventually(lambda: viewing.status != 0)
            if viewing.status == 200:
                self.viewings.append(viewing)
            await self._settle()

        self.do(work())
        may = user == known.user and self.kept(known)
        assert viewing.status == (200 if may else 404)
        assert may or not viewing.saw.events

    @precondition(lambda self: any(v.is_open for v in self.viewings))
    @rule(viewer=any_viewer)
    def leave(self, viewer: int) -> None:
        """A viewer goes; the run does not notice."""
        viewing = self._pick(viewer, is_open=True)

        async def work() -> None:
            viewing.leave()
            await self._settle()

        self.do(work())

    @precondition(lambda self: any(v.is_open for v in self.viewings))
    @rule(viewer=any_viewer)
    def stop_reading(self, viewer: int) -> None:
        """A viewer that takes nothing more, until it leaves or reads on."""
        self._pick(viewer, is_open=True).is_reading.clear()

    @precondition(lambda self: any(v.is_open for v in self.viewings))
    @rule(viewer=any_viewer)
    def read_on(self, viewer: int) -> None:
        viewing = self._pick(viewer, is_open=True)

        async def work() -> None:
            viewing.is_reading.set()
            await self._settle()

        self.do(work())

    @precondition(lambda self: any(not v.is_open for v in self.viewings))
    @rule(viewer=any_viewer)
    def resume(self, viewer: int) -> None:
        """Back with its cursor: what it missed, once; 204 if it has missed nothing of an ended run."""
        viewing = self._pick(viewer, is_open=False)
        known, had_all = self.of(viewing), bool(viewing.saw.terminals)
        cursor = viewing.saw.cursor
        headers = {} if cursor is None else {"last_event_id": cursor}

        async def work() -> None:
            viewing.status = 0
            viewing.connect(self.app, "GET", f"/_headgate/runs/{known.id}/events", **headers)
            await eventually(lambda: viewing.status != 0)
            await self._settle()

        self.do(work())
        assert viewing.status == (404 if not self.kept(known) else 204 if had_all else 200)

    @precondition(lambda self: self.known)
    @rule(run=any_run, user=user, times=st.integers(1, 2))
    def cancel(self, run: int, user: str, times: int) -> None:
        """DELETE, once or twice at once; it changes nothing for strangers, nor after the end."""
        known = self.known[run % len(self.known)]
        asking = [Viewing(user) for _ in range(times)]
        may, was_live = user == known.user and self.kept(known), known.is_live

        async def work() -> None:
            for one in asking:
                one.connect(self.app, "DELETE", f"/_headgate/runs/{known.id}")
            await eventually(lambda: all(one.status for one in asking))
            if may and was_live:
                self._end(known, "cancelled")
            await self._settle()

        self.do(work())
        assert {one.status for one in asking} == {202 if may else 404}

    @precondition(lambda self: self.live)
    @rule(run=any_run, section=st.integers(0, 1))
    def show(self, run: int, section: int) -> None:
        """A text becomes known."""
        self._tell(self.live[run % len(self.live)], ("show", section))

    @precondition(lambda self: self.live)
    @rule(run=any_run)
    def lose_the_source(self, run: int) -> None:
        """The live text is lost, the answer is not."""
        self._tell(self.live[run % len(self.live)], ("lose", None))

    @precondition(lambda self: self.live)
    @rule(run=any_run, failure=st.sampled_from(FAILURES))
    def fault(self, run: int, failure: UpstreamError) -> None:
        """The call fails for good."""
        known = self.live[run % len(self.live)]
        self._end(known, str(failure.fault))
        self._tell(known, ("fail", failure))

    @precondition(lambda self: self.live)
    @rule(run=any_run, texts=st.sampled_from([TEXTS, OTHER]))
    def finish(self, run: int, texts: dict[str, str]) -> None:
        """The batch answer, with the texts that were shown or with others: it has the last word."""
        known = self.live[run % len(self.live)]
        self._end(known, "done", texts)
        self._tell(known, ("answer", Answer(200, [(b"content-type", b"application/json")], answer(**texts))))

    @rule()
    def evict(self) -> None:
        """Forget every run that has ended."""

        async def work() -> None:
            bounds = self.app.runs._kept._bounds
            self.app.runs._kept._bounds = bounds.model_copy(update={"ttl_s": 0.0})
            await asyncio.sleep(0.001)  # older than nothing
            self.app.runs.evict()
            self.app.runs._kept._bounds = bounds

        self.do(work())
        self.order.clear()
        self.came.clear()

    @rule()
    def restart(self) -> None:
        """The process ends: whoever reads is told, and what was kept in it is gone."""

        async def work() -> None:
            for known in self.live:
                self._end(known, "shutdown")
            await self.stack.aclose()
            for viewing in self.viewings:
                viewing.is_reading.set()
            await self._settle()
            await self._open()

        self.do(work())
        self.order.clear()
        self.came.clear()

    def _tell(self, known: Known, step: Step) -> None:
        async def work() -> None:
            queue = self.source.queues[known.id]
            queue.put_nowait(step)
            await eventually(queue.empty)
            await self._settle()

        self.do(work())

    def _pick(self, number: int, *, is_open: bool) -> Viewing:
        found = [viewing for viewing in self.viewings if viewing.is_open is is_open]
        return found[number % len(found)]

    # What holds after each.

    @invariant()
    def every_viewer_has_a_log_without_gaps(self) -> None:
        for viewing in self.viewings:
            assert viewing.saw.problems == []
            assert of_a_log(viewing.saw.events, viewing.run) == []

    @invariant()
    def all_who_read_one_run_read_the_same(self) -> None:
        for viewing in self.viewings:
            run = self.source.runs[viewing.run]
            if viewing.is_open and viewing.is_reading.is_set():
                assert len(viewing.saw.events) == len(run.log)

    @invariant()
    def an_end_is_the_true_one(self) -> None:
        for viewing in self.viewings:
            known, terminals = self.of(viewing), viewing.saw.terminals
            assert len(terminals) <= (not known.is_live)
            for terminal in terminals:
                texts = shown(viewing.saw.events)
                if known.code == "done":
                    assert terminal["type"] == "stream_done"
                    assert texts == known.authority
                else:
                    assert terminal["metadata"]["error_code"] == known.code
                    assert terminal["metadata"]["partial"] is any(texts.values())
                    assert all(TEXTS[stage] == text for stage, text in texts.items())

    @invariant()
    def nobody_reads_what_is_not_theirs(self) -> None:
        assert all(viewing.user == self.of(viewing).user for viewing in self.viewings)

    @invariant()
    def each_run_is_one_call(self) -> None:
        assert self.source.calls == Counter(known.id for known in self.known)

    @invariant()
    def nothing_is_held_for_who_is_gone(self) -> None:
        runs = self.app.runs
        watching = Counter(viewing.run for viewing in self.viewings if viewing.is_open)
        assert {run: len(viewers) for (_, run), viewers in runs._viewers.items()} == watching
        assert runs.kept == len(self.ended_here)
        assert not runs._grace
        assert not runs._waiters
        readers = sum(len(run.log._readers) for run in self.source.runs.values())
        assert readers == watching.total()

    def teardown(self) -> None:
        async def work() -> None:
            for viewing in self.viewings:
                viewing.leave()
            await self.stack.aclose()
            me = asyncio.current_task()
            await eventually(lambda: asyncio.all_tasks() == {me})

        self.do(work())
        self.runner.close()
        self.directory.cleanup()


def test_a_request_after_a_cancel_is_another_run() -> None:
    """A user who cancels and asks again at once gets a new run, and not the end of the one before."""
    machine = AnyInterleaving()
    first, cancelling, second = (Viewing("ann") for _ in range(3))

    async def work() -> None:
        first.connect(machine.app, "POST", START, b"1")
        await eventually(lambda: bool(first.run))
        cancelling.connect(machine.app, "DELETE", f"/_headgate/runs/{first.run}")
        second.connect(machine.app, "POST", START, b"1")
        await eventually(lambda: bool(cancelling.status and second.run))

    machine.do(work())
    machine.viewings = [first, second]
    machine.teardown()

    assert second.run != first.run


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    # Without `shrink`: what fails here mostly waits for what does not come, seconds each time.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
