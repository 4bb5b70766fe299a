"""`headgate serve` is supervised: a parent that holds the ports, and workers that come and go behind them."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from proxy.observe.metrics import Metrics
from proxy.settings.settings import Settings
from proxy.workers.worker import PAUSES_S, STEADY_S, Worker, WorkerSlot, pause_s
from tests.servers.client import browser, eventually, opened, read, scrape, signed
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import ADMIN_TOKEN, flag_document
from tests.servers.streaming import (
    START,
    WHOLE,
    Held,
    Served,
    answer,
    answering,
    route,
    served,
    served_before,
)
from tests.servers.valkey_server import valkey

RELAYED = 'headgate_requests_total{mode="relay",reason="no_route",route="unmatched"}'
ADMIN = {"authorization": f"Bearer {ADMIN_TOKEN}"}
ANEW = {"connection": "close"}
"""A connection for each request."""

WORKERS = pytest.mark.parametrize("workers", ["1", "2"])


def lines(serving: Served, message: str) -> list[dict[str, Any]]:
    """The log's lines with this message."""
    said = [json.loads(line) for line in serving.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in said if line["message"] == message]


def settings_of(serving: Served) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((serving.directory / "headgate.yaml").read_text())
    return found


def write(serving: Served, **more: Any) -> None:
    """Write other settings, which the next SIGHUP reads."""
    (serving.directory / "headgate.yaml").write_text(json.dumps(settings_of(serving) | more))


async def reload(serving: Served) -> None:
    """SIGHUP, until other workers have taken over."""
    before = len(lines(serving, "reloaded"))
    serving.process.send_signal(signal.SIGHUP)
    await eventually(lambda: len(lines(serving, "reloaded")) > before, within_s=30)


async def refused(serving: Served, count: int = 1) -> list[str]:
    """SIGHUP, until the reload is refused, and the log has so many problems more; returns them."""
    before = len(problems(serving))
    serving.process.send_signal(signal.SIGHUP)
    await eventually(lambda: len(problems(serving)) >= before + count, within_s=30)
    return problems(serving)[before:]


def problems(serving: Served) -> list[str]:
    return [line["problem"] for line in lines(serving, "reload refused; the former settings hold")]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def can_listen(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, int(port)))
            listening.listen()
        except OSError:
            return False
    return True


# A worker that dies.


@WORKERS
async def test_connections_wait_while_no_worker_is_there(tmp_path: Path, workers: str) -> None:
    """All workers are killed, again and again: no connection is refused, and each worker is replaced within a
    second. The log says which worker died, and how."""
    async with served_before(answering(b"{}"), tmp_path, "--workers", workers) as (_, serving, client):
        took = []
        for _ in range(2):
            before = serving.workers()
            assert len(before) == int(workers)
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(20):
                began = asyncio.get_running_loop().time()
                assert (await client.get("/anything", headers=ANEW)).status_code == 200
                took.append(asyncio.get_running_loop().time() - began)
            await eventually(lambda: len(serving.workers()) == int(workers))
            assert not set(serving.workers()) & set(before)

    died = lines(serving, "worker died")
    assert [line["exit_code"] for line in died] == [-signal.SIGKILL] * (2 * int(workers))
    assert {line["level"] for line in died} == {"error"}
    assert min(took) < 5


def test_one_that_dies_again_and_again_is_started_with_growing_pauses() -> None:
    """At once after the first two deaths, then later and later, at most half a minute, and never given up.
    A worker that has served for a while resets the pauses."""
    assert list(PAUSES_S) == sorted(PAUSES_S)
    assert (pause_s(1), pause_s(2), pause_s(10_000)) == (0, 0, 30)

    def died_at(place: WorkerSlot, started_at: float, now: float) -> float:
        with socket.socket() as line:
            place.worker = Worker(1, line, 20, started_at, now)
            place.vacate(now)
        return place.start_at - now

    place = WorkerSlot(None)
    pauses = [died_at(place, 100, 100 + STEADY_S - 1) for _ in range(len(PAUSES_S) + 3)]
    assert pauses == [*PAUSES_S, *[PAUSES_S[-1]] * 3]
    assert died_at(place, 100, 100 + STEADY_S) == 0


async def test_who_is_killed_at_once_is_started_later_and_later(tmp_path: Path) -> None:
    """Five workers killed as soon as they start: the log has each death, and the pause after it."""
    async with served_before(answering(b"{}"), tmp_path) as (_, serving, _):
        for _ in range(5):
            await eventually(lambda: bool(serving.workers()))
            os.kill(serving.workers()[0], signal.SIGKILL)
            deaths = len(lines(serving, "worker died"))
            await eventually(lambda deaths=deaths: len(lines(serving, "worker died")) > deaths)  # type: ignore[misc]
        async with browser(serving.url) as client:
            assert (await client.get("/anything")).status_code == 200

    died = lines(serving, "worker died")
    assert [line["deaths_in_a_row"] for line in died] == [1, 2, 3, 4, 5]
    assert [line["next_start_in_s"] for line in died] == list(PAUSES_S[:5])


async def answered_by_another(serving: Served, pid: int) -> bool:
    """Whether another process than this one answers on the admin port."""
    async with browser(serving.admin_url) as client:
        answering: int = (await client.get("/runs")).json()["process"]
    return answering != pid


async def test_a_worker_that_somebody_ends_is_replaced_before_it_has_drained(tmp_path: Path) -> None:
    """SIGTERM for the one worker alone: its stream goes on to its end, while another one serves."""
    held = Held(answering(answer()))
    async with served_before(held, tmp_path, routes=[route(commit_after=0)]) as (_, serving, client):
        (before,) = serving.workers()
        async with opened(client, START, signed(**ANEW)) as stream:
            await stream.piece()
            os.kill(before, signal.SIGTERM)
            await eventually(partial(answered_by_another, serving, before))  # until then both may answer
            [pid] = set(serving.workers()) - {before}
            held.release.set()
            await stream.rest()
        await eventually(lambda: serving.workers() == [pid])

    assert pid != before
    assert stream.texts() == WHOLE


async def test_a_worker_that_takes_over_while_the_flags_are_broken_relays(tmp_path: Path) -> None:
    """It has no flags, so everybody gets batch, until the file is mended."""
    async with served_before(answering(answer()), tmp_path) as (_, serving, client):
        client.headers.update(ANEW)
        (tmp_path / "flags.json").write_text("{")
        os.kill(serving.workers()[0], signal.SIGKILL)
        await eventually(lambda: bool(lines(serving, "worker died")))
        broken = await read(client, START, signed())
        (tmp_path / "flags.json").write_text(json.dumps(flag_document()))

        async def streams() -> bool:
            decided: str = (await read(client, START, signed())).headers["headgate-decision"]
            return decided.startswith("stream;")

        await eventually(streams)

    assert broken.headers["headgate-decision"].startswith("batch;reason=flags_stale")
    assert broken.texts() == WHOLE


async def test_what_cannot_begin_ends_with_what_is_wrong(tmp_path: Path) -> None:
    """A kill switch that cannot be: exit code 1, and no further attempt, since no worker has ever served."""
    (tmp_path / "file").touch()
    (tmp_path / "flags.json").write_text(json.dumps(flag_document()))
    config = tmp_path / "headgate.yaml"
    document = {
        "listen": f"127.0.0.1:{free_port()}",
        "admin": f"127.0.0.1:{free_port()}",
        "upstream": {"url": "http://127.0.0.1:1"},
        "flags": {"file": "flags.json", "kill_file": "file/switch"},
    }
    config.write_text(json.dumps(document))

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--config", str(config), "--workers", "2"),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        _, said = await process.communicate()

    assert process.returncode == 1
    last = json.loads(said.splitlines()[-1])
    assert last["message"] == "headgate cannot start; what the worker said is above"
    assert b"kill switch" in said


# A parent that is gone.


@WORKERS
async def test_workers_do_not_outlive_their_parent(tmp_path: Path, workers: str) -> None:
    """SIGKILL for the parent alone: all of them let go of the ports at once, though streams are open; those
    have the drain to their end, and then no process is left, nor what the parent would have removed."""
    model = f"127.0.0.1:{free_port()}"
    llm = {"listen": model, "providers": [{"name": "models", "url": "http://127.0.0.1:1"}]}
    held = Held(answering(answer()))
    more = {"routes": [route(commit_after=0)], "llm": llm}
    async with served_before(held, tmp_path, "--workers", workers, **more) as (_, serving, client):
        there = serving.workers()
        directory = metric_files(serving)[0].parent.parent
        async with AsyncExitStack() as stack:
            streams = []
            for number in range(8):  # so that each worker has some
                opening = opened(client, START, signed(f"user{number}", **ANEW))
                streams.append(await stack.enter_async_context(opening))
                await streams[-1].piece()
            serving.process.kill()
            await serving.process.wait()
            for address in (
                *(url.removeprefix("http://") for url in (serving.url, serving.admin_url)),
                model,
            ):
                await eventually(lambda address=address: can_listen(address))  # type: ignore[misc]
            draining = [pid for pid in there if is_alive(pid)]
            held.release.set()
            for stream in streams:
                await stream.rest()
        await eventually(lambda: not any(map(is_alive, there)))

    assert len(there) == int(workers)
    assert draining == there
    assert [stream.texts() for stream in streams] == [WHOLE] * 8
    assert {stream.last["type"] for stream in streams} == {"stream_done"}
    assert len(lines(serving, "the parent process is gone")) == int(workers)
    assert not directory.exists()


async def test_a_second_interrupt_ends_everything_at_once(tmp_path: Path) -> None:
    """The first SIGINT drains; the second does not wait for the stream that is open."""
    held, routes = Held(answering(answer())), [route(commit_after=0)]
    async with served_before(held, tmp_path, routes=routes) as (_, serving, client):
        there = serving.workers()
        async with opened(client, START, signed()) as stream:
            await stream.piece()
            serving.process.send_signal(signal.SIGINT)
            await eventually(lambda: bool(lines(serving, "draining")))
            assert serving.process.returncode is None
            serving.process.send_signal(signal.SIGINT)
            async with asyncio.timeout(20):
                code = await serving.process.wait()
            with pytest.raises(httpx.HTTPError):
                await stream.rest()

    assert code == 128 + signal.SIGINT
    assert not any(map(is_alive, there))
    assert stream.types == []


# Other settings.


@WORKERS
async def test_new_settings_are_served_after_a_reload(tmp_path: Path, workers: str) -> None:
    """Other workers, with the settings as they are now; the stream of before goes on to its end."""
    held = Held(answering(answer()))
    async with (
        served_before(
            held, tmp_path, "--workers", workers, routes=[route(commit_after=0)], admin_token=None
        ) as (_, serving, client),
        browser(serving.admin_url) as ops,
    ):
        before = serving.workers()
        ops.headers.update(ANEW)
        assert (await ops.post("/kill", headers=ADMIN)).status_code == 403
        async with opened(client, START, signed(**ANEW)) as stream:
            await stream.piece()
            write(serving, admin_token=ADMIN_TOKEN)
            await reload(serving)
            after = set(serving.workers()) - set(before)
            # A worker of before may take a connection until it hears that it is to let go.
            await eventually(lambda: _is_each(ops, 200), within_s=30)
            held.release.set()
            await stream.rest()
        await eventually(lambda: set(serving.workers()) == after)

    assert len(after) == int(workers)
    assert stream.texts() == WHOLE
    assert stream.last["type"] == "stream_done"


async def _is_each(ops: httpx.AsyncClient, status: int) -> bool:
    return [(await ops.post("/kill", headers=ADMIN)).status_code for _ in range(5)] == [status] * 5


async def test_settings_that_are_wrong_change_nothing(tmp_path: Path) -> None:
    """The log and the page have every problem, and the same workers go on: settings or flags that cannot be
    read, and addresses, which only a restart changes. Once the file is mended, it is in force."""
    async with served_before(answering(b"{}"), tmp_path) as (_, serving, client):
        there = serving.workers()
        good = settings_of(serving)
        said = []
        elsewhere = {
            "listen": "127.0.0.1:1",
            "admin": "127.0.0.1:2",
            "llm": {"providers": [{"name": "m", "url": "http://m"}]},
        }
        for bad, count in (({"listen": "nowhere", "log": {"levl": "info"}}, 2), (elsewhere, 3)):
            write(serving, **bad)
            said.append(await refused(serving, count))
            (serving.directory / "headgate.yaml").write_text(json.dumps(good))
        (serving.directory / "headgate.yaml").write_text("{")
        said.append(await refused(serving))
        (serving.directory / "headgate.yaml").write_text(json.dumps(good))
        (serving.directory / "other.json").write_text("{")
        write(serving, flags={"file": "other.json"})
        await refused(serving)
        broken = [line["problem"] for line in lines(serving, "worker cannot start")]
        answered = (await client.get("/anything")).status_code
        kept = serving.workers()
        (serving.directory / "other.json").write_text(json.dumps(flag_document()))
        await reload(serving)
        page = (await client.get(f"{serving.admin_url}/warnings", headers=ADMIN)).json()["warnings"]

    assert [[problem.partition(":")[2].split(":")[0].strip() for problem in told] for told in said[:2]] == [
        ["listen", "log.levl"],
        ["listen", "admin", "llm.listen"],
    ]
    assert said[0][1] == "headgate.yaml: log.levl: unknown setting; did you mean 'level'?"
    assert len(said[2]) == 1 and "not YAML" in said[2][0]
    assert len(broken) == 1 and "other.json" in broken[0]
    assert answered == 200
    assert kept == there
    told = [line["fields"]["problem"] for line in page if line["message"].startswith("reload refused")]
    assert set(told) == set(problems(serving)), "the operators' page has it, too, under the next settings"


async def test_a_request_on_a_kept_connection_is_not_lost_by_a_reload(tmp_path: Path) -> None:
    """An idle connection gets one more answer, with `connection: close`."""
    async with served_before(answering(b"{}"), tmp_path) as (_, serving, _):
        host, _, port = serving.url.removeprefix("http://").partition(":")
        kept = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        first = await asked(*kept[0])
        await reload(serving)
        last = [await asked(*connection) for connection in kept]
        rest = [await asyncio.wait_for(reader.read(), 5) for reader, _ in kept]
        for _, writer in kept:
            writer.close()

    assert b"connection: close" not in first
    assert [head.split(b"\r\n")[0] for head in last] == [b"HTTP/1.1 200 OK"] * 2
    assert all(b"\r\nconnection: close\r\n" in head for head in last)
    assert rest == [b"", b""]


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """A request on a connection that stays; the head of its answer."""
    writer.write(b"GET /anything HTTP/1.1\r\nhost: headgate\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    found = re.search(rb"content-length: (\d+)", head)
    assert found, head
    await reader.readexactly(int(found[1]))
    return head


async def test_an_upgraded_connection_stays_through_a_reload(tmp_path: Path) -> None:
    """Both sides go on talking as long as the drain lasts."""

    async def echo(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n")
        while said := await asked.reader.read(100):
            await asked.send(said)
        asked.writer.close()

    async with served_before(echo, tmp_path) as (_, serving, _):
        host, _, port = serving.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nhost: headgate\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        await reload(serving)
        writer.write(b"still there?")
        echoed = await asyncio.wait_for(reader.readexactly(12), 10)
        writer.close()
        await eventually(lambda: len(serving.workers()) == 1)

    assert head.startswith(b"HTTP/1.1 101 ")
    assert echoed == b"still there?"


async def test_with_a_store_viewers_are_sent_to_the_new_workers(tmp_path: Path) -> None:
    """A reload in the middle of a stream: it is cut where it can be resumed, the run goes on in the worker of
    before, and the client has all of it from the new one. The upstream is asked once."""
    held = Held(answering(answer()))
    async with valkey(tmp_path) as store, ScriptedUpstream(held).running() as upstream:
        more = {"url": store.url, "key": "a key for the tests that is long enough"}
        async with (
            served(
                upstream.url, tmp_path, routes=[route(commit_after=0)], event_log={"valkey": more}
            ) as serving,
            browser(serving.url) as client,
        ):
            async with opened(client, START, signed()) as stream:
                await stream.piece()
                await reload(serving)
                with pytest.raises(httpx.RemoteProtocolError):
                    await stream.rest()
            url = f"/_headgate/runs/{stream.run}/events"
            async with opened(client, url, signed(), method="GET") as again:
                await again.piece()
                held.release.set()
                await again.rest()

    assert re.findall(rb"retry: \d+\n$", stream.raw)
    assert again.texts() == WHOLE
    assert again.last["type"] == "stream_done"
    assert len(upstream.asked) == 1


# What outlives a worker.


async def test_the_kill_switch_holds_over_deaths_and_reloads(tmp_path: Path) -> None:
    """Engaged once, it is on in every worker that comes. A reload that would name another file is refused
    meanwhile, since that would release it."""
    async with served_before(answering(answer()), tmp_path) as (_, serving, client):
        client.headers.update(ANEW)
        await client.post(f"{serving.admin_url}/kill", headers=ADMIN)
        decided = []
        for change in (lambda: os.kill(serving.workers()[0], signal.SIGKILL), None):
            if change is not None:
                change()
                await eventually(lambda: bool(lines(serving, "worker died")))
            else:
                await reload(serving)
            decided.append((await read(client, START, signed())).headers["headgate-decision"])
        write(serving, flags={"file": "flags.json", "kill_file": "switch"})
        said = await refused(serving)
        await client.delete(f"{serving.admin_url}/kill", headers=ADMIN)
        await reload(serving)

    assert [told.partition(";source")[0] for told in decided] == ["batch;reason=killed"] * 2
    assert len(said) == 1 and said[0].startswith("headgate.yaml: flags.kill_file: ")


async def test_counters_go_on_over_deaths_and_reloads(tmp_path: Path) -> None:
    """One worker's counts are in the next one's page, once; open streams of the dead are not.
    The page says when all of it began, and not when the worker did that answers."""
    before_s = time.time()
    async with served_before(answering(b"{}"), tmp_path) as (_, serving, client):
        client.headers.update(ANEW)
        pages = [await scrape(client, serving.admin_url)]
        sent = 0

        async def counted() -> bool:
            return (await scrape(client, serving.admin_url))[RELAYED] == sent

        for change in range(4):
            for _ in range(3):
                await client.get(f"{serving.url}/anything")
                sent += 1
            # A request is counted after its answer: a worker that is killed in between never counts it.
            await eventually(counted)
            if change % 2:
                await reload(serving)
            else:
                (pid,) = serving.workers()
                os.kill(pid, signal.SIGKILL)
                await eventually(lambda pid=pid: pid not in serving.workers())  # type: ignore[misc]
            pages += [await scrape(client, serving.admin_url) for _ in range(5)]
            await eventually(lambda: len(serving.workers()) == 1)
        # Five of the one that lives, and two of all that have died.
        await eventually(lambda: len(metric_files(serving)) == 7)
        files = {path.name.partition("_")[0] for path in metric_files(serving)}

    assert pages[-1][RELAYED] == sent
    assert pages[-1]['headgate_request_seconds_count{mode="relay",route="unmatched"}'] == sent
    counters = [name for name in pages[0] if re.search(r"_(total|count|bucket)\b", name)]
    for earlier, later in pairwise(pages):
        assert all(later[name] >= earlier[name] for name in counters)
    assert {frozenset(page) for page in pages} == {frozenset(pages[0])}
    assert files == {"counter", "histogram", "gauge"}
    [began_s] = {page["process_start_time_seconds"] for page in pages}
    assert before_s - 1 <= began_s <= time.time()


def metric_files(serving: Served) -> list[Path]:
    """Of the workers, in the directory that they share."""
    # Of all workers: one is ready, but the first one may not have begun yet.
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in serving.workers())
    found = re.search(r"\S+/metrics/counter_\d+\.db", maps)
    assert found
    return list(Path(found[0]).parent.glob("*.db"))


async def test_one_worker_shows_what_a_process_of_its_own_would(tmp_path: Path) -> None:
    """Every sample of the registry, and no other: names and labels."""
    async with served_before(answering(b"{}"), tmp_path) as (_, serving, client):
        settings = Settings.model_validate(settings_of(serving) | {"flags": {"file": "flags.json"}})
        registry = CollectorRegistry()
        Metrics(registry, settings.routes)
        own = {
            (sample.name, frozenset(sample.labels.items()))
            for family in registry.collect()
            for sample in family.samples
        }
        page = await scrape(client, serving.admin_url)

    shown = set()
    for sample in page:
        name, _, labels = sample.partition("{")
        shown.add((name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))))
    assert shown == own
