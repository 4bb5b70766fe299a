"""One process and several: they drain, they are restarted, and they stop."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from proxy.app import running
from proxy.serving import listening
from proxy.settings.settings import Settings
from proxy.workers.sockets import Sockets
from tests.servers.client import browser, eventually, opened, read, scrape, signed
from tests.servers.ports import free_socket
from tests.servers.scripted import ScriptedUpstream
from tests.servers.serving import flag_document
from tests.servers.streaming import START, Held, answer, answering, route, served_before

VIEWERS = 'headgate_viewers{route="start"}'
ANEW = {"connection": "close"}
"""A connection for each request, so that every worker gets some."""


async def test_a_stream_that_outlasts_the_drain_is_told_the_truth(tmp_path: Path) -> None:
    """After its time there is one `error` with `shutdown`, which can be retried, then the end."""
    held = Held(answering(answer()))
    (tmp_path / "flags.json").write_text(json.dumps(flag_document()))
    async with ScriptedUpstream(held).running() as upstream:
        settings = Settings.model_validate(
            {
                "upstream": {"url": upstream.url},
                "flags": {"file": str(tmp_path / "flags.json")},
                "routes": [route(commit_after=0)],
            }
        )
        public, admin = free_socket(), free_socket()
        url, admin_url = (f"http://127.0.0.1:{port.getsockname()[1]}" for port in (public, admin))
        loop = asyncio.get_running_loop()
        async with browser(url) as client, running(settings, tmp_path) as app:
            leave, left = asyncio.Event(), asyncio.Event()

            async def serve() -> None:
                async with listening(app, settings, Sockets(public, admin), drain_s=2):
                    await leave.wait()
                left.set()

            serving = asyncio.create_task(serve())
            async with opened(client, START, signed()) as stream:
                await stream.piece()
                began = loop.time()
                leave.set()

                async def draining() -> bool:
                    return (await client.get(f"{admin_url}/readyz")).status_code == 503

                await eventually(draining, within_s=1.9)
                await stream.rest()
            await asyncio.wait_for(left.wait(), 20)
            took = loop.time() - began
            await serving

    assert stream.types == ["error"]
    assert stream.last["metadata"] == {
        "error_code": "shutdown",
        "retry_available": True,
        "partial": False,
        "status": 503,
    }
    assert 2 <= took < 20


async def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """Another one takes its place; its counts stay, its open streams are no longer counted."""
    held, routes = Held(answering(answer())), [route(commit_after=0)]
    async with served_before(held, tmp_path, "--workers", "2", routes=routes) as (_, serving, client):
        client.headers.update(ANEW)

        async def processes(wanted: int, without: int = 0) -> set[int]:
            found: set[int] = set()

            async def all_seen() -> bool:
                found.add((await client.get(f"{serving.admin_url}/runs")).json()["process"])
                return len(found - {without}) == wanted

            await eventually(all_seen)
            return found - {without}

        before = await processes(2)
        async with opened(client, START, signed()) as stream:
            await stream.piece()

            async def owner() -> int | None:
                counts = (await client.get(f"{serving.admin_url}/runs")).json()
                return int(counts["process"]) if counts["live"] else None

            pid = None
            async with asyncio.timeout(10):
                while (pid := await owner()) is None:
                    pass
            assert (await scrape(client, serving.admin_url))[VIEWERS] == 1
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(Exception, match=r"peer closed|incomplete|disconnected"):
                await stream.rest()
        after = await processes(2, without=pid)

        async def forgotten() -> bool:
            return (await scrape(client, serving.admin_url))[VIEWERS] == 0

        await eventually(forgotten)
        held.release.set()
        again = await read(client, START, signed())
        serving.process.terminate()
        async with asyncio.timeout(10):
            code = await serving.process.wait()

    assert len(before & after) == 1
    assert pid in before - after
    assert again.last["type"] == "stream_done"
    assert "stream_done" not in stream.types
    assert code == 0
    assert not [pid for pid in before | after if _alive(pid)]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
