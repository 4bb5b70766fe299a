"""Two releases on one store, as in the middle of an upgrade: what one has written, the other reads.

`recorded_store.json` has a whole run as release 0.1 left it in the store. It stays as it is: a release that
must write runs in another way adds a record of its own, and reads both.
"""

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.replicas.store.sealing import Sealing
from tests.servers.client import SSE, browser, eventually, read, texts
from tests.servers.serving import gated
from tests.servers.streaming import START, WHOLE, answer, answering, route
from tests.servers.valkey_server import ValkeyServer

RECORDED = json.loads(Path(__file__).with_name("recorded_store.json").read_text(encoding="utf-8"))
RUN = RECORDED["run"]
META = f"headgate:run:{RUN}"
BOX = Sealing(RECORDED["key"]).box(f"run {RUN}")
TTL_MS = 600_000
USER = {"accept": SSE, "x-user": "ann"}

Change = Callable[[dict[str, Any]], dict[str, Any]]


def fields_of(sealed: bytes, run: str = RUN) -> dict[str, Any]:
    """The fields of a run's meta, as they are in the store."""
    found: dict[str, Any] = orjson.loads(Sealing(RECORDED["key"]).box(f"run {run}").open("meta", 0, sealed))
    return found


async def put(server: ValkeyServer, change: Change) -> None:
    """Put the recorded run into the store, with its meta changed."""
    async with server.client() as store:
        for name, record in RECORDED["keys"].items():
            if record["type"] == "stream":
                for entry_id, fields in record["entries"]:
                    values = {field: base64.b64decode(value) for field, value in fields.items()}
                    await store.xadd(name, values, id=entry_id)
                await store.pexpire(name, TTL_MS)
            else:
                value = base64.b64decode(record["value"])
                if name == META:
                    value = BOX.seal("meta", 0, orjson.dumps(change(fields_of(value))))
                await store.set(name, value, px=TTL_MS)


def as_it_was(fields: dict[str, Any]) -> dict[str, Any]:
    return fields


def of_a_newer_release(fields: dict[str, Any]) -> dict[str, Any]:
    """With a field that this release does not know."""
    return {**fields, "colour": "blue"}


def without_its_route(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "route"}


def shared(server: ValkeyServer) -> Mapping[str, Any]:
    return {
        "event_log": {"valkey": {"url": server.url, "key": RECORDED["key"]}},
        "identity": {"jwt": None, "header": "x-user"},
        "routes": [route(commit_after=0)],
    }


@pytest.mark.parametrize(
    ("change", "status"), [(as_it_was, 200), (of_a_newer_release, 200), (without_its_route, 404)]
)
async def test_a_run_of_another_release_is_shown(
    tmp_path: Path, server: ValkeyServer, change: Change, status: int
) -> None:
    """Of the one before, and of one after with more fields; without a field that is needed it is none."""
    await put(server, change)
    async with (
        gated(answering(answer()), tmp_path, attach_wait_s=0.1, **shared(server)) as (upstream, gate),
        browser() as client,
    ):
        url = f"{gate.url}/_headgate/runs/{RUN}/events"
        if status == 200:
            assert texts((await read(client, url, USER, method="GET")).events) == WHOLE
        else:
            assert (await client.get(url, headers=USER)).status_code == status
        assert (await client.get(url, headers={**USER, "x-user": "bob"})).status_code == 404
        assert not upstream.asked


async def test_the_release_before_reads_what_this_one_writes(tmp_path: Path, server: ValkeyServer) -> None:
    """A run's meta has the recorded fields and no more: release 0.1 takes no other. Entries have its form."""
    async with (
        gated(answering(answer()), tmp_path, **shared(server)) as (_, gate),
        browser() as client,
        server.client() as store,
    ):
        run = (await read(client, gate.url + START, USER)).headers["headgate-run"]
        await eventually(lambda: store.exists(f"headgate:run:{run}:end"))
        written = await store.get(f"headgate:run:{run}")
        entries = await store.xrange(f"headgate:run:{run}:log")

    recorded = base64.b64decode(RECORDED["keys"][META]["value"])
    assert fields_of(written, run).keys() == fields_of(recorded).keys()
    before = RECORDED["keys"][f"{META}:log"]["entries"]
    assert len(entries) == len(before)
    assert {name.decode() for _, fields in entries for name in fields} == {
        name for _, fields in before for name in fields
    }
