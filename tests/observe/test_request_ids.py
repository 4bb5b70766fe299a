"""A request is found in the log by its ids: in its own line, in its run's, and where something failed."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from proxy.observe.spans.request_ids import ids_of
from tests.servers.client import eventually, read, scrape, signed
from tests.servers.scripted import Asked
from tests.servers.streaming import START, Held, Lines, answer, answering, house, logged

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
IDS = {"traceparent": PARENT, "x-request-id": "req-0017"}


def of(lines: Lines, message: str) -> dict[str, Any]:
    """The one line that says this."""
    [line] = lines(message)
    return line


async def broken(asked: Asked) -> None:
    await asked.read_body()
    asked.writer.close()


async def test_a_streamed_request_and_its_run_name_each_other(tmp_path: Path) -> None:
    """Both lines have the ids, and the status; the request's names the run."""
    with logged() as lines:
        async with house(answering(answer()), tmp_path) as (_, _, client):
            await read(client, START, headers=signed(**IDS))
            await eventually(lambda: len(lines.lines) >= 2)
        request, run = of(lines, "request"), of(lines, "run ended")

    assert (
        (request["request"], request["trace_id"]) == (run["request"], run["trace_id"]) == ("req-0017", TRACE)
    )
    assert request["run"] == run["run"]
    assert request["status"] == run["status"] == 200


async def test_a_batch_request_has_its_status_and_no_run(tmp_path: Path) -> None:
    """It is relayed. Its random id is there for the log alone: the upstream does not get it."""
    with logged() as lines:
        async with house(answering(b"{}", b"404 Not Found"), tmp_path) as (upstream, _, client):
            await client.post(START, headers=signed(accept=None))
            line = of(lines, "request")

    assert line["status"] == 404
    assert "run" not in line and "trace_id" not in line
    assert len(line["request"]) == 16
    assert upstream.asked[0].header(b"x-request-id") is None


async def test_a_request_of_no_route_has_a_line_in_a_log_of_that_level_alone(tmp_path: Path) -> None:
    """It is for `debug`, and has the request's ids, its outcome and its status."""
    for level, count in ((logging.DEBUG, 1), (logging.INFO, 0)):
        with logged() as lines:
            logging.getLogger("headgate").setLevel(level)
            async with house(answering(b"{}", b"404 Not Found"), tmp_path) as (_, _, client):
                await client.get("/elsewhere", headers=IDS)
            found = lines("relayed")

        assert len(found) == count
        for line in found:
            assert (line["request"], line["trace_id"]) == ("req-0017", TRACE)
            assert (line["outcome"], line["status"]) == ("complete", 404)


async def test_a_run_has_the_ids_of_the_request_that_began_it(tmp_path: Path) -> None:
    """Others join it with their own, and their lines name the run."""
    held = Held(answering(answer()))
    with logged() as lines:
        async with house(held, tmp_path) as (_, serving, client):

            async def two_watch() -> bool:
                return (await scrape(client, serving.admin_url))['headgate_viewers{route="start"}'] == 2

            first = asyncio.create_task(read(client, START, headers=signed(**IDS)))
            await held.come.wait()
            second = asyncio.create_task(read(client, START, headers=signed(**{"x-request-id": "req-0018"})))
            await eventually(two_watch)
            held.release.set()
            await asyncio.gather(first, second)
            await eventually(lambda: len(lines.lines) >= 3)
        run = of(lines, "run ended")
        requests = {line["request"]: line["run"] for line in lines("request")}

    assert run["request"] == "req-0017"
    assert requests == {"req-0017": run["run"], "req-0018": run["run"]}


@pytest.mark.parametrize("path", [START, "/elsewhere"])
async def test_a_failure_of_the_upstream_has_the_ids(tmp_path: Path, path: str) -> None:
    """On a route, and where there is none."""
    with logged() as lines:
        async with house(broken, tmp_path) as (_, _, client):
            await client.post(path, headers=signed(accept=None, **IDS))
        line = of(lines, "upstream failed")

    assert (line["request"], line["trace_id"]) == ("req-0017", TRACE)


@pytest.mark.parametrize(
    "value",
    [
        "7f9c24e8-3b1a-4d5e-9c0f-1a2b3c4d5e6f",
        "1-67891233-abcdef012345678912345678",
        "a" * 63 + "1",
    ],
)
def test_what_looks_like_an_id_is_logged(value: str) -> None:
    assert ids_of([(b"x-request-id", value.encode())]).request == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Miller",
        "Anna Miller 1980",
        "short1",
        "a" * 64 + "1",
        "12345678\n",
        "no-digit-in-it",
        "a1\xff" * 9,
    ],
)
def test_what_does_not_look_like_an_id_is_not(value: str) -> None:
    """A header that clients fill is a place for names, too."""
    assert ids_of([(b"x-request-id", value.encode("latin-1"))]).request is None


@pytest.mark.parametrize(
    "parent", ["", "00-x", PARENT.upper(), f"ff{PARENT[2:]}", PARENT.replace(TRACE, "0" * 32)]
)
def test_a_trace_context_that_is_none_has_no_id(parent: str) -> None:
    """W3C Trace Context 3.2.2."""
    assert ids_of([(b"traceparent", parent.encode())]).trace_id is None
